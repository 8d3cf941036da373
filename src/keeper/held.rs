//! What is held: the bytes of offers, which may have secrets, and their sockets.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use zeroize::Zeroizing;

use crate::{
    actors::handover::exchange::LOOK_INTERVAL,
    protocols::handover::outline::{Offered, Outline},
    sys::{
        descriptors,
        handed_socket::{check_connected, reset},
    },
};

/// The most connections and tunnels that are held.
/// Limit: connections and tunnels that the keeper holds: 32768; past it: a further one is refused, and stays where it was.
const MAX_HELD: usize = 32 * 1024;
/// The most bytes that are held.
/// Limit: bytes of connections and tunnels that the keeper holds: 64 MiB; past it: a further one is refused, and stays
/// where it was.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The room that a message may waste before it is copied into less.
/// Limit: unused room of a message that the keeper holds: 4 KiB; past it: the message is copied.
const MAX_WASTE: usize = 4 * 1024;

/// An offer that nobody has taken yet. Its bytes are wiped when it is dropped.
pub(super) struct Held {
    pub(super) message: Zeroizing<Vec<u8>>,
    pub(super) sockets: Vec<OwnedFd>,
    pub(super) number: u64,
    pub(super) outline: Outline,
    /// When its time is over.
    until: Instant,
    _weight: Weight,
}

/// Everything that is held.
pub(super) struct Store {
    hold: Duration,
    waiting: Mutex<VecDeque<Held>>,
    totals: Arc<Mutex<Totals>>,
    changed: Notify,
    taken: AtomicU64,
    given: AtomicU64,
    closed: AtomicU64,
}

/// How much is held, what is on its way included.
#[derive(Default)]
struct Totals {
    offers: usize,
    connections: usize,
    bytes: usize,
}

/// The part of an offer in the totals.
struct Weight {
    totals: Arc<Mutex<Totals>>,
    connections: usize,
    bytes: usize,
}

// === impl Store ===

impl Store {
    /// A store that holds each offer for so long.
    pub(super) fn new(hold: Duration) -> Self {
        Self {
            hold,
            waiting: Mutex::default(),
            totals: Arc::default(),
            changed: Notify::new(),
            taken: AtomicU64::new(0),
            given: AtomicU64::new(0),
            closed: AtomicU64::new(0),
        }
    }

    /// Makes room for an offer. The offer is held once it is [`put`](Self::put).
    ///
    /// # Errors
    /// The offer cannot be held; the text says why.
    pub(super) fn admit(
        &self,
        message: Zeroizing<Vec<u8>>,
        sockets: Vec<OwnedFd>,
        Offered { number, outline }: Offered,
    ) -> Result<Held, String> {
        let outline = outline.map_err(|bad| bad.to_string())?;
        if sockets.len() != outline.sockets {
            return Err(format!("{} descriptors in the place of {}", sockets.len(), outline.sockets));
        }
        sockets.iter().try_for_each(check_connected).map_err(|bad| bad.to_string())?;
        if descriptors::left() == 0 {
            return Err("the keeper has no descriptors left".to_owned());
        }
        let weight = self.weigh(outline.connections, message.len())?;
        let message = fitted(message);
        Ok(Held { message, sockets, number, outline, until: Instant::now() + self.hold, _weight: weight })
    }

    fn weigh(&self, connections: usize, bytes: usize) -> Result<Weight, String> {
        let mut totals = self.totals.lock();
        if totals.offers >= MAX_HELD {
            return Err(format!("the keeper holds {MAX_HELD} connections and tunnels already"));
        }
        if totals.bytes + bytes > MAX_BYTES {
            return Err(format!("the keeper holds {} bytes already", totals.bytes));
        }
        totals.offers += 1;
        totals.connections += connections;
        totals.bytes += bytes;
        Ok(Weight { totals: self.totals.clone(), connections, bytes })
    }

    /// Holds an offer from now on.
    pub(super) fn put(&self, held: Held) {
        self.taken.fetch_add(held.outline.connections as u64, Relaxed);
        self.put_back(held);
    }

    /// Holds on to an offer that was on its way.
    pub(super) fn put_back(&self, held: Held) {
        self.waiting.lock().push_back(held);
        self.changed.notify_waiters();
    }

    /// Takes out the offer that has waited longest.
    pub(super) fn next(&self) -> Option<Held> {
        self.waiting.lock().pop_front()
    }

    /// Forgets an offer that another process has taken. The sockets are dropped, which does nothing to them.
    pub(super) fn forget(&self, held: Held) {
        self.given.fetch_add(held.outline.connections as u64, Relaxed);
        drop(held);
        self.changed.notify_waiters();
    }

    /// The number of offers that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    /// The number of connections that are held.
    pub(super) fn connections(&self) -> usize {
        self.totals.lock().connections
    }

    /// Waits until something waits.
    pub(super) async fn filled(&self) {
        self.until(|| self.waiting() > 0).await;
    }

    /// Waits until nothing is held.
    pub(super) async fn emptied(&self) {
        self.until(|| self.totals.lock().offers == 0).await;
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            if holds() {
                return;
            }
            changed.await;
        }
    }

    /// Resets what nobody has taken in time. Never ends.
    pub(super) async fn expire(&self) {
        loop {
            self.filled().await;
            let first = self.waiting.lock().iter().map(|held| held.until).min();
            sleep_until(first.unwrap_or_else(Instant::now)).await;
            let now = Instant::now();
            let over = {
                let mut all = self.waiting.lock();
                let (over, waiting) = all.drain(..).partition(|held| held.until <= now);
                *all = waiting;
                over
            };
            self.close(over, "nobody has taken them in time");
            // An offer that is on its way may be over as well.
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Resets everything that waits.
    pub(super) fn close_all(&self) {
        let all = std::mem::take(&mut *self.waiting.lock());
        self.close(all, "the keeper ends");
    }

    fn close(&self, over: VecDeque<Held>, why: &str) {
        if over.is_empty() {
            return;
        }
        let mut connections = 0;
        for Held { sockets, outline, .. } in over {
            connections += outline.connections;
            sockets.into_iter().for_each(reset);
        }
        self.closed.fetch_add(connections as u64, Relaxed);
        tracing::warn!(target: "keeper", connections, "connections are reset: {why}");
        self.changed.notify_waiters();
    }

    /// The connections that were taken, given to a proxy, and reset.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        (self.taken.load(Relaxed), self.given.load(Relaxed), self.closed.load(Relaxed))
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        let mut totals = self.totals.lock();
        totals.offers -= 1;
        totals.connections -= self.connections;
        totals.bytes -= self.bytes;
    }
}

/// The message in no more room than it needs. What is outgrown is wiped.
fn fitted(message: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if message.capacity() - message.len() <= MAX_WASTE {
        return message;
    }
    Zeroizing::new(message.to_vec())
}

#[cfg(test)]
pub(crate) mod tests;

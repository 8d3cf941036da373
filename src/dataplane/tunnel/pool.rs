//! The tunnel pool of a pod on one shard. A stream opens without a message to an actor if a tunnel has room.
//!
//! Streams that find no room wait in line. A place that becomes free goes to the first in line, whether a dial gave it
//! or another stream left it.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use foldhash::{HashMap, HashSet};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tracing::Instrument;

use super::{
    dialer::{DialError, Dialer, TunnelKey},
    streams::Streams,
};
use crate::{
    protocols::hbone::client::Opener,
    runtime::{fair_queue::Backlog, shard::Shard},
};

/// The number of dials to one peer at a time on one shard.
/// Limit: dials to a peer at a time, on each shard: 16, or 1 before the first tunnel; past it: streams wait for a dial.
const MAX_DIALS_AT_ONCE: usize = 16;
/// The number of streams that a tunnel is expected to take before the first tunnel to the peer has told.
/// No limit: the default of POOL_MAX_STREAMS_PER_CONNECTION.
const EXPECTED_STREAMS: usize = 100;
/// How long a stream waits in line. The steps of a dial take less, and a burst of streams takes several dials.
/// Limit: wait of a stream for a place on a tunnel: 60 s; past it: the stream fails: every tunnel to the peer is full.
const PLACE_WITHIN: Duration = Duration::from_secs(60);
/// The number of dials lost with their tasks that a stream outlives.
/// Limit: dials that are lost with their tasks, for one stream: 3; past it: the stream fails.
const MAX_LOST_DIALS: usize = 3;

/// The pools of all pods on one shard, by the pod's serial number.
#[derive(Default)]
struct Pools(RefCell<HashMap<u64, Rc<PodPool>>>);

/// The tunnels of one pod on one shard, by peer.
#[derive(Default)]
pub(crate) struct PodPool {
    /// The pod's outbound connections on this shard.
    backlog: Backlog,
    peers: RefCell<HashMap<TunnelKey, Rc<Peer>>>,
}

/// The tunnels to one peer on one shard.
#[derive(Default)]
pub(crate) struct Peer {
    tunnels: RefCell<Vec<Rc<Tunnel>>>,
    /// The streams that wait for a place, in the order in which they came.
    waiting: RefCell<VecDeque<oneshot::Sender<Place>>>,
    /// The length of the line at which streams that were given up are taken out of it.
    tidy_at: Cell<usize>,
    /// The number of dials under way.
    dials: Cell<usize>,
}

/// What a stream in line gets: a place, or the failure of the dial that was for it.
type Place = Result<Lease, Arc<DialError>>;

/// What a dial needs.
#[derive(Clone)]
struct Asking {
    pool: Rc<PodPool>,
    dialer: Arc<dyn Dialer>,
    shard: Shard,
    key: TunnelKey,
}

/// An established tunnel on this shard.
pub(crate) struct Tunnel {
    send: Opener,
    max_streams: usize,
    peer: Weak<Peer>,
    active: Cell<usize>,
    idle_since: Cell<Instant>,
    /// Whether an answer of the peer is overdue. New streams prefer other tunnels.
    unhealthy: Cell<bool>,
    /// Whether new streams dial afresh rather than wait on the tunnel, until the peer has answered a PING.
    aside: Cell<bool>,
    /// Whether the peer takes no new streams on the tunnel. Open streams go on.
    retired: Cell<bool>,
    /// Whether the tunnel has carried a stream.
    used: Cell<bool>,
    /// Whether the tunnel has to end.
    released: Cell<bool>,
    /// The task that waits for the release of the tunnel.
    driver: RefCell<Option<Waker>>,
    /// Whether the task is woken when the last stream ends, too.
    tells_empty: Cell<bool>,
    /// Whether a certificate of the peer was revoked.
    revoked: Cell<bool>,
    streams: Rc<Streams>,
}

/// A place for one stream on a tunnel.
pub(crate) struct Lease(Rc<Tunnel>);

// === impl PodPool ===

impl PodPool {
    /// The pool of the pod with this serial number on the calling shard.
    pub(crate) fn of(shard: &Shard, serial: u64) -> Rc<Self> {
        shard.local::<Pools>().0.borrow_mut().entry(serial).or_default().clone()
    }

    /// The pool of the pod with this serial number on the calling shard, if the pod has one there.
    pub(crate) fn find(shard: &Shard, serial: u64) -> Option<Rc<Self>> {
        shard.local::<Pools>().0.borrow().get(&serial).cloned()
    }

    /// Drops the pool of a pod that is gone from the calling shard.
    pub(crate) fn forget(shard: &Shard, serial: u64) {
        let forgotten = shard.local::<Pools>().0.borrow_mut().remove(&serial);
        drop(forgotten);
    }

    /// The backlog of the pod's outbound connections. The pod's tunnels wait for the backlog before they flush.
    pub(crate) fn backlog(&self) -> Backlog {
        self.backlog.clone()
    }

    /// The tunnels to `key`.
    pub(crate) fn peer(&self, key: &TunnelKey) -> Rc<Peer> {
        if let Some(peer) = self.peers.borrow().get(key) {
            return peer.clone();
        }
        self.peers.borrow_mut().entry(key.clone()).or_default().clone()
    }

    /// Drops the entry of `key` if the peer has no tunnel and no dial is under way.
    pub(crate) fn tidy(&self, key: &TunnelKey) {
        let mut peers = self.peers.borrow_mut();
        if peers.get(key).is_some_and(|peer| peer.is_unused()) {
            peers.remove(key);
        }
    }

    /// The peers, and when each was used last. `None`: the peer is in use.
    pub(crate) fn last_uses(&self) -> Vec<(TunnelKey, Option<Instant>)> {
        self.peers.borrow().iter().map(|(key, peer)| (key.clone(), peer.last_use())).collect()
    }

    /// Releases the tunnels to `keys` that carry no stream now.
    pub(crate) fn release(&self, keys: &HashSet<TunnelKey>) {
        for (_, peer) in self.peers.borrow().iter().filter(|(key, _)| keys.contains(*key)) {
            peer.tunnels.borrow().iter().filter(|tunnel| tunnel.idle().is_some()).for_each(|t| t.release());
        }
    }

    /// Leases a place for a stream to `key` on an existing tunnel, or on a new tunnel. Waiting streams share dials, as
    /// many at a time as their number needs.
    ///
    /// # Errors
    /// A dial failed, and every stream that the dial was for gets the same error; or no place became free in time.
    pub(crate) async fn lease(
        self: &Rc<Self>,
        dialer: &Arc<dyn Dialer>,
        shard: &Shard,
        key: &TunnelKey,
    ) -> Result<Lease, Arc<DialError>> {
        for _ in 0..MAX_LOST_DIALS {
            // The peer is looked up in each round, as `tidy` may have dropped an unused entry meanwhile.
            let peer = self.peer(key);
            if let Some(lease) = peer.take() {
                return Ok(lease);
            }
            let dialling =
                Asking { pool: self.clone(), dialer: dialer.clone(), shard: shard.clone(), key: key.clone() };
            let place = peer.wait(&dialling);
            drop((peer, dialling));
            match timeout(PLACE_WITHIN, place).await {
                Ok(Ok(outcome)) => return outcome,
                // The dial was lost with its task, so the next round dials again.
                Ok(Err(_)) => {}
                Err(_) => break,
            }
        }
        Err(Arc::new(DialError::Contended))
    }

    /// Leases a place on an existing tunnel to `key`.
    pub(crate) fn ready(&self, key: &TunnelKey) -> Option<Lease> {
        self.peers.borrow().get(key).and_then(|peer| peer.take())
    }
}

// === impl Peer ===

impl Peer {
    fn take(&self) -> Option<Lease> {
        let tunnels = self.tunnels.borrow();
        let free = |tunnel: &&Rc<Tunnel>| tunnel.has_room();
        let found =
            tunnels.iter().find(|t| free(t) && !t.unhealthy.get()).or_else(|| tunnels.iter().find(free))?;
        Some(Lease::new(found.clone()))
    }

    /// Whether there is neither a tunnel nor a dial.
    fn is_unused(&self) -> bool {
        self.tunnels.borrow().is_empty() && self.dials.get() == 0
    }

    /// When a stream was open last; `None` while there is a stream or a dial.
    fn last_use(&self) -> Option<Instant> {
        let tunnels = self.tunnels.borrow();
        let in_use = self.dials.get() > 0 || tunnels.iter().any(|tunnel| tunnel.idle().is_none());
        if in_use { None } else { tunnels.iter().map(|tunnel| tunnel.idle_since.get()).max() }
    }

    /// Puts a stream in line, and dials if the dials under way are too few.
    fn wait(self: &Rc<Self>, dialling: &Asking) -> oneshot::Receiver<Place> {
        let (tell, place) = oneshot::channel();
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= self.tidy_at.get() {
            waiting.retain(|place| !place.is_closed());
            self.tidy_at.set(EXPECTED_STREAMS.max(2 * waiting.len()));
        }
        waiting.push_back(tell);
        drop(waiting);
        self.dial_enough(dialling);
        place
    }

    /// Dials until the dials under way are enough for the streams in line.
    fn dial_enough(self: &Rc<Self>, dialling: &Asking) {
        if self.dials.get() >= self.wanted_dials() {
            return;
        }
        self.waiting.borrow_mut().retain(|place| !place.is_closed());
        while self.dials.get() < self.wanted_dials() {
            self.dial(dialling.clone());
        }
    }

    fn wanted_dials(&self) -> usize {
        let wanted = self.waiting.borrow().len().div_ceil(self.streams_per_tunnel());
        // A peer that has given no tunnel may be down. One dial at a time finds out.
        let at_most = if self.tunnels.borrow().is_empty() { 1 } else { MAX_DIALS_AT_ONCE };
        wanted.min(at_most)
    }

    /// The number of streams that a new tunnel is expected to take.
    fn streams_per_tunnel(&self) -> usize {
        self.tunnels.borrow().last().map_or(EXPECTED_STREAMS, |tunnel| tunnel.limit())
    }

    fn dial(self: &Rc<Self>, dialling: Asking) {
        self.dials.set(self.dials.get() + 1);
        let index = dialling.shard.index();
        // The dial counts as lost even if the task is dropped before it runs.
        let under_way = UnderWay { peer: self.clone(), outcome: None };
        let (shard, told) = (dialling.shard.clone(), dialling.dialer.clone());
        let ask = async move {
            let mut under_way = under_way;
            under_way.outcome = Some(dialling.dialer.dial(&dialling.key, index).await);
            let peer = under_way.peer.clone();
            let is_up = matches!(under_way.outcome, Some(Ok(())));
            drop(under_way);
            // A failure is no reason to dial again for those who are left: other dials under way serve them.
            if is_up {
                peer.dial_enough(&dialling);
            }
            // A peer that cannot be reached must leave no entry behind.
            dialling.pool.tidy(&dialling.key);
        };
        let on_panic = move |message: String| told.panicked("tunnel/ask", index, &message);
        // The dial's task stays inside the span of the connection that found no tunnel.
        shard.spawn_watched("tunnel/ask", ask.in_current_span(), on_panic);
    }

    /// Hands free places to the streams in line.
    fn hand_out(&self) {
        while !self.waiting.borrow().is_empty() {
            let Some(lease) = self.take() else { return };
            let Some(first) = self.first_in_line() else { return };
            // A stream that was given up just now leaves its place to the next.
            drop(first.send(Ok(lease)));
        }
    }

    fn first_in_line(&self) -> Option<oneshot::Sender<Place>> {
        let mut waiting = self.waiting.borrow_mut();
        loop {
            match waiting.pop_front() {
                Some(first) if first.is_closed() => {}
                first => return first,
            }
        }
    }

    /// Ends a dial. A failure is that of the streams that the dial was for; the last dial was for all.
    fn dialled(&self, outcome: Option<Result<(), Arc<DialError>>>) {
        let left = self.dials.get().saturating_sub(1);
        self.dials.set(left);
        let count = if left == 0 { usize::MAX } else { self.streams_per_tunnel() };
        match outcome {
            // The places of the new tunnel are handed out already.
            Some(Ok(())) => {}
            Some(Err(error)) => {
                for _ in 0..count {
                    let Some(first) = self.first_in_line() else { return };
                    drop(first.send(Err(error.clone())));
                }
            }
            None => {
                let mut waiting = self.waiting.borrow_mut();
                let lost = count.min(waiting.len());
                let lost: Vec<_> = waiting.drain(..lost).collect();
                drop((waiting, lost));
            }
        }
    }

    /// Adds an established tunnel, whose places go to the streams in line.
    pub(crate) fn add(self: &Rc<Self>, send: impl Into<Opener>, max_streams: usize) -> Rc<Tunnel> {
        let tunnel = Rc::new(Tunnel {
            send: send.into(),
            max_streams,
            peer: Rc::downgrade(self),
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            unhealthy: Cell::new(false),
            aside: Cell::new(false),
            retired: Cell::new(false),
            used: Cell::new(false),
            released: Cell::new(false),
            driver: RefCell::new(None),
            tells_empty: Cell::new(false),
            revoked: Cell::new(false),
            streams: Rc::default(),
        });
        self.tunnels.borrow_mut().push(tunnel.clone());
        self.hand_out();
        tunnel
    }

    /// Removes a tunnel from the pool. No new stream opens on the tunnel, and open streams go on.
    pub(crate) fn remove(&self, tunnel: &Rc<Tunnel>) {
        self.tunnels.borrow_mut().retain(|t| !Rc::ptr_eq(t, tunnel));
    }
}

/// A dial under way. The drop ends the dial, also if its task was lost.
struct UnderWay {
    peer: Rc<Peer>,
    outcome: Option<Result<(), Arc<DialError>>>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.peer.dialled(self.outcome.take());
    }
}

// === impl Tunnel ===

impl Tunnel {
    fn has_room(&self) -> bool {
        !self.retired.get() && !self.aside.get() && self.active.get() < self.limit()
    }

    /// The number of streams that the tunnel takes at a time.
    fn limit(&self) -> usize {
        self.max_streams.min(self.send.current_max_send_streams()).max(1)
    }

    /// What opens the tunnel's streams.
    pub(crate) fn opener(&self) -> &Opener {
        &self.send
    }

    /// The streams of the tunnel.
    pub(crate) fn streams(&self) -> &Rc<Streams> {
        &self.streams
    }

    /// Whether the tunnel has carried a stream.
    pub(crate) fn was_used(&self) -> bool {
        self.used.get()
    }

    /// Waits until the tunnel is released or, if `empty`, has no stream. One task at a time may wait.
    pub(crate) async fn released(&self, empty: bool) {
        self.tells_empty.set(empty);
        poll_fn(|cx| {
            if self.released.get() || (empty && self.active.get() == 0) {
                return Poll::Ready(());
            }
            *self.driver.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Whether the tunnel has to end.
    pub(crate) fn is_released(&self) -> bool {
        self.released.get()
    }

    /// Has the tunnel end. No stream may be open.
    fn release(&self) {
        self.retire();
        self.released.set(true);
        self.wake();
    }

    fn wake(&self) {
        self.driver.take().into_iter().for_each(Waker::wake);
    }

    /// How long the tunnel has had no stream; `None` while the tunnel has a stream.
    pub(crate) fn idle(&self) -> Option<Duration> {
        (self.active.get() == 0).then(|| self.idle_since.get().elapsed())
    }

    /// Sets whether an answer to a PING is overdue on the tunnel.
    pub(crate) fn set_unhealthy(&self, unhealthy: bool) {
        self.unhealthy.set(unhealthy);
        if !unhealthy
            && self.aside.replace(false)
            && let Some(peer) = self.peer.upgrade()
        {
            peer.hand_out();
        }
    }

    /// Closes the tunnel for new streams. Open streams may go on for long.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
    }

    /// Notes that a certificate of the peer was revoked. The streams of the tunnel end by that.
    pub(crate) fn revoke(&self) {
        self.retire();
        self.revoked.set(true);
    }
}

// === impl Lease ===

impl Lease {
    fn new(tunnel: Rc<Tunnel>) -> Self {
        tunnel.active.set(tunnel.active.get() + 1);
        tunnel.used.set(true);
        tunnel.streams.begin();
        Self(tunnel)
    }

    /// A handle to open the stream with.
    pub(crate) fn send_request(&self) -> Opener {
        self.0.send.clone()
    }

    /// Marks the tunnel as unhealthy after a stream failed on the tunnel. New streams prefer other tunnels.
    pub(crate) fn mark_unhealthy(&self) {
        self.0.unhealthy.set(true);
    }

    /// Sets the tunnel aside after a stream has waited in vain. New streams use other tunnels, or dial afresh, until the
    /// peer has answered a PING.
    pub(crate) fn set_aside(&self) {
        self.0.aside.set(true);
    }

    /// Closes the tunnel for new streams, because the tunnel is broken or the peer has announced the tunnel's end.
    /// Open streams may go on for long.
    pub(crate) fn retire(&self) {
        self.0.retire();
    }
}

impl Lease {
    /// The streams of the tunnel.
    pub(crate) fn streams(&self) -> &Rc<Streams> {
        &self.0.streams
    }

    /// Whether the tunnel has ended because a certificate of the peer was revoked.
    pub(crate) fn is_revoked(&self) -> bool {
        self.0.revoked.get()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
        self.0.streams.end();
        if let Some(peer) = self.0.peer.upgrade() {
            peer.hand_out();
        }
        if self.0.active.get() == 0 {
            self.0.idle_since.set(Instant::now());
            if self.0.tells_empty.get() {
                self.0.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Snapshots of the page, and the viewers who follow them.
//!
//! A snapshot is made when somebody asks and the last one is old. All who ask share it, and while nobody asks nothing is
//! done.

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinError,
    time::{Instant, sleep_until},
};

use super::{
    document::{Parts, parts, title},
    rates::Rates,
    view::{Look, View},
};
use crate::actors::admin::http::{Chunk, Stopping};

/// Limit: viewers who follow the page: 8; past it: the answer is 503, and a reload of the page still shows it.
pub(super) const VIEWERS: usize = 8;
/// Limit: time between two snapshots of the page: 2 s; past it: a snapshot is made if somebody looks.
const EVERY: Duration = Duration::from_secs(2);
/// Limit: part of the time in which snapshots are made: a twentieth; past it: the next snapshot is made later.
const PAUSES: u32 = 20;
/// Limit: time for which a viewer follows: 5 min; past it: the stream ends, and the page asks for another one.
const FOLLOWED_FOR: Duration = Duration::from_secs(300);

/// The snapshots. A clone is cheap.
#[derive(Clone)]
pub(super) struct Feed(Arc<Inner>);

struct Inner {
    look: Look,
    every: Duration,
    /// Held by the one who makes a snapshot.
    rates: Mutex<Rates>,
    last: parking_lot::Mutex<Option<Arc<Snapshot>>>,
    made: AtomicU64,
    seats: Arc<Semaphore>,
}

/// The page at one moment.
pub(super) struct Snapshot {
    /// The number of the snapshot. The first is 1.
    pub(super) number: u64,
    /// What is shown.
    pub(super) view: View,
    /// The parts that change.
    pub(super) parts: Parts,
    /// When it was made, and how long that took.
    made: (Instant, Duration),
    /// What changed since the snapshot before, as an event.
    changes: Bytes,
    /// All parts, as an event.
    whole: OnceLock<Bytes>,
}

// === impl Feed ===

impl Feed {
    /// Snapshots of what `look` sees.
    pub(super) fn new(look: Look) -> Self {
        Self::with(look, EVERY)
    }

    /// The same with another time between two snapshots.
    pub(super) fn with(look: Look, every: Duration) -> Self {
        Self(Arc::new(Inner {
            look,
            every,
            rates: Mutex::default(),
            last: parking_lot::Mutex::default(),
            made: AtomicU64::new(0),
            seats: Arc::new(Semaphore::new(VIEWERS)),
        }))
    }

    /// A snapshot that is not old.
    ///
    /// # Errors
    /// The look has panicked, or the runtime ends.
    pub(super) async fn current(&self) -> Result<Arc<Snapshot>, JoinError> {
        self.newer(0).await
    }

    /// A place among the viewers, if one is free.
    pub(super) fn seat(&self) -> Option<OwnedSemaphorePermit> {
        self.0.seats.clone().try_acquire_owned().ok()
    }

    /// The number of snapshots that were made.
    #[cfg(test)]
    pub(super) fn made(&self) -> u64 {
        self.0.made.load(Ordering::Relaxed)
    }

    /// A snapshot after number `than`, once it is time for it.
    async fn newer(&self, than: u64) -> Result<Arc<Snapshot>, JoinError> {
        if let Some(last) = self.fresh(than) {
            return Ok(last);
        }
        let mut rates = self.0.rates.lock().await;
        // Another one may have made it meanwhile.
        if let Some(last) = self.fresh(than) {
            return Ok(last);
        }
        let before = self.0.last.lock().clone();
        if let Some(before) = &before {
            sleep_until(self.due(before)).await;
        }
        let (look, number) = (self.0.look.clone(), self.0.made.fetch_add(1, Ordering::Relaxed) + 1);
        let mut measuring = std::mem::take(&mut *rates);
        let making = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let view = look();
            let measured = measuring.measure(&view.pods, begun.into_std());
            let parts = parts(&view, &measured);
            let changes = event(number, &view, changed(before.as_deref(), &parts));
            let made = (begun, begun.elapsed());
            (measuring, Snapshot { number, view, parts, made, changes, whole: OnceLock::new() })
        });
        let (measured, snapshot) = making.await?;
        *rates = measured;
        let snapshot = Arc::new(snapshot);
        *self.0.last.lock() = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// The last snapshot, if it comes after number `than` and no newer one is due.
    fn fresh(&self, than: u64) -> Option<Arc<Snapshot>> {
        let last = self.0.last.lock().clone()?;
        (last.number > than && Instant::now() < self.due(&last)).then_some(last)
    }

    /// When the snapshot after this one is due.
    fn due(&self, last: &Snapshot) -> Instant {
        let (at, took) = last.made;
        at + self.0.every.max(took * PAUSES)
    }

    /// Sends what changes to a viewer, until the viewer is gone, the server stops or the time is over. The viewer has
    /// `seat` meanwhile.
    pub(super) async fn follow(
        self,
        viewer: mpsc::Sender<Chunk>,
        mut stopping: Option<Stopping>,
        seat: OwnedSemaphorePermit,
    ) {
        let until = Instant::now() + FOLLOWED_FOR;
        let stopped = async {
            match &mut stopping {
                Some(stopping) => stopping.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.send_all(&viewer) => {}
            () = stopped => {}
            () = sleep_until(until) => {}
            () = viewer.closed() => {}
        }
        // A viewer who takes nothing more has no use for the end.
        let _ = viewer.try_send(Chunk::End);
        drop(seat);
    }

    async fn send_all(&self, viewer: &mpsc::Sender<Chunk>) {
        let mut has = 0;
        while let Ok(snapshot) = self.newer(has).await {
            let is_next = has > 0 && snapshot.number == has + 1;
            let event = if is_next { snapshot.changes.clone() } else { snapshot.whole() };
            if viewer.send(Chunk::Bytes(event)).await.is_err() {
                return;
            }
            has = snapshot.number;
        }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// All parts, as an event.
    fn whole(&self) -> Bytes {
        self.whole.get_or_init(|| event(self.number, &self.view, changed(None, &self.parts))).clone()
    }
}

/// The parts that differ from those of the snapshot before.
fn changed(before: Option<&Snapshot>, parts: &Parts) -> Map<String, Value> {
    let before = before.map(|before| before.parts.as_slice()).unwrap_or_default();
    let differs = |(id, part): &&(&'static str, super::html::Html)| {
        before.iter().find(|(known, _)| known == id).is_none_or(|(_, old)| old != part)
    };
    parts.iter().filter(differs).map(|(id, part)| ((*id).to_owned(), json!(part.as_str()))).collect()
}

/// An event of the stream: the title and some parts, as one line of JSON.
fn event(number: u64, view: &View, parts: Map<String, Value>) -> Bytes {
    let shown = json!({"title": title(view).as_str(), "parts": parts});
    format!("id: {number}\nretry: 2000\ndata: {shown}\n\n").into()
}

//! The share of a pod in the descriptors of connections. A pod may have as many as are left for all others, so one that
//! hoards waits before the others do.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::PodId;
use crate::sys::descriptors;

/// The time between two looks whether a pod may go on.
/// Limit: time between two looks of a pod that waits for descriptors: 50 ms; past it: it looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// The descriptors that each pod may have while there are any.
/// Limit: descriptors of a pod while they are short: as many as are left, at least 8; past it: the pod waits.
const LEAST: usize = 8;
/// The time in which the log is told once that a pod waits.
/// Limit: line of a pod that waits for descriptors: once in 60 s; past it: it is left out.
const TOLD_ONCE_IN: Duration = Duration::from_secs(60);

/// Who of a pod waits for descriptors.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// Accept loops.
    accepting: AtomicUsize,
    /// Connections that have no socket to their other side yet.
    connecting: AtomicUsize,
    /// When the log was told.
    told: Mutex<Option<Instant>>,
}

/// Whether a pod that has `held` descriptors may accept while `left` are left for all.
fn may_accept(held: usize, left: usize) -> bool {
    left > 0 && held <= left.max(LEAST)
}

/// Whether a connection of a pod that has `held` descriptors may get a socket to its other side. What was accepted may go
/// somewhat past the share.
fn may_connect(held: usize, left: usize) -> bool {
    left > 0 && held <= left + left / 4 + LEAST
}

/// Counts one who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Waits ===

impl Waits {
    /// The number of connections that have no socket to their other side yet.
    pub(super) fn connecting(&self) -> usize {
        self.connecting.load(Ordering::Relaxed)
    }

    /// Whether anybody waits.
    pub(super) fn is_any(&self) -> bool {
        self.connecting() + self.accepting.load(Ordering::Relaxed) > 0
    }

    /// Waits until the pod, which has `held()` descriptors, may accept another connection.
    pub(super) async fn accept(&self, id: &PodId, held: impl Fn() -> usize) {
        let mut waiting = None;
        loop {
            let left = descriptors::left();
            if may_accept(held(), left) {
                return drop(waiting);
            }
            waiting.get_or_insert_with(|| Waiting::new(&self.accepting));
            self.tell(id, held(), left);
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until the pod may open a socket for a connection that it has.
    pub(super) async fn connect(&self, id: &PodId, held: impl Fn() -> usize) {
        if !descriptors::are_short() {
            return;
        }
        let waiting = Waiting::new(&self.connecting);
        loop {
            let left = descriptors::left();
            if may_connect(held(), left) {
                return drop(waiting);
            }
            self.tell(id, held(), left);
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Tells the log that the pod waits, unless it was told lately.
    fn tell(&self, id: &PodId, held: usize, left: usize) {
        let (mut told, now) = (self.told.lock(), Instant::now());
        if told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD_ONCE_IN) {
            *told = Some(now);
            tracing::warn!(target: "capture", uid = &*id.uid, pod = %id.name(), held, left, "descriptors are short: the pod waits, others go on");
        }
    }
}

#[cfg(test)]
mod tests;

//! Finds handlers that hang.
//!
//! The handlers that run now, and that have a limit, are listed here from their beginning to their end. One task for
//! the whole tree looks at the list: when a first handler begins, and every 250 ms while any handler runs. While no
//! handler runs, no timer runs.
//!
//! The time of a handler is counted in looks and not read from a clock, because the watchdog runs on the thread of the
//! actors. After that thread or the machine stood still, every actor has its turn before the next look. For the same
//! reason a handler that blocks the thread is not found.

use std::{fmt, time::Duration};

use parking_lot::Mutex;
use slab::Slab;
use tokio::{sync::Notify, time::timeout};

/// The time between two looks.
/// Limit: time between two looks of the watchdog: 250 ms; past it: the watchdog looks again.
pub(crate) const WATCHDOG_INTERVAL: Duration = Duration::from_millis(250);

/// The handlers of one tree that run now and have a limit. `S` says whose handler it is.
pub(crate) struct Watchdog<S> {
    running: Mutex<Slab<Running<S>>>,
    /// The first handler has begun, or the last one has ended.
    changed: Notify,
}

/// A handler that runs. It is taken off the list when this drops.
pub(crate) struct Watched<'a, S> {
    watchdog: &'a Watchdog<S>,
    key: usize,
}

struct Running<S> {
    subject: S,
    limit: Duration,
    /// How many times [`WATCHDOG_INTERVAL`] it has run since it was first seen; `None` before.
    looks: Option<u32>,
}

// === impl Watchdog ===

impl<S> Default for Watchdog<S> {
    fn default() -> Self {
        Self { running: Mutex::new(Slab::new()), changed: Notify::new() }
    }
}

impl<S> fmt::Debug for Watchdog<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchdog").finish_non_exhaustive()
    }
}

impl<S: Clone> Watchdog<S> {
    /// A handler of `subject` begins, and may run for as long as `limit`.
    pub(crate) fn enter(&self, subject: S, limit: Duration) -> Watched<'_, S> {
        let (key, is_first) = {
            let mut running = self.running.lock();
            let is_first = running.is_empty();
            (running.insert(Running { subject, limit, looks: None }), is_first)
        };
        if is_first {
            self.changed.notify_one();
        }
        Watched { watchdog: self, key }
    }

    /// Watches for ever. Each look shows the handlers past their limits to `hung`, with the time they have run at least.
    pub(crate) async fn watch(&self, hung: impl Fn(&S, Duration)) {
        let mut is_due = false;
        loop {
            for (subject, time) in self.look(is_due) {
                hung(&subject, time);
            }
            let changed = self.changed.notified();
            if self.running.lock().is_empty() {
                changed.await;
                is_due = false;
            } else {
                // A change before the time is up is one from before this look, or the end of the last handler.
                is_due = timeout(WATCHDOG_INTERVAL, changed).await.is_err();
            }
        }
    }

    /// Marks the new handlers as seen, counts a look at those seen before if it `is_due`, and gives those past their
    /// limits.
    fn look(&self, is_due: bool) -> Vec<(S, Duration)> {
        let mut over = Vec::new();
        for (_, handler) in self.running.lock().iter_mut() {
            let looks = handler.looks.map_or(0, |looks| looks.saturating_add(is_due.into()));
            handler.looks = Some(looks);
            let time = WATCHDOG_INTERVAL.saturating_mul(looks);
            if is_due && time >= handler.limit {
                over.push((handler.subject.clone(), time));
            }
        }
        over
    }
}

// === impl Watched ===

impl<S> Drop for Watched<'_, S> {
    fn drop(&mut self) {
        let (subject, is_last) = {
            let mut running = self.watchdog.running.lock();
            let subject = running.try_remove(self.key);
            (subject, running.is_empty())
        };
        drop(subject);
        if is_last {
            self.watchdog.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;

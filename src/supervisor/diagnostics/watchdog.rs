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

/// The running handlers of one tree that have a limit. `S` identifies the owner of a handler.
pub(crate) struct Watchdog<S> {
    running: Mutex<Slab<Running<S>>>,
    /// The first handler has begun, or the last one has ended.
    changed: Notify,
}

/// A running handler. Dropping the value takes the handler off the list.
pub(crate) struct Watched<'a, S> {
    watchdog: &'a Watchdog<S>,
    key: usize,
}

struct Running<S> {
    subject: S,
    limit: Duration,
    /// The number of [`WATCHDOG_INTERVAL`]s since the watchdog first saw the handler; `None` before that.
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
    /// Lists a handler of `subject` that begins now and may run for `limit`.
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

    /// Watches for ever. Each look passes the handlers past their limits to `hung`, with the shortest time that they
    /// can have run.
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
                // A change before the interval has passed happened before this look, or it is the end of the last
                // handler.
                is_due = timeout(WATCHDOG_INTERVAL, changed).await.is_err();
            }
        }
    }

    /// Marks new handlers as seen, and counts a look for the others if it `is_due`. Returns the handlers past their
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

//! The processor time of the polls of a pod's connections, reckoned from a few of them.

#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::sys::cputime;

/// Of so many polls one is timed, by chance, and counts for all of them. The power of two.
/// No limit: the rate of a sample.
const ONE_IN_LOG2: u32 = 6;

thread_local! {
    /// The state of the thread's random numbers, and whether a poll is under way.
    static TURN: Cell<(u32, bool)> = const { Cell::new((0x9E37_79B9, false)) };
}

/// A poll under way: the time until the value is dropped. Polls within it are part of it and not timed again.
#[must_use = "the poll lasts until the value is dropped"]
pub(crate) struct Timed<'a> {
    busy: &'a AtomicU64,
    since: Option<Duration>,
    is_outer: bool,
}

// === impl Timed ===

impl<'a> Timed<'a> {
    /// Begins. The nanoseconds are added to `busy` when the value is dropped.
    #[inline]
    pub(super) fn begin(busy: &'a AtomicU64) -> Self {
        let (chance, within) = TURN.get();
        // A linear congruential generator, of which the upper bits are good.
        let chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        TURN.set((chance, true));
        let is_drawn = !within && chance >> (u32::BITS - ONE_IN_LOG2) == 0;
        Self { busy, since: is_drawn.then(cputime::of_this_thread), is_outer: !within }
    }
}

impl Drop for Timed<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_outer {
            TURN.set((TURN.get().0, false));
        }
        if let Some(since) = self.since {
            let used = cputime::of_this_thread().saturating_sub(since);
            let nanos = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
            self.busy.fetch_add(nanos << ONE_IN_LOG2, Ordering::Relaxed);
        }
    }
}

//! How much processor time a thread has used, as seen from others.

use std::{mem, time::Duration};

/// A thread's processor time (clock_gettime(2)).
#[derive(Clone, Copy, Debug)]
pub struct ThreadTime(libc::clockid_t);

// === impl ThreadTime ===

impl ThreadTime {
    /// The calling thread's; `None` where the system has none.
    pub fn of_this_thread() -> Option<Self> {
        let mut clock = 0;
        // SAFETY: the thread is the one that asks, and the place to write to is a local variable.
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        (failed == 0).then_some(Self(clock))
    }

    /// What the thread has used since its start; `None` once it has ended.
    pub fn used(self) -> Option<Duration> {
        // SAFETY: all zeroes is a time.
        let mut time: libc::timespec = unsafe { mem::zeroed() };
        // SAFETY: the place to write to is a local variable; a clock that is none is an error.
        let failed = unsafe { libc::clock_gettime(self.0, &raw mut time) };
        let (seconds, nanos) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
        (failed == 0).then(|| Duration::new(seconds, nanos))
    }
}

#[cfg(test)]
mod tests;

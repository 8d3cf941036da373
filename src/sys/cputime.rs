//! The processor time that a thread has used, as other threads can read it.

use std::{mem, time::Duration};

/// The processor time that this process has used.
pub(crate) fn of_this_process() -> Duration {
    time_of(libc::CLOCK_PROCESS_CPUTIME_ID).unwrap_or_default()
}

/// The clock of a thread's processor time (clock_gettime(2)).
#[derive(Clone, Copy, Debug)]
pub struct ThreadTime(libc::clockid_t);

/// The processor time that the calling thread has used since its start.
pub(crate) fn of_this_thread() -> Duration {
    time_of(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default()
}

/// The time of a clock; `None` if there is no such clock.
fn time_of(clock: libc::clockid_t) -> Option<Duration> {
    // SAFETY: all zeroes is a valid `timespec`.
    let mut time: libc::timespec = unsafe { mem::zeroed() };
    // SAFETY: the call writes to a local variable and returns an error for an invalid clock.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
    (failed == 0).then(|| Duration::new(seconds, nanos))
}

// === impl ThreadTime ===

impl ThreadTime {
    /// The clock of the calling thread; `None` if the system has no such clock.
    pub fn of_this_thread() -> Option<Self> {
        let mut clock = 0;
        // SAFETY: the thread is the calling thread, and the call writes to a local variable.
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        (failed == 0).then_some(Self(clock))
    }

    /// The processor time that the thread has used since its start; `None` once the thread has ended.
    pub fn used(self) -> Option<Duration> {
        time_of(self.0)
    }
}

#[cfg(test)]
mod tests;

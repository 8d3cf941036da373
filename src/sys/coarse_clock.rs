//! A clock that is cheap to read, for times of which a few milliseconds do not matter.

use std::time::Duration;

/// The time of the kernel's coarse monotonic clock. Reading it is no system call and takes a few nanoseconds.
pub(crate) fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to a local variable. It cannot fail, as every kernel has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

//! How many descriptors are left for connections. The last ones are a reserve for everything else: the control plane,
//! istio-cni, the admin ports and readiness.
//!
//! The kernel gives a new descriptor the lowest free number. So the number of a new descriptor tells how many are open,
//! and nobody has to count them.

use std::{
    cell::Cell,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The part of all descriptors that is the reserve, as a divisor.
/// Limit: descriptors of connections: three quarters of the limit of open files; past it: connections wait.
const RESERVE_PART: usize = 4;
/// The most descriptors of the reserve.
/// Limit: descriptors that connections leave alone: 1024; past it: connections may have them.
const MAX_RESERVE: usize = 1024;

/// The number from which on a descriptor is one of the reserve.
static USABLE: AtomicUsize = AtomicUsize::new(usize::MAX);

thread_local! {
    /// The number of the descriptor that this thread has opened last.
    static NEWEST: Cell<usize> = const { Cell::new(0) };
}

/// Sets the number of descriptors that this process may have.
pub(super) fn limit_to(limit: u64) {
    USABLE.store(usable(usize::try_from(limit).unwrap_or(usize::MAX)), Relaxed);
}

fn usable(limit: usize) -> usize {
    limit - (limit / RESERVE_PART).min(MAX_RESERVE)
}

/// Notes a descriptor of a connection that was opened just now. Returns whether descriptors are short: more than half of
/// those that connections may have are open.
pub(crate) fn opened(fd: &impl AsRawFd) -> bool {
    NEWEST.set(usize::try_from(fd.as_raw_fd()).unwrap_or_default());
    are_short()
}

/// Whether descriptors were short when this thread opened the last one.
pub(crate) fn are_short() -> bool {
    NEWEST.get() > USABLE.load(Relaxed) / 2
}

/// Whether a descriptor that was opened just now is one of the reserve.
pub(crate) fn is_of_reserve(fd: &impl AsRawFd) -> bool {
    opened(fd) && NEWEST.get() >= USABLE.load(Relaxed)
}

/// The number of descriptors that connections may still open.
pub(crate) fn left() -> usize {
    // SAFETY: the call takes numbers. The descriptor that it opens belongs to nobody else.
    let lowest = unsafe {
        let fd = libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    };
    match lowest {
        Some(lowest) => _ = opened(&lowest),
        None if is_exhaustion(&io::Error::last_os_error()) => return 0,
        // Without that file the last descriptor tells.
        None => {}
    }
    USABLE.load(Relaxed).saturating_sub(NEWEST.get())
}

/// Whether the process or the kernel ran out of descriptors or memory for sockets.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    let codes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

#[cfg(test)]
mod tests;

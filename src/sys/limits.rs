//! The limit of open files, and the exit of the process.

use std::io;

use super::descriptors;

/// Raises the soft limit of open files to the hard limit and returns the new limit.
/// Connections may have all but the reserve of `descriptors.rs`.
/// Limit: live connections: the soft limit of open files, raised to the hard one; past it: accepting pauses for 50 ms,
/// with a warning.
///
/// # Errors
/// The kernel refuses the change.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives through the call, which fills it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the structure lives through the call, which only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    descriptors::limit_to(limit.rlim_cur);
    Ok(limit.rlim_cur)
}

/// Ends the process at once with `status`. Exit handlers do not run, because other threads still run.
pub fn exit(status: u8) -> ! {
    // SAFETY: the call does not return and touches no memory of ours.
    unsafe { libc::_exit(i32::from(status)) }
}

//! The filter of system calls (seccomp(2)), which is made from a list of the calls that the proxy makes.

mod allowed;

use std::{collections::BTreeMap, io};

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use crate::protocols::config::SeccompMode;

/// Why the filter is not in force.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The list cannot be made into a filter, for instance because the processor is of another kind.
    #[error("no filter for this processor: {0}")]
    Compile(#[from] BackendError),
    /// The filter is longer than the kernel's limit.
    #[error("the filter has {0} instructions")]
    Long(usize),
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] io::Error),
}

/// Forbids that the calling thread, and threads and programs that it starts, get privileges by starting a program.
///
/// # Errors
/// The kernel refuses.
pub(super) fn forbid_new_privileges() -> Result<(), FilterError> {
    // SAFETY: integers only.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error().into()),
    }
}

/// Filters the system calls of the calling thread and of the threads that it starts. A call that is not listed is
/// answered as by a kernel that does not have it, so that libraries fall back; the kernel logs it.
///
/// # Errors
/// There is no filter for this processor, or the kernel refuses.
pub(super) fn install(mode: SeccompMode) -> Result<(), FilterError> {
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let mismatch = match mode {
        SeccompMode::Off => return Ok(()),
        SeccompMode::Log => SeccompAction::Log,
        SeccompMode::Enforce => {
            // Each start of a thread would be a line of the kernel's log.
            let rules = allowed::REFUSED_IN_SILENCE.iter().map(|call| (*call, Vec::new())).collect();
            load(&program(rules, SeccompAction::Allow, missing.clone())?, 0)?;
            missing
        }
    };
    let always = allowed::always().map(|call| (call, Vec::new()));
    let rules = always.chain(allowed::with_arguments()?).collect();
    load(&program(rules, mismatch, SeccompAction::Allow)?, libc::SECCOMP_FILTER_FLAG_LOG)
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    mismatch: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, mismatch, matching, arch)?.try_into()
}

/// Hands a filter to the kernel. Older kernels slow a filtered process down against attacks on speculation unless the
/// filter says otherwise; the proxy runs no code of strangers.
fn load(program: &[sock_filter], flags: libc::c_ulong) -> Result<(), FilterError> {
    let len = u16::try_from(program.len()).map_err(|_| FilterError::Long(program.len()))?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    let flags = flags | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: both structures live through the call, which only reads them; `sock_filter` is the kernel's structure.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) //
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

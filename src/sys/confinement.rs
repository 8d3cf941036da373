//! The privileges that the process gives up before it starts (docs/security.md).

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

use super::seccomp::{self, FilterError};
use crate::protocols::config::SeccompMode;

/// The capabilities that serving needs: marks and transparent addresses, the network namespaces of pods, and a DNS proxy
/// on a port below 1024. The chart grants the first three.
const KEPT: [Capability; 4] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_NET_BIND_SERVICE,
];

/// What the process could not give up.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// The kernel refuses to drop capabilities.
    #[error("cannot drop capabilities: {0}")]
    Capabilities(#[from] CapsError),
    /// The kernel has no filter of system calls.
    #[error("cannot filter system calls: {0}")]
    Filter(#[from] FilterError),
}

/// Drops the capabilities that are not needed, forbids new privileges, and filters system calls as `mode` says. Threads
/// inherit all of it from the thread that starts them, so the first thread calls this before it starts another one.
///
/// # Errors
/// The steps that the kernel refuses; the others are taken.
pub fn confine(mode: SeccompMode) -> Result<(), Vec<ConfinementError>> {
    confine_to(&KEPT, mode)
}

/// As [`confine`], and drops all capabilities.
///
/// # Errors
/// As for [`confine`].
pub fn confine_wholly(mode: SeccompMode) -> Result<(), Vec<ConfinementError>> {
    confine_to(&[], mode)
}

fn confine_to(kept: &[Capability], mode: SeccompMode) -> Result<(), Vec<ConfinementError>> {
    let steps = [
        drop_capabilities(kept).map_err(ConfinementError::from),
        seccomp::forbid_new_privileges().map_err(ConfinementError::from),
        seccomp::install(mode).map_err(ConfinementError::from),
    ];
    let refused: Vec<_> = steps.into_iter().filter_map(Result::err).collect();
    if refused.is_empty() { Ok(()) } else { Err(refused) }
}

fn drop_capabilities(kept: &[Capability]) -> Result<(), CapsError> {
    let held = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = kept.iter().copied().filter(|capability| held.contains(capability)).collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

#[cfg(test)]
mod tests;

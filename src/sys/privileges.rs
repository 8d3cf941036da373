//! The privileges without which the proxy cannot serve a pod (docs/spec/dataplane.md 0).

use std::{fmt, fs, io};

use socket2::{Domain, Socket, Type};

use super::netns::NetNs;

/// A privilege that the process lacks.
#[derive(Debug, thiserror::Error)]
#[error("the proxy may not {deed} ({error}): {cause}")]
pub struct Unprivileged {
    deed: &'static str,
    error: io::Error,
    cause: Cause,
}

/// The probable cause of a refusal.
#[derive(Debug)]
enum Cause {
    Missing(Capability),
    /// The process has the capability.
    Forbidden(Capability),
}

/// A capability, with its number (capabilities(7)).
#[derive(Clone, Copy, Debug)]
struct Capability(&'static str, u32);

const NET_ADMIN: Capability = Capability("NET_ADMIN", 12);
const SYS_ADMIN: Capability = Capability("SYS_ADMIN", 21);

/// Checks that the process may enter network namespaces, if it serves pods `in_pods`, and may mark sockets with `mark`, if
/// sockets are marked.
///
/// # Errors
/// The first privilege that is missing, with the capability and where the chart grants it.
pub(crate) fn check(in_pods: bool, mark: Option<u32>) -> Result<(), Unprivileged> {
    let refused = |deed, capability| move |error| Unprivileged::new(deed, error, capability);
    if in_pods {
        // The namespace is entered that the thread is in, so nothing changes.
        let entered = NetNs::current().and_then(|own| own.enter(|| ()));
        entered.map_err(refused("enter the network namespaces of pods", SYS_ADMIN))?;
    }
    let Some(mark) = mark else { return Ok(()) };
    let marked = Socket::new(Domain::IPV4, Type::STREAM, None).and_then(|socket| socket.set_mark(mark));
    marked.map_err(refused("mark the sockets in pods", NET_ADMIN))
}

// === impl Unprivileged ===

impl Unprivileged {
    fn new(deed: &'static str, error: io::Error, capability: Capability) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let cause = if holds(&status, capability) {
            Cause::Forbidden(capability)
        } else {
            Cause::Missing(capability)
        };
        Self { deed, error, cause }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(Capability(name, _)) => write!(
                f,
                "the capability {name} is missing, which ztunnel's chart grants to the container istio-proxy by \
                 securityContext.capabilities.add: [NET_ADMIN, SYS_ADMIN, NET_RAW], with runAsUser: 0"
            ),
            Self::Forbidden(Capability(name, _)) => {
                write!(
                    f,
                    "the capability {name} is there, so a seccomp profile or a security module forbids it"
                )
            }
        }
    }
}

/// Whether `status`, the text of `/proc/PID/status`, has the capability among the effective ones.
fn holds(status: &str, Capability(_, number): Capability) -> bool {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set >> number & 1 == 1)
}

#[cfg(test)]
mod tests;

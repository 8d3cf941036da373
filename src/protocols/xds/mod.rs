//! Delta discovery: what to ask, what to answer, what is held, when to try again
//! (docs/spec/controlplane.md 2).

mod aside;
pub mod backoff;
pub mod delta;
mod held;
pub mod node;
#[cfg(test)]
mod tests;

use std::{fmt, future::Future, time::Duration};

pub use held::{DemandError, XdsState};

use crate::protocols::pb::ads::Resource;

/// A type of resource this proxy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Workloads and services.
    Address,
    /// Authorization policies.
    Authorization,
}

/// A resource that was not applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// Its name in the response.
    pub name: String,
    /// Why, for the control plane's operator.
    pub reason: String,
    /// Whether the same might be applied later.
    pub later: Option<Box<Later>>,
}

/// A resource to be tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct Later {
    /// As it was given to the [`Sink`].
    pub resource: Resource,
    /// After how long.
    pub after: Duration,
}

/// Whoever applies resources is gone; nothing can be said about what it had applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot apply resources: {0}")]
pub struct SinkDown(pub String);

/// Where resources go.
pub trait Sink: Clone + Send + Sync + 'static {
    /// Applies one response: all valid resources, then the removals, in order and at once for readers. It is answered
    /// only after this returns, and the next one is read only then.
    ///
    /// Returns those rejected: undecodable, without a payload, invalid; of these the last good version stays. A name
    /// in `removed` that is not held is no error. `Resource::version` is empty, for versions are kept here.
    fn apply(
        &self,
        type_url: &str,
        resources: Vec<Resource>,
        removed: Vec<String>,
    ) -> impl Future<Output = Result<Vec<Rejected>, SinkDown>> + Send;
}

// === impl Kind ===

impl Kind {
    /// In the order they are asked for.
    pub const ALL: [Kind; 2] = [Kind::Address, Kind::Authorization];

    /// The type URL on the wire.
    pub fn type_url(self) -> &'static str {
        match self {
            Kind::Address => "type.googleapis.com/istio.workload.Address",
            Kind::Authorization => "type.googleapis.com/istio.security.Authorization",
        }
    }

    /// The kind with this type URL.
    pub fn of(type_url: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.type_url() == type_url)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Address => "Address",
            Kind::Authorization => "Authorization",
        })
    }
}

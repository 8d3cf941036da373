//! Where resources go, and which of them were rejected.

use std::{future::Future, time::Duration};

use crate::protocols::pb::ads::Resource;

/// A resource that was not applied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rejected {
    /// The resource's name in the response.
    pub name: String,
    /// Why, for the control plane's operator.
    pub reason: String,
    /// Whether the same might be applied later.
    pub later: Option<Box<Later>>,
}

/// A resource to be tried again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Later {
    /// The resource as the [`Sink`] was given it.
    pub resource: Resource,
    /// After how long.
    pub after: Duration,
}

/// The sink is gone. Nothing is known about what it had applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot apply resources: {0}")]
pub(crate) struct SinkDown(pub String);

/// Where resources go.
pub(crate) trait Sink: Clone + Send + Sync + 'static {
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

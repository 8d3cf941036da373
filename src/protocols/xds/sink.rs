//! The sink that applies resources, and the resources that it rejects.

use std::{future::Future, time::Duration};

use crate::protocols::pb::ads::Resource;

/// A resource that was refused.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rejected {
    /// The resource's name in the response.
    pub name: String,
    /// The reason, for the control plane's operator.
    pub reason: String,
    /// Whether the tables nevertheless hold what could be decoded of the resource. Otherwise the last good version
    /// stays.
    pub applied: bool,
    /// The retry of the same resource, if a retry may succeed.
    pub later: Option<Box<Later>>,
}

/// A resource to be retried.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Later {
    /// The resource as the [`Sink`] was given it.
    pub resource: Resource,
    /// The delay before the retry.
    pub after: Duration,
}

/// The sink is gone. The client does not know which resources the sink has applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot apply resources: {0}")]
pub(crate) struct SinkDown(pub String);

/// The receiver of resources.
pub(crate) trait Sink: Clone + Send + Sync + 'static {
    /// Applies one response: all valid resources, then the removals, in order and at once for readers. The client
    /// answers the response and reads the next one only after this call returns.
    ///
    /// Returns the rejected resources, which cannot be decoded, lack a payload or are invalid. The last good version of
    /// a rejected resource stays, unless the rejection says that the resource is [applied](Rejected::applied). An unknown name in `removed` is no error. `Resource::version` is empty, because the
    /// client keeps the versions.
    fn apply(
        &self,
        type_url: &str,
        resources: Vec<Resource>,
        removed: Vec<String>,
    ) -> impl Future<Output = Result<Vec<Rejected>, SinkDown>> + Send;
}

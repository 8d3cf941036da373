//! What serves the pods that istio-cni hands over.

use std::{future::Future, sync::Arc, time::Duration};

use crate::{
    protocols::zds::{NetnsId, PodInfo},
    sys::netns::NetNs,
};

/// A start or stop that takes longer than this is given up: a start counts as failed and is tried again.
/// Limit: start or stop of a pod: 30 s; past it: the operation is given up.
pub(crate) const POD_OPERATION_LIMIT: Duration = Duration::from_secs(30);

/// A pod to serve.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// The Kubernetes uid.
    pub uid: Arc<str>,
    /// Who it is.
    pub info: PodInfo,
    /// Where its sockets are to be.
    pub netns: NetNs,
    /// Which namespace that is.
    pub id: NetnsId,
}

/// Whoever serves pods. Operations on one uid never overlap; dropping the future of a start gives it up.
pub trait Pods: Clone + Send + Sync + 'static {
    /// Serves the pod; returns once all its listeners are bound. One that fails or is given up leaves nothing behind,
    /// at the latest when the next `stop` of that uid has returned.
    fn start(&self, spec: PodSpec) -> impl Future<Output = Result<(), String>> + Send;

    /// Stops serving the pod and cuts its connections. An unknown uid is fine.
    fn stop(&self, uid: &str) -> impl Future<Output = ()> + Send;

    /// The pods that are being served.
    fn list(&self) -> impl Future<Output = Vec<(String, NetnsId)>> + Send;
}

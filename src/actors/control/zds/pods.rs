//! The interface to the pods that istio-cni hands over.

use std::{future::Future, sync::Arc, time::Duration};

use crate::{
    protocols::zds::{NetnsId, PodInfo},
    sys::netns::NetNs,
};

/// The longest time of a start or stop. A start that is given up counts as failed and is tried again.
/// Limit: start or stop of a pod: 30 s; past it: the operation is given up.
pub(crate) const POD_OPERATION_LIMIT: Duration = Duration::from_secs(30);

/// A pod to serve.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// The Kubernetes uid of the pod.
    pub uid: Arc<str>,
    /// The name, namespace and service account of the pod.
    pub info: PodInfo,
    /// The network namespace in which the pod's sockets are opened.
    pub netns: NetNs,
    /// The identity of the network namespace.
    pub id: NetnsId,
}

/// The service that serves pods. Operations on one uid never overlap. A drop of a start's future gives the start up.
pub trait Pods: Clone + Send + Sync + 'static {
    /// Serves the pod and returns once all listeners of the pod are bound. A start that fails or is given up leaves
    /// nothing behind, at the latest when the next `stop` of the uid has returned.
    fn start(&self, spec: PodSpec) -> impl Future<Output = Result<(), String>> + Send;

    /// Stops serving the pod and cuts its connections. An unknown uid is no error.
    fn stop(&self, uid: &str) -> impl Future<Output = ()> + Send;

    /// The pods that are being served.
    fn list(&self) -> impl Future<Output = Vec<(String, NetnsId)>> + Send;
}

//! The state that the connections of one pod share: the pod's id, workload, network, and live connections.

pub(crate) mod conns;
pub(crate) mod network;
pub(crate) mod panics;
pub(crate) mod workload;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::protocols::mesh::WorkloadInfo;

static SERIAL: AtomicU64 = AtomicU64::new(1);

/// The id of a pod.
#[derive(Debug)]
pub(crate) struct PodId {
    /// A number that is unique in this process. A pod that comes back gets another number.
    pub(crate) serial: u64,
    /// The Kubernetes uid; "self" for the proxy's own pod.
    pub(crate) uid: Arc<str>,
    /// Whether the pod is the proxy's own. The proxy's own pod has plain sockets, and only HBONE reaches it through the
    /// proxy.
    pub(crate) is_own: bool,
    /// The name, namespace and service account of the pod.
    pub(crate) info: WorkloadInfo,
}

// === impl PodId ===

impl PodId {
    /// A pod that was handed over by istio-cni.
    pub(crate) fn new(uid: Arc<str>, info: WorkloadInfo) -> Arc<Self> {
        Self::make(uid, info, false)
    }

    /// The proxy's own pod (docs/spec/dataplane.md 4.5).
    pub(crate) fn own(info: WorkloadInfo) -> Arc<Self> {
        Self::make("self".into(), info, true)
    }

    fn make(uid: Arc<str>, info: WorkloadInfo, is_own: bool) -> Arc<Self> {
        Arc::new(Self { serial: SERIAL.fetch_add(1, Ordering::Relaxed), uid, is_own, info })
    }

    /// `namespace/name`.
    pub(crate) fn name(&self) -> Arc<str> {
        format!("{}/{}", self.info.namespace, self.info.name).into()
    }
}

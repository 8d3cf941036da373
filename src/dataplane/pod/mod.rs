//! What the connections of one pod share: who the pod is, its workload, its network, and its live connections.

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

/// Which pod it is.
#[derive(Debug)]
pub(crate) struct PodId {
    /// Number unique in this process: a pod that comes back is another one.
    pub(crate) serial: u64,
    /// Kubernetes uid; "self" for the proxy's own pod.
    pub(crate) uid: Arc<str>,
    /// The proxy's own pod has plain sockets, and only HBONE reaches it through the proxy.
    pub(crate) is_own: bool,
    /// Who the pod says it is.
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

//! The state that the connections of one pod share: the pod's id, workload, network, and live connections.

pub(crate) mod conns;
pub(crate) mod departure;
mod descriptors;
pub(crate) mod network;
pub(crate) mod panics;
mod source_ports;
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
    /// Who named the pod.
    pub(crate) source: PodSource,
    /// The name, namespace and service account of the pod.
    pub(crate) info: WorkloadInfo,
}

/// Who names a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodSource {
    /// istio-cni, which has given the pod a namespace with redirection rules.
    HandOver,
    /// The settings, as the proxy's own pod. It has plain sockets, and only HBONE reaches it through the proxy.
    Own,
    /// The settings, as the one workload of the dedicated mode. The proxy does not know how it is redirected.
    Dedicated,
}

// === impl PodId ===

impl PodId {
    /// A pod that was handed over by istio-cni.
    pub(crate) fn new(uid: Arc<str>, info: WorkloadInfo) -> Arc<Self> {
        Self::make(uid, info, PodSource::HandOver)
    }

    /// The proxy's own pod (docs/spec/dataplane.md 4.5).
    pub(crate) fn own(info: WorkloadInfo) -> Arc<Self> {
        Self::make("self".into(), info, PodSource::Own)
    }

    /// The one workload of the dedicated mode (docs/spec/dataplane.md 0).
    pub(crate) fn dedicated(info: WorkloadInfo) -> Arc<Self> {
        Self::make("dedicated".into(), info, PodSource::Dedicated)
    }

    fn make(uid: Arc<str>, info: WorkloadInfo, source: PodSource) -> Arc<Self> {
        Arc::new(Self { serial: SERIAL.fetch_add(1, Ordering::Relaxed), uid, source, info })
    }

    /// Whether the pod is the proxy's own.
    pub(crate) fn is_own(&self) -> bool {
        self.source == PodSource::Own
    }

    /// Whether istio-cni has handed the pod over, and so has written its redirection rules.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.source == PodSource::HandOver
    }

    /// `namespace/name`.
    pub(crate) fn name(&self) -> Arc<str> {
        format!("{}/{}", self.info.namespace, self.info.name).into()
    }
}

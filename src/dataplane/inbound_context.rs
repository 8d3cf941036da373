//! The context of a pod's inbound connections: through a tunnel, in plaintext, or from another pod of the node.

use std::sync::Arc;

use super::{
    certificates::Certificates,
    config::DataPlaneConfig,
    pod::{
        conns::PodConns,
        network::{Network, PodNetwork},
        workload::PodWorkload,
    },
};
use crate::telemetry::metrics::Metrics;

/// The context of a pod's inbound connections. A pod has one value, which the pod's connections share.
pub(crate) struct InboundContext<N: Network = PodNetwork> {
    /// The pod's workload, and the mesh.
    pub(crate) pod: Arc<PodWorkload>,
    /// The network in which connections to the application are made.
    pub(crate) network: Arc<N>,
    /// The pod's live connections.
    pub(crate) conns: Arc<PodConns>,
    /// Certificates of this node's workloads.
    pub(crate) certs: Arc<dyn Certificates>,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Settings.
    pub(crate) config: Arc<DataPlaneConfig>,
}

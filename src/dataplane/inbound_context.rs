//! What inbound connections of a pod need: through a tunnel, in plaintext, or from another pod of the node.

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

/// What inbound connections of a pod need. One value a pod, shared by its connections.
pub(crate) struct InboundContext<N: Network = PodNetwork> {
    /// The pod's workload, and the mesh.
    pub(crate) pod: Arc<PodWorkload>,
    /// Where the application is connected to.
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

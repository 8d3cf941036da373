//! What outbound connections of a pod need.

use std::sync::Arc;

use super::{
    certificates::Certificates,
    config::DataPlaneConfig,
    listener::Canaries,
    pod::{
        conns::PodConns,
        network::{Network, PodNetwork},
        workload::PodWorkload,
    },
    pod_directory::PodDirectory,
    resolver::Resolver,
    tunnel::dialer::Dialer,
    unhealthy_endpoints::UnhealthyEndpoints,
};
use crate::telemetry::metrics::Metrics;

/// What outbound connections of a pod need. One value a pod, shared by its connections.
pub(crate) struct OutboundContext<N: Network = PodNetwork> {
    /// The pod's workload, and the mesh.
    pub(crate) pod: Arc<PodWorkload>,
    /// Where connections are made.
    pub(crate) network: Arc<N>,
    /// The pod's live connections.
    pub(crate) conns: Arc<PodConns>,
    /// Dials tunnels.
    pub(crate) dialer: Arc<dyn Dialer>,
    /// What is known of next hops.
    pub(crate) hops: Arc<NextHops<N>>,
    /// Where the pod's audit waits for its canaries.
    pub(crate) canaries: Arc<Canaries>,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Settings.
    pub(crate) config: Arc<DataPlaneConfig>,
}

/// What the outbound connections of all pods know of next hops. One value a process.
pub(crate) struct NextHops<N: Network = PodNetwork> {
    /// Next hops that lately did not answer.
    pub(crate) unhealthy: UnhealthyEndpoints,
    /// The pods of this node, as destinations.
    pub(crate) directory: PodDirectory<N>,
    /// Certificates of this node's workloads.
    pub(crate) certs: Arc<dyn Certificates>,
    /// Finds the addresses of names.
    pub(crate) resolver: Resolver,
}

//! The context of a pod's outbound connections.

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
    suspicions::Suspicions,
    tracked_hop::TrackedHop,
    tunnel::dialer::Dialer,
};
use crate::{runtime::conns::ConnSet, telemetry::metrics::Metrics};

/// The context of a pod's outbound connections. A pod has one value, which the pod's connections share.
pub(crate) struct OutboundContext<N: Network = PodNetwork> {
    /// The pod's workload, and the mesh.
    pub(crate) pod: Arc<PodWorkload>,
    /// The network in which connections are made.
    pub(crate) network: Arc<N>,
    /// The pod's live connections.
    pub(crate) conns: Arc<PodConns>,
    /// The way to the pod's peers.
    pub(crate) peers: Peers,
    /// The state of next hops, which all pods share.
    pub(crate) hops: Arc<NextHops<N>>,
    /// The canaries for which the pod's audit waits.
    pub(crate) canaries: Arc<Canaries>,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Settings.
    pub(crate) config: Arc<DataPlaneConfig>,
}

/// The way of a pod to its peers, and what the pod's connections have learned on it.
pub(crate) struct Peers {
    /// Dials tunnels.
    pub(crate) dialer: Arc<dyn Dialer>,
    /// Next hops that failed lately.
    pub(crate) suspicions: Suspicions,
}

/// The state of next hops that the outbound connections of all pods share. A process has one value.
pub(crate) struct NextHops<N: Network = PodNetwork> {
    /// The pods of this node, as destinations.
    pub(crate) directory: PodDirectory<N>,
    /// Certificates of this node's workloads.
    pub(crate) certs: Arc<dyn Certificates>,
    /// The local hops that a revocation list may cut.
    pub(crate) joined: ConnSet<TrackedHop>,
    /// The resolver for next hops that have only a name.
    pub(crate) resolver: Resolver,
}

// === impl Peers ===

impl Peers {
    /// The way by `dialer`, without suspicions.
    pub(crate) fn new(dialer: Arc<dyn Dialer>) -> Self {
        Self { dialer, suspicions: Suspicions::default() }
    }
}

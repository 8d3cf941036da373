//! What the actors of all pods share.

use std::sync::Arc;

use super::unhealthy::UnhealthyPods;
use crate::{
    actors::quarantine::Quarantine,
    dataplane::{config::DataPlaneConfig, mesh_view::MeshView, outbound_context::NextHops},
    runtime::shard::Shards,
    sys::netns::NetNs,
    telemetry::metrics::Metrics,
};

/// What the actors of all pods share. One value a process.
pub(crate) struct Node {
    /// Workloads, services and policies.
    pub(crate) mesh: MeshView,
    /// What is known of next hops.
    pub(crate) hops: Arc<NextHops>,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Threads of the data plane.
    pub(crate) shards: Shards,
    /// The process's own namespace.
    pub(crate) home: NetNs,
    /// Pods that have fallen out of the mesh.
    pub(crate) unhealthy: UnhealthyPods,
    /// Input that crashed an actor.
    pub(crate) quarantine: Quarantine,
    /// Settings.
    pub(crate) config: Arc<DataPlaneConfig>,
}

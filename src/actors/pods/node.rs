//! The values that the actors of all pods share.

use std::sync::Arc;

use super::unhealthy::UnhealthyPods;
use crate::{
    actors::quarantine::Quarantine,
    dataplane::{config::DataPlaneConfig, mesh_view::MeshView, outbound_context::NextHops},
    runtime::shard::Shards,
    sys::netns::NetNs,
    telemetry::metrics::Metrics,
};

/// The values that the actors of all pods share. The process has one `Node`.
pub(crate) struct Node {
    /// The view of workloads, services and policies.
    pub(crate) mesh: MeshView,
    /// The state of next hops.
    pub(crate) hops: Arc<NextHops>,
    /// The metrics of the process.
    pub(crate) metrics: Arc<Metrics>,
    /// The shards of the data plane.
    pub(crate) shards: Shards,
    /// The network namespace of the process.
    pub(crate) home: NetNs,
    /// The pods that are out of the mesh.
    pub(crate) unhealthy: UnhealthyPods,
    /// The inputs that crashed an actor.
    pub(crate) quarantine: Quarantine,
    /// The settings of the data plane.
    pub(crate) config: Arc<DataPlaneConfig>,
}

//! The DNS proxy of a pod: how names are answered, and what outlives the actor that owns the tasks.

pub(crate) mod ask;
pub(crate) mod serve;
pub(crate) mod sockets;

use std::sync::{Arc, atomic::AtomicUsize};

use parking_lot::Mutex;

use self::sockets::Sockets;
use super::{
    config::DataPlaneConfig,
    pod::{conns::PodConns, network::PodNetwork, workload::PodWorkload},
};
use crate::{runtime::conns::ConnSet, telemetry::metrics::Metrics};

/// What the DNS proxy of a pod needs.
pub(crate) struct DnsContext {
    /// The pod's workload, and the mesh.
    pub(crate) pod: Arc<PodWorkload>,
    /// Where name servers are asked.
    pub(crate) network: Arc<PodNetwork>,
    /// Whether the pod takes new connections and questions.
    pub(crate) conns: Arc<PodConns>,
    /// What outlives the actor.
    pub(crate) state: Arc<DnsState>,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Settings.
    pub(crate) config: Arc<DataPlaneConfig>,
}

/// What of a pod's DNS proxy outlives its actor.
#[derive(Debug)]
pub(crate) struct DnsState {
    sockets: Mutex<Option<Sockets>>,
    /// Questions that wait, and connections.
    under_way: ConnSet<()>,
    waiting: AtomicUsize,
    connections: AtomicUsize,
}

// === impl Names ===

impl DnsState {
    /// Nothing yet. `shards`: how many there are.
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            sockets: Mutex::default(),
            under_way: ConnSet::new(shards),
            waiting: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        }
    }

    /// No further question reaches the sockets; those that have are answered.
    pub(crate) fn retire(&self) {
        if let Some(sockets) = self.sockets.lock().take() {
            sockets.retire();
        }
    }

    /// Questions under way, and connections. Cut, they end without an answer.
    pub(crate) fn under_way(&self) -> &ConnSet<()> {
        &self.under_way
    }
}

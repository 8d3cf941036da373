//! What the DNS proxy of a pod needs, and what outlives its actor.

use std::sync::{Arc, atomic::AtomicUsize};

use parking_lot::Mutex;

use super::sockets::Sockets;
use crate::{
    dataplane::{
        config::DataPlaneConfig,
        pod::{conns::PodConns, network::PodNetwork, workload::PodWorkload},
    },
    runtime::conns::ConnSet,
    telemetry::metrics::Metrics,
};

/// What the DNS proxy of a pod needs.
pub(crate) struct DnsContext {
    /// The pod's workload, and the mesh.
    pub(crate) pod: Arc<PodWorkload>,
    /// Where name servers are asked.
    pub(crate) network: Arc<PodNetwork>,
    /// Whether the pod takes new connections and queries.
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
    /// Queries that wait, and connections.
    pub(super) under_way: ConnSet<()>,
    pub(super) waiting: AtomicUsize,
    pub(super) connections: AtomicUsize,
}

// === impl DnsContext ===

impl DnsContext {
    /// The sockets of the pod: the ones it has already, or new ones.
    ///
    /// # Errors
    /// An address cannot be listened on; it is named.
    pub(crate) fn sockets(&self) -> Result<Sockets, String> {
        let mut held = self.state.sockets.lock();
        let sockets = match &mut *held {
            Some(held) => held,
            None => held.insert(Sockets::bind(&self.network, &self.config)?),
        };
        Ok(sockets.clone())
    }
}

// === impl DnsState ===

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

    /// No further query reaches the sockets; those that have are answered.
    pub(crate) fn retire(&self) {
        if let Some(sockets) = self.sockets.lock().take() {
            sockets.retire();
        }
    }

    /// Queries under way, and connections. Cut, they end without an answer.
    pub(crate) fn under_way(&self) -> &ConnSet<()> {
        &self.under_way
    }
}

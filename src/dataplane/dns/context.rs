//! The context of a pod's DNS proxy, and the state that outlives the DNS proxy's actor.

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

/// The context of a pod's DNS proxy.
pub(crate) struct DnsContext {
    /// The pod's workload, and the mesh.
    pub(crate) pod: Arc<PodWorkload>,
    /// The network from which name servers are asked.
    pub(crate) network: Arc<PodNetwork>,
    /// The pod's connections. Their drain also ends the DNS proxy's tasks.
    pub(crate) conns: Arc<PodConns>,
    /// The state that outlives the actor.
    pub(crate) state: Arc<DnsState>,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Settings.
    pub(crate) config: Arc<DataPlaneConfig>,
}

/// The state of a pod's DNS proxy that outlives the actor.
#[derive(Debug)]
pub(crate) struct DnsState {
    sockets: Mutex<Option<Sockets>>,
    /// The queries that wait, and the connections.
    pub(super) under_way: ConnSet<()>,
    pub(super) waiting: AtomicUsize,
    pub(super) connections: AtomicUsize,
}

// === impl DnsContext ===

impl DnsContext {
    /// The DNS sockets of the pod. The first call binds the sockets.
    ///
    /// # Errors
    /// An address cannot be listened on. The error names the address.
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
    /// A state without sockets, queries and connections. `shards` is the number of shards.
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            sockets: Mutex::default(),
            under_way: ConnSet::new(shards),
            waiting: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        }
    }

    /// Keeps further queries from the sockets. Queries that have arrived are answered.
    pub(crate) fn retire(&self) {
        if let Some(sockets) = self.sockets.lock().take() {
            sockets.retire();
        }
    }

    /// The queries under way, and the connections. A query that is cut ends without an answer.
    pub(crate) fn under_way(&self) -> &ConnSet<()> {
        &self.under_way
    }
}

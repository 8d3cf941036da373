//! The DNS proxy of a pod: how names are answered, and what outlives the actor that owns the tasks.

pub mod ask;
pub mod serve;
pub mod sockets;

use std::sync::atomic::AtomicUsize;

use parking_lot::Mutex;

use self::sockets::Sockets;
use crate::{
    protocols::{config::DnsAddr, dns::resolvers::Resolvers},
    runtime::conns::ConnSet,
};

/// How names are answered.
#[derive(Clone, Debug)]
pub struct DnsSettings {
    /// Where in each pod.
    pub address: DnsAddr,
    /// The cluster's domain, in lower case.
    pub domain: String,
    /// Whose service goes before others that are as good.
    pub preferred_namespace: Option<String>,
    /// Whom to ask for what is none of the mesh's names.
    pub resolvers: Resolvers,
}

/// What of a pod's DNS proxy outlives its actor.
#[derive(Debug)]
pub struct DnsState {
    sockets: Mutex<Option<Sockets>>,
    /// Questions that wait, and connections.
    under_way: ConnSet<()>,
    waiting: AtomicUsize,
    connections: AtomicUsize,
}

// === impl Names ===

impl DnsState {
    /// Nothing yet. `shards`: how many there are.
    pub fn new(shards: usize) -> Self {
        Self {
            sockets: Mutex::default(),
            under_way: ConnSet::new(shards),
            waiting: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        }
    }

    /// No further question reaches the sockets; those that have are answered.
    pub fn retire(&self) {
        if let Some(sockets) = self.sockets.lock().take() {
            sockets.retire();
        }
    }

    /// Questions under way, and connections. Cut, they end without an answer.
    pub fn under_way(&self) -> &ConnSet<()> {
        &self.under_way
    }
}

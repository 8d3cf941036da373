//! The live connections of a pod, and whether the pod still takes new ones.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;

use crate::{
    protocols::{identity::Identity, labels::Reporter},
    runtime::conns::ConnSet,
};

/// Why live connections are cut; the codes of [`CutReason`](crate::runtime::conns::CutReason).
pub(crate) mod cut {
    use crate::runtime::conns::CutReason;

    /// A policy that now applies forbids it.
    pub(crate) const POLICY: CutReason = CutReason(1);
    /// The proxy shuts down and the deadline has passed.
    pub(crate) const DRAIN: CutReason = CutReason(2);
    /// The pod was removed.
    pub(crate) const POD: CutReason = CutReason(3);
    /// The actor that owns the pod's connections was lost.
    pub(crate) const OWNER: CutReason = CutReason(4);
}

/// The live connections of a pod.
#[derive(Debug)]
pub(crate) struct PodConns {
    /// Connections of applications.
    pub(crate) live: ConnSet<ConnInfo>,
    /// Tunnels that peers have opened to the pod, by the peer's address.
    pub(crate) peers: ConnSet<SocketAddr>,
    /// Tunnels that the pod has opened to peers, or is about to, by the peer's address.
    pub(crate) dialled: ConnSet<SocketAddr>,
    /// Connections that are accepted and in none of these sets yet.
    arriving: AtomicUsize,
    /// Set once: no connection is accepted any more.
    draining: watch::Sender<bool>,
}

/// What is known of a live connection, for policy and for showing.
#[derive(Debug)]
pub(crate) struct ConnInfo {
    /// Direction.
    pub(crate) reporter: Reporter,
    /// The client.
    pub(crate) src: SocketAddr,
    /// The client's identity, if it has one.
    pub(crate) identity: Option<Identity>,
    /// What policies see as its destination; for outbound connections the original destination.
    pub(crate) dst: SocketAddr,
    /// The connection is not let in yet: it waits for a policy that is named and not known.
    pub(crate) waits: AtomicBool,
}

/// A connection that is accepted and in none of the pod's sets yet: it may be on its way to another shard, or wait in
/// a fair queue. A drain waits for it.
#[derive(Debug)]
pub(crate) struct Arriving(Arc<PodConns>);

// === impl PodConns ===

impl PodConns {
    /// No connections yet. `shards`: how many shards there are.
    pub(crate) fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self {
            live: ConnSet::new(shards),
            peers: ConnSet::new(shards),
            dialled: ConnSet::new(shards),
            arriving: AtomicUsize::new(0),
            draining: watch::Sender::new(false),
        })
    }

    /// A connection of the pod has been accepted.
    pub(crate) fn arriving(self: &Arc<Self>) -> Arriving {
        self.arriving.fetch_add(1, Ordering::Relaxed);
        Arriving(self.clone())
    }

    /// Whether a connection that is accepted may still be in none of the sets.
    pub(crate) fn has_arriving(&self) -> bool {
        self.arriving.load(Ordering::Acquire) > 0
    }

    /// Whether the pod takes no new connections.
    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Changes to true once the pod takes no new connections.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// The pod takes no new connections from now on.
    pub(crate) fn drain(&self) {
        self.draining.send_replace(true);
    }
}

// === impl Arriving ===

impl Drop for Arriving {
    fn drop(&mut self) {
        // Whoever sees that the connection has arrived sees it in its set, too.
        self.0.arriving.fetch_sub(1, Ordering::Release);
    }
}

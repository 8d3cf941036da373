//! The live connections of a pod, and whether the pod still takes new connections.

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

/// The reasons for which live connections are cut, as codes of [`CutReason`](crate::runtime::conns::CutReason).
pub(crate) mod cut {
    use crate::runtime::conns::CutReason;

    /// A policy that now applies forbids the connection.
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
    /// The connections of applications.
    pub(crate) live: ConnSet<ConnInfo>,
    /// The tunnels that peers have opened to the pod, by the peer's address.
    pub(crate) peers: ConnSet<SocketAddr>,
    /// The tunnels that the pod has opened to peers, and the dials under way, by the peer's address.
    pub(crate) dialled: ConnSet<SocketAddr>,
    /// The number of connections that are accepted and in none of these sets yet.
    arriving: AtomicUsize,
    /// Whether the pod drains. A pod that drains takes no new connections.
    draining: watch::Sender<bool>,
}

/// The description of a live connection, for policies and for display.
#[derive(Debug)]
pub(crate) struct ConnInfo {
    /// The side of the connection that this proxy reports.
    pub(crate) reporter: Reporter,
    /// The client.
    pub(crate) src: SocketAddr,
    /// The client's identity, if it has one.
    pub(crate) identity: Option<Identity>,
    /// The destination that policies see; for outbound connections the original destination.
    pub(crate) dst: SocketAddr,
    /// Whether the connection waits for a policy that the workload names and that is not known yet.
    pub(crate) waits: AtomicBool,
}

/// A connection that is accepted and in none of the pod's sets yet. The connection may be on its way to another shard,
/// or wait in a fair queue. A drain waits for the connection.
#[derive(Debug)]
pub(crate) struct Arriving(Arc<PodConns>);

// === impl PodConns ===

impl PodConns {
    /// Empty sets of connections. `shards` is the number of shards.
    pub(crate) fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self {
            live: ConnSet::new(shards),
            peers: ConnSet::new(shards),
            dialled: ConnSet::new(shards),
            arriving: AtomicUsize::new(0),
            draining: watch::Sender::new(false),
        })
    }

    /// Counts an accepted connection as arriving until the result is dropped.
    pub(crate) fn arriving(self: &Arc<Self>) -> Arriving {
        self.arriving.fetch_add(1, Ordering::Relaxed);
        Arriving(self.clone())
    }

    /// Whether an accepted connection may still be in none of the sets.
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

    /// Begins the drain: the pod takes no new connections from now on.
    pub(crate) fn drain(&self) {
        self.draining.send_replace(true);
    }
}

// === impl Arriving ===

impl Drop for Arriving {
    fn drop(&mut self) {
        // A reader that sees the new count also sees the connection in its set.
        self.0.arriving.fetch_sub(1, Ordering::Release);
    }
}

//! The state that outlives the actor of revocation lists, and what the actor reaches of the pods.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use crate::{
    dataplane::{
        pod::conns::{PeerTunnel, TunnelInfo},
        tracked_hop::TrackedHop,
    },
    protocols::tls::{RevocationError, RevocationLists, Revocations},
    runtime::conns::ConnSet,
    telemetry::metrics::Metrics,
};

/// The tunnels and local hops that a revocation list may cut.
pub(crate) trait Tunnels: Send + Sync {
    /// The tunnels of all pods: for each pod the tunnels from peers and the tunnels to peers.
    fn tunnels(&self) -> Vec<(ConnSet<PeerTunnel>, ConnSet<TunnelInfo>)>;

    /// The hops between pods of this node.
    fn hops(&self) -> ConnSet<TrackedHop>;
}

/// The parser of a file. Tests have another one.
pub(super) type Parse = fn(&[u8]) -> Result<RevocationLists, RevocationError>;

/// The state that outlives the actor.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    /// Whether the proxy must not start without the lists of the file.
    pub(super) required: bool,
    /// Whether an incarnation of the actor has started.
    pub(super) started: AtomicBool,
    pub(super) parse: Parse,
    pub(super) lists: Arc<Revocations>,
    pub(super) tunnels: Arc<dyn Tunnels>,
    pub(super) metrics: Arc<Metrics>,
}

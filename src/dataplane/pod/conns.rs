//! The live connections of a pod, and whether the pod still takes new connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::departure::{Departure, TunnelOffer};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{PodId, descriptors::Waits};
use crate::{
    protocols::{identity::Identity, labels::Reporter, tls::PeerChain},
    runtime::conns::ConnSet,
    sys::coarse_clock,
    telemetry::metrics::CrlMetrics,
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
    /// A certificate of the peer was revoked.
    pub(crate) const REVOKED: CutReason = CutReason(5);
    /// An operator has asked for it.
    pub(crate) const OPERATOR: CutReason = CutReason(6);
}

/// The live connections of a pod.
#[derive(Debug)]
pub(crate) struct PodConns {
    /// The connections of applications.
    pub(crate) live: ConnSet<ConnInfo>,
    /// The tunnels that peers have opened to the pod.
    pub(crate) peers: ConnSet<PeerTunnel>,
    /// The tunnels that the pod has opened to peers, and the dials under way.
    pub(crate) dialled: ConnSet<TunnelInfo>,
    /// The number of connections that are accepted and in none of these sets yet.
    arriving: AtomicUsize,
    /// Whether the pod drains. A pod that drains takes no new connections.
    draining: watch::Sender<bool>,
    /// The number of tunnels from peers at which unused ones are looked for next.
    look_at: AtomicUsize,
    /// Who waits for descriptors.
    waits: Waits,
    /// The time from which [`PeerTunnel::used`] counts.
    since: Instant,
}

/// A tunnel that a peer has opened to the pod.
#[derive(Debug)]
pub(crate) struct PeerTunnel {
    /// The peer and its certificates.
    pub(crate) of: TunnelInfo,
    /// Changes when the tunnel has to take no further streams, which makes room for another tunnel.
    pub(crate) leaves: Notify,
    leaving: AtomicBool,
    /// When the last stream began, in milliseconds.
    used: AtomicU64,
}

/// The number of tunnels from peers past which unused tunnels are not kept. A node of 500 pods with 16 shards has as
/// many.
/// Limit: tunnels from peers to a pod that are all kept: 8192; past it: those used longest ago take no more streams.
pub(crate) const KEPT_TUNNELS: usize = 8192;
/// The descriptors of an application's connection: one for each side.
/// No limit: a number that is reckoned with.
const OF_CONNECTION: usize = 2;
/// The number of tunnels that leave at a time.
/// Limit: tunnels from peers that make room at a time: 256; past it: the next new tunnel has others leave.
const LEAVING_AT_ONCE: usize = 256;
/// How long a tunnel is left alone after the begin of a stream.
/// Limit: a tunnel from a peer that makes room for others: unused for 10 s; past it: the tunnel may have to leave.
const UNUSED_FOR: Duration = Duration::from_secs(10);

/// The description of a tunnel, or of a tunnel that is being set up. Each tunnel of a pod is in one of the pod's sets and
/// runs under the guard of its entry there, also each of two tunnels on one connection.
#[derive(Debug)]
pub(crate) struct TunnelInfo {
    /// The peer.
    pub(crate) peer: SocketAddr,
    /// The peer's certificates, once the handshake is done and if revocation lists are configured.
    chain: OnceLock<Box<PeerChain>>,
    /// The peer's identity as far as it is known, once the tunnel is set up.
    up: OnceLock<Option<Identity>>,
    /// Where the tunnel goes while somebody wants to move it to another process.
    pub(crate) departure: Departure<TunnelOffer>,
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
    /// The service that the client asked for, as the client's proxy says.
    pub(crate) host: Option<Box<str>>,
    /// The next hop of an outbound connection, once the next hop is chosen.
    pub(crate) next_hop: Mutex<Option<NextHop>>,
    /// Where the connection goes while somebody wants to move it to another process.
    pub(crate) departure: Departure,
    /// What the connection has carried.
    pub(crate) carried: Carried,
}

/// What a live connection has carried, for display. The connection's shard alone writes, so no write needs to be atomic
/// as a whole.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    received: AtomicU64,
    sent: AtomicU64,
    /// When bytes were passed on last, in milliseconds of the coarse clock; 0 before the first.
    active_ms: AtomicU64,
    /// Whether this process serves both sides, and no tunnel carries the connection.
    is_local: AtomicBool,
}

/// The next hop of a live connection, for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextHop {
    /// The address that is dialled.
    pub(crate) addr: SocketAddr,
    /// The protocol in the notation of dumps: `TCP`, `HBONE` or `DOUBLEHBONE`.
    pub(crate) protocol: &'static str,
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
            look_at: AtomicUsize::new(KEPT_TUNNELS),
            waits: Waits::default(),
            since: Instant::now(),
        })
    }

    /// The entry of a tunnel that `peer` has opened just now.
    pub(crate) fn peer_tunnel(&self, peer: SocketAddr) -> PeerTunnel {
        let used = AtomicU64::new(self.elapsed());
        PeerTunnel { of: TunnelInfo::new(peer), leaves: Notify::new(), leaving: AtomicBool::new(false), used }
    }

    /// Notes that a stream begins on a tunnel.
    pub(crate) fn uses(&self, tunnel: &PeerTunnel) {
        tunnel.used.store(self.elapsed(), Ordering::Relaxed);
    }

    /// Has the tunnels leave that were used longest ago, if `open` tunnels from peers are many.
    pub(crate) fn make_room(&self, open: usize) {
        if open < self.look_at.load(Ordering::Relaxed) {
            return;
        }
        let now = self.elapsed();
        let unused_since = now.saturating_sub(u64::try_from(UNUSED_FOR.as_millis()).unwrap_or(u64::MAX));
        let mut unused = Vec::new();
        self.peers.for_each(|conn| {
            let (used, leaving) = (conn.info().used.load(Ordering::Relaxed), &conn.info().leaving);
            if used <= unused_since && !leaving.load(Ordering::Relaxed) {
                unused.push((used, conn.clone()));
            }
        });
        unused.sort_unstable_by_key(|(used, _)| *used);
        unused.truncate(LEAVING_AT_ONCE);
        for (_, conn) in &unused {
            conn.info().leaving.store(true, Ordering::Relaxed);
            conn.info().leaves.notify_one();
        }
        // A look is work. If it finds nothing, the next one waits for more tunnels.
        let next = (open + LEAVING_AT_ONCE).saturating_sub(unused.len());
        self.look_at.store(next.max(KEPT_TUNNELS), Ordering::Relaxed);
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Counts an accepted connection as arriving until the result is dropped.
    pub(crate) fn arriving(self: &Arc<Self>) -> Arriving {
        self.arriving.fetch_add(1, Ordering::Relaxed);
        Arriving(self.clone())
    }

    /// The number of descriptors that the pod's connections and tunnels are reckoned to have.
    pub(crate) fn descriptors(&self) -> usize {
        let sockets = self.live.len() + self.arriving.load(Ordering::Relaxed);
        OF_CONNECTION * sockets.saturating_sub(self.waits.connecting())
            + self.peers.len()
            + self.dialled.len()
    }

    /// Whether the pod waits for descriptors.
    pub(crate) fn waits_for_descriptors(&self) -> bool {
        self.waits.is_any()
    }

    /// Waits until the pod may accept another connection, if descriptors are short.
    pub(crate) async fn may_accept(&self, id: &PodId) {
        self.waits.accept(id, || self.descriptors()).await;
    }

    /// Waits until the pod may open a socket for a connection that it has, if descriptors are short.
    pub(crate) async fn may_connect(&self, id: &PodId) {
        self.waits.connect(id, || self.descriptors()).await;
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

// === impl Carried ===

impl Carried {
    /// Of the connection's side that a local hop ends at.
    pub(crate) fn locally() -> Self {
        Self { is_local: true.into(), ..Self::default() }
    }

    /// Notes that this process serves both sides.
    pub(crate) fn is_joined(&self) {
        self.is_local.store(true, Ordering::Relaxed);
    }

    /// Begins with these numbers of bytes: from client to server, and from server to client.
    pub(crate) fn begin_with(&self, (received, sent): (u64, u64)) {
        self.received.store(received, Ordering::Relaxed);
        self.sent.store(sent, Ordering::Relaxed);
    }

    /// Adds bytes that went from client to server.
    pub(crate) fn forward(&self, bytes: u64) {
        self.received.store(self.received() + bytes, Ordering::Relaxed);
        self.touch();
    }

    /// Adds bytes that went from server to client.
    pub(crate) fn backward(&self, bytes: u64) {
        self.sent.store(self.sent() + bytes, Ordering::Relaxed);
        self.touch();
    }

    /// The bytes that went from client to server.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The bytes that went from server to client.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether this process serves both sides.
    pub(crate) fn is_local(&self) -> bool {
        self.is_local.load(Ordering::Relaxed)
    }

    /// How long before `now`, a time of the coarse clock, bytes were passed on last. `None` if none ever were.
    pub(crate) fn idle(&self, now: Duration) -> Option<Duration> {
        let active = self.active_ms.load(Ordering::Relaxed);
        (active > 0).then(|| now.saturating_sub(Duration::from_millis(active)))
    }

    fn touch(&self) {
        let now = u64::try_from(coarse_clock::now().as_millis()).unwrap_or(u64::MAX);
        self.active_ms.store(now, Ordering::Relaxed);
    }
}

// === impl TunnelInfo ===

impl TunnelInfo {
    /// A tunnel whose handshake is not done.
    pub(crate) fn new(peer: SocketAddr) -> Self {
        Self { peer, chain: OnceLock::new(), up: OnceLock::new(), departure: Departure::default() }
    }

    /// Notes that the tunnel is set up, with the identity by which the peer was admitted.
    pub(crate) fn set_up(&self, identity: Option<Identity>) {
        self.up.get_or_init(|| identity);
    }

    /// Whether the tunnel is set up.
    pub(crate) fn is_up(&self) -> bool {
        self.up.get().is_some()
    }

    /// The peer's identity, once the tunnel is set up and if the identity is known.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.up.get()?.as_ref()
    }

    /// The peer's certificates, if revocation lists are configured.
    pub(crate) fn chain(&self) -> Option<&PeerChain> {
        self.chain.get().map(|chain| &**chain)
    }

    /// Keeps the certificates that a handshake has verified, so that a later list cuts the tunnel with
    /// [`cut::REVOKED`]. Returns whether the tunnel may begin: lists that came meanwhile may name a certificate.
    pub(crate) fn keep(
        &self,
        chain: Option<Box<PeerChain>>,
        metrics: &CrlMetrics,
        reporter: Reporter,
    ) -> bool {
        let Some(chain) = chain else { return true };
        if !chain.is_legible() {
            metrics.untracked(reporter);
        }
        // A reload replaces the lists first and looks at the tunnels then. So a reload or the line below sees both.
        let revoked = self.chain.get_or_init(|| chain).is_revoked();
        if revoked {
            metrics.rejected(reporter);
        }
        !revoked
    }
}

impl AsRef<TunnelInfo> for TunnelInfo {
    fn as_ref(&self) -> &TunnelInfo {
        self
    }
}

// === impl PeerTunnel ===

impl AsRef<TunnelInfo> for PeerTunnel {
    fn as_ref(&self) -> &TunnelInfo {
        &self.of
    }
}

// === impl Arriving ===

impl Drop for Arriving {
    fn drop(&mut self) {
        // A reader that sees the new count also sees the connection in its set.
        self.0.arriving.fetch_sub(1, Ordering::Release);
    }
}

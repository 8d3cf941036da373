//! What every connection of this node reads: tables, certificates, metrics, settings. Shared, never locked for long.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{
    certs::Certs,
    dns::DnsSettings,
    pods::{neighbours::Neighbours, trouble::Troubles},
    shard::Shards,
    sys::netns::NetNs,
    telemetry::metrics::Metrics,
};
use crate::{
    protocols::{
        config::{Http2Config, Keepalive, Ports},
        mesh::Mesh,
    },
    supervisor::Quarantine,
};

/// Why live connections are cut; the codes of [`crate::supervisor::CutReason`].
pub mod cut {
    use crate::supervisor::CutReason;

    /// A policy that now applies forbids it.
    pub const POLICY: CutReason = CutReason(1);
    /// The proxy shuts down and the deadline has passed.
    pub const DRAIN: CutReason = CutReason(2);
    /// The pod was removed.
    pub const POD: CutReason = CutReason(3);
    /// The actor that owns the pod's connections was lost.
    pub const OWNER: CutReason = CutReason(4);
}

/// The data plane's context. One value a process.
pub struct Node {
    /// Workloads, services and policies.
    pub mesh: Mesh,
    /// Changes after every applied push.
    pub mesh_changed: watch::Receiver<u64>,
    /// Certificates.
    pub certs: Certs,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Threads of the data plane.
    pub shards: Shards,
    /// The process's own namespace.
    pub home: NetNs,
    /// Next hops that lately did not answer.
    pub suspects: Suspects,
    /// The pods served here, as destinations of each other.
    pub neighbours: Neighbours,
    /// Pods that have fallen out of the mesh.
    pub troubles: Troubles,
    /// Input that crashed an actor.
    pub quarantine: Quarantine,
    /// Settings.
    pub settings: Settings,
}

/// Settings of the data plane (contract/dataplane.md sections 1 and 2).
#[derive(Clone, Debug)]
pub struct Settings {
    /// Network of this node.
    pub network: String,
    /// Listen on `[::]` rather than `0.0.0.0`.
    pub ipv6: bool,
    /// `SO_MARK` of sockets in pods.
    pub mark: Option<u32>,
    /// `SO_REUSEPORT` on listeners.
    pub reuse_port: bool,
    /// Connect to applications as the client: required, forbidden, or where permitted.
    pub original_source: Option<bool>,
    /// TCP keepalive, if on.
    pub keepalive: Option<Keepalive>,
    /// Connections whose round trip is shorter are not paced though that is the host's default; zero: only those within
    /// the host are not.
    pub unpaced_rtt: Duration,
    /// HTTP/2 of tunnels.
    pub http2: Http2Config,
    /// Bounds of tunnels.
    pub pool: PoolSettings,
    /// Bounds of each step.
    pub timeouts: Timeouts,
    /// What telemetry and delivery do beyond the plain case.
    pub options: Options,
    /// Ports of our own that nobody may reach through us.
    pub illegal_ports: Ports,
    /// How names are answered, if they are.
    pub dns: Option<DnsSettings>,
}

/// Bounds of the tunnels of a pod.
#[derive(Clone, Copy, Debug)]
pub struct PoolSettings {
    /// Streams on one connection.
    pub max_streams: usize,
    /// How long an unused tunnel is kept.
    pub unused_release: Duration,
    /// A PING is sent this long after the last answer.
    pub ping_interval: Duration,
    /// A tunnel is dead when a PING is not answered within this.
    pub ping_timeout: Duration,
}

/// Bounds of waiting.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// TCP connect.
    pub connect: Duration,
    /// TLS handshake, either end.
    pub tls: Duration,
    /// HTTP/2 preface and settings.
    pub http2: Duration,
    /// Answer to a CONNECT.
    pub response: Duration,
    /// A workload or policy not known yet.
    pub workload: Duration,
    /// A certificate not there yet.
    pub certificate: Duration,
}

/// Switches.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Send and read baggage for telemetry.
    pub baggage: bool,
    /// Hand PROXY protocol tunnels to the application on loopback.
    pub localhost_app_tunnel: bool,
    /// Log policy decisions at info.
    pub policy_log: bool,
    /// Join pods of this node without a tunnel.
    pub local_join: bool,
    /// Send what a client has said already along with the CONNECT.
    pub early_data: bool,
}

/// Next hops that lately did not answer: another endpoint of the service is tried before them. Bounded; the oldest
/// suspicion goes first.
#[derive(Debug, Default)]
pub struct Suspects {
    /// Whether there may be any: nearly always not, and then no connection takes the lock.
    any: AtomicBool,
    list: Mutex<VecDeque<(SocketAddr, Instant)>>,
}

/// Suspected next hops at a time.
const MAX_SUSPECTS: usize = 256;
/// How long a suspicion lasts.
const SUSPECTED_FOR: Duration = Duration::from_secs(10);

// === impl Suspects ===

impl Suspects {
    /// Those suspected now.
    pub fn now(&self) -> Vec<SocketAddr> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut list = self.list.lock();
        while list.front().is_some_and(|(_, since)| since.elapsed() > SUSPECTED_FOR) {
            list.pop_front();
        }
        self.any.store(!list.is_empty(), Ordering::Relaxed);
        list.iter().map(|(addr, _)| *addr).collect()
    }

    /// Suspects `addr` from now on.
    pub fn add(&self, addr: SocketAddr) {
        let mut list = self.list.lock();
        list.retain(|(suspect, _)| *suspect != addr);
        if list.len() >= MAX_SUSPECTS {
            list.pop_front();
        }
        list.push_back((addr, Instant::now()));
        self.any.store(true, Ordering::Relaxed);
    }
}

// === impl Node ===

impl Node {
    /// What `look` finds, at once or after a push, within `timeout`. Nothing is waited for on a warm path.
    pub async fn wait_for<T>(&self, timeout: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if let Some(found) = look() {
            return Some(found);
        }
        let mut changes = self.mesh_changed.clone();
        let deadline = Instant::now() + timeout;
        loop {
            changes.borrow_and_update();
            if let Some(found) = look() {
                return Some(found);
            }
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                // The sender lives as long as the process: without it nothing new can come.
                Ok(Err(_)) | Err(_) => return look(),
            }
        }
    }
}

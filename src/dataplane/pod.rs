//! One pod of the node: what its actors and its connections share.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use foldhash::HashMap;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    dns::DnsState,
    listener::{AcceptLoops, ListenerKind},
    node::Node,
    pod_directory::OwnAddresses,
};
use crate::{
    actors::pods::{capture::Captures, tunnel::Tunnels, unhealthy::Canaries},
    protocols::{
        hbone::headers::Baggage,
        identity::Identity,
        labels::Reporter,
        mesh::{Workload, WorkloadInfo},
        outcome::Unroutable,
    },
    runtime::conns::ConnSet,
    supervisor::report_task_panic,
    sys::{netns::NetNs, pacing::PathScope, shared_socket::Shared},
};

static SERIAL: AtomicU64 = AtomicU64::new(1);

/// A pod whose traffic this process carries. It outlives restarts of its actors.
pub struct Pod {
    /// Number unique in this process: a pod that comes back is another one.
    pub serial: u64,
    /// Kubernetes uid.
    pub uid: Arc<str>,
    /// It is the proxy's own pod: its sockets are plain ones, and nothing but HBONE reaches it through us.
    pub is_own: bool,
    /// Who the pod says it is.
    pub info: WorkloadInfo,
    /// Its namespace.
    pub netns: NetNs,
    /// The node it is on.
    pub node: Arc<Node>,
    /// Its live connections.
    pub conns: ConnSet<ConnInfo>,
    /// Tunnels its peers have opened to it, by their address.
    pub peers: ConnSet<SocketAddr>,
    /// Tunnels it has opened to peers, or is about to, by the peer's address.
    pub dialled: ConnSet<SocketAddr>,
    /// The actors of its tunnels to peers.
    pub tunnels: Tunnels,
    /// Its listening sockets, which outlive the actors that accept on them.
    pub listeners: Mutex<HashMap<ListenerKind, Shared<TcpListener>>>,
    /// Its DNS proxy, but for the actor.
    pub dns: DnsState,
    /// The actors of its listeners.
    pub captures: Captures,
    /// How many accept loops its listeners have.
    pub accept_loops: AcceptLoops,
    /// Where its audit waits for its canaries.
    pub canaries: Canaries,
    /// Connections accepted that are in none of these sets yet.
    arriving: AtomicUsize,
    /// Set once: no connection is accepted any more.
    pub draining: watch::Sender<bool>,
    /// Inbound listeners may connect as the client.
    pub transparent: AtomicBool,
    /// Connections of its namespace are paced unless told otherwise.
    pub paced: AtomicBool,
    /// Addresses it is known to have.
    pub addresses: OwnAddresses,
    /// The workload as last found, and whether it still is the one.
    workload: Mutex<Option<(u64, Arc<Workload>)>>,
    /// What was last said of which workload.
    baggage: Mutex<Option<(Arc<Workload>, Option<HeaderValue>)>>,
}

/// The pod of a connection that has been accepted and is in none of the pod's sets yet: it may be on its way to another
/// shard, or stand in a lane. A drain waits for it.
pub struct Arriving(Arc<Pod>);

/// What is known of a live connection, for policy and for showing.
#[derive(Debug)]
pub struct ConnInfo {
    /// Direction.
    pub reporter: Reporter,
    /// Whether it came or goes through a tunnel.
    pub tunnelled: bool,
    /// The client.
    pub src: SocketAddr,
    /// The client's identity, if it has one.
    pub identity: Option<Identity>,
    /// What policies see as its destination; for outbound connections the original destination.
    pub dst: SocketAddr,
    /// It is not let in yet, and waits for a policy that is named but not known.
    pub waits: AtomicBool,
}

// === impl Arriving ===

impl Arriving {
    /// The connection is in one of the sets.
    pub fn arrived(self) -> Arc<Pod> {
        self.0.clone()
    }
}

impl std::ops::Deref for Arriving {
    type Target = Arc<Pod>;

    fn deref(&self) -> &Arc<Pod> {
        &self.0
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // Whoever sees that it has arrived sees it in its set, too.
        self.0.arriving.fetch_sub(1, Ordering::Release);
    }
}

// === impl Pod ===

impl Pod {
    /// A pod without actors yet.
    pub fn new(uid: Arc<str>, info: WorkloadInfo, netns: NetNs, node: Arc<Node>) -> Arc<Self> {
        Self::make(uid, info, netns, node, false)
    }

    /// The proxy's own pod (contract/dataplane.md section 4.5).
    pub fn own(info: WorkloadInfo, node: Arc<Node>) -> Arc<Self> {
        let home = node.home.clone();
        Self::make("self".into(), info, home, node, true)
    }

    fn make(uid: Arc<str>, info: WorkloadInfo, netns: NetNs, node: Arc<Node>, is_own: bool) -> Arc<Self> {
        let tunnels = Tunnels::new(&uid);
        Arc::new(Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            conns: ConnSet::new(node.shards.count()),
            dns: DnsState::new(node.shards.count()),
            peers: ConnSet::new(node.shards.count()),
            dialled: ConnSet::new(node.shards.count()),
            uid,
            is_own,
            info,
            netns,
            node,
            tunnels,
            listeners: Mutex::default(),
            captures: Captures::default(),
            accept_loops: AcceptLoops::default(),
            canaries: Canaries::default(),
            arriving: AtomicUsize::new(0),
            draining: watch::Sender::new(false),
            transparent: AtomicBool::new(false),
            paced: AtomicBool::new(false),
            addresses: OwnAddresses::default(),
            workload: Mutex::default(),
            baggage: Mutex::default(),
        })
    }

    /// How connections within `scope` are to be kept from being paced; `None` if they are not to be.
    pub fn unpaced(&self, scope: PathScope) -> Option<PathScope> {
        let wanted = scope == PathScope::Host || !self.node.settings.unpaced_rtt.is_zero();
        (wanted && self.paced.load(Ordering::Relaxed)).then_some(scope)
    }

    /// A connection of this pod has been accepted.
    pub fn arriving(self: &Arc<Self>) -> Arriving {
        self.arriving.fetch_add(1, Ordering::Relaxed);
        Arriving(self.clone())
    }

    /// Whether a connection that the kernel has accepted may still be on its way to where it is served.
    pub fn accepts(&self) -> bool {
        let looping = |kind: &ListenerKind| self.accept_loops.count(*kind) > 0;
        ListenerKind::ALL.iter().any(looping) || self.arriving.load(Ordering::Acquire) > 0
    }

    /// Says and counts that a task of a connection or tunnel of this pod has panicked on a shard.
    pub fn task_panicked(&self, kind: &'static str, shard: usize, message: &str) {
        self.node.metrics.actors.task_panicked(kind);
        let path = format!("root/dataplane/pods/{}/conns/{kind}", self.uid);
        tracing::error!(target: "supervisor", path, shard, message, "connection task panicked");
        report_task_panic(&path, kind, message);
    }

    /// `namespace/name`.
    pub fn name(&self) -> Arc<str> {
        format!("{}/{}", self.info.namespace, self.info.name).into()
    }

    /// What is captured of it.
    pub fn kinds(&self) -> &'static [ListenerKind] {
        if self.is_own { &[ListenerKind::Inbound] } else { &ListenerKind::ALL }
    }

    /// `SO_MARK` of its sockets.
    pub fn mark(&self) -> Option<u32> {
        self.node.settings.mark.filter(|_| !self.is_own)
    }

    /// The pod's workload, waiting for the control plane if it is not known yet.
    ///
    /// # Errors
    /// It did not appear in time.
    pub async fn workload(&self) -> Result<Arc<Workload>, Unroutable> {
        if let Some(workload) = self.workload_now() {
            return Ok(workload);
        }
        let found = self.node.wait_for(self.node.settings.timeouts.workload, || self.workload_now()).await;
        found.ok_or_else(|| {
            let WorkloadInfo { name, namespace, service_account } = &self.info;
            Unroutable::UnknownLocalWorkload(format!("{service_account}.{namespace} ({name})").into())
        })
    }

    /// The pod's workload if it is known. Looked up again only after a push.
    pub fn workload_now(&self) -> Option<Arc<Workload>> {
        let push = *self.node.mesh_changed.borrow();
        let mut cached = self.workload.lock();
        if let Some((at, workload)) = &*cached
            && *at == push
        {
            return Some(workload.clone());
        }
        let found = self.node.mesh.local_workload(&self.info)?;
        *cached = Some((push, found.clone()));
        Some(found)
    }

    /// The pod's workload as it is or, if the control plane has withdrawn it, as it was when last looked up.
    pub fn workload_last(&self) -> Option<Arc<Workload>> {
        self.workload_now().or_else(|| self.workload.lock().as_ref().map(|(_, workload)| workload.clone()))
    }

    /// What a CONNECT or its answer says of `workload`, the pod's, if the settings have it said. Written once a workload.
    pub fn baggage(&self, workload: &Arc<Workload>) -> Option<HeaderValue> {
        if !self.node.settings.options.baggage {
            return None;
        }
        let mut cached = self.baggage.lock();
        if let Some((whose, value)) = &*cached
            && Arc::ptr_eq(whose, workload)
        {
            return value.clone();
        }
        let value = baggage(workload);
        *cached = Some((workload.clone(), value.clone()));
        value
    }

    /// The pod's identity: the namespace and service account it was handed over with, in its workload's trust domain.
    ///
    /// # Errors
    /// The parts make no valid identity.
    pub fn identity(
        &self,
        workload: &Workload,
    ) -> Result<Identity, crate::protocols::identity::IdentityError> {
        let known = workload.identity();
        if known.namespace() == self.info.namespace && known.service_account() == self.info.service_account {
            return Ok(known.clone());
        }
        Identity::new(workload.trust_domain(), &self.info.namespace, &self.info.service_account)
    }

    /// The address to connect to the application from, so that it sees its client.
    pub fn source_towards(&self, client: IpAddr, to: IpAddr) -> Option<IpAddr> {
        let may = self.transparent.load(Ordering::Relaxed) && client != to && !to.is_loopback();
        (may && client.is_ipv4() == to.is_ipv4()).then_some(client)
    }
}

fn baggage(workload: &Workload) -> Option<HeaderValue> {
    let place = workload.place();
    let baggage = Baggage {
        cluster: place.cluster_id.to_string(),
        namespace: workload.namespace().to_owned(),
        workload: workload.workload_name().to_owned(),
        service: workload.canonical_name().to_owned(),
        revision: workload.canonical_revision().to_owned(),
        region: place.region.to_string(),
        zone: place.zone.to_string(),
    };
    baggage.encode(workload.workload_type().as_str())
}

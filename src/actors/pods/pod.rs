//! The state of one pod that the actors of the pod share.

use std::sync::Arc;

use super::{
    capture::Captures,
    node::Node,
    tunnel::{PodDialer, Tunnels},
};
use crate::{
    dataplane::{
        accept::{self, Acceptor},
        dns::{DnsContext, DnsState},
        inbound_context::InboundContext,
        listener::{ListenerKind, Listeners},
        outbound_context::{OutboundContext, Peers},
        pod::{
            PodId,
            conns::{PodConns, cut},
            network::PodNetwork,
            workload::PodWorkload,
        },
        socks::SocksContext,
        tunnel::{dial::DialContext, pool::PodPool},
    },
    protocols::mesh::WorkloadInfo,
    runtime::shard::Shard,
    sys::{
        netns::{self, NetNs},
        socket,
    },
    telemetry::pod_series::{PodReading, PodTotals},
};

/// A pod whose traffic this process carries. The value outlives restarts of the pod's actors.
pub(crate) struct Pod {
    /// The identifiers of the pod.
    pub(crate) id: Arc<PodId>,
    /// The context of the pod's outbound connections.
    pub(crate) outbound: Arc<OutboundContext>,
    /// The context of the pod's inbound connections.
    pub(crate) inbound: Arc<InboundContext>,
    /// The context of the pod's DNS proxy.
    pub(crate) dns: Arc<DnsContext>,
    /// The pod's listeners.
    pub(crate) listeners: Arc<Listeners>,
    /// The actors of the pod's tunnels to peers.
    pub(crate) tunnels: Arc<Tunnels>,
    /// The capture actors of the pod's listeners.
    pub(crate) captures: Captures,
    /// The values that all pods share.
    pub(crate) node: Arc<Node>,
}

// === impl Pod ===

impl Pod {
    /// Makes a pod without actors.
    pub(crate) fn new(uid: Arc<str>, info: WorkloadInfo, netns: NetNs, node: &Arc<Node>) -> Arc<Self> {
        Self::make(PodId::new(uid, info), netns, node)
    }

    /// Makes the proxy's own pod (docs/spec/dataplane.md 4.5), without actors.
    pub(crate) fn own(info: WorkloadInfo, node: &Arc<Node>) -> Arc<Self> {
        Self::make(PodId::own(info), node.home.clone(), node)
    }

    /// Makes the one workload of the dedicated mode, in the network namespace of the process, without actors.
    pub(crate) fn dedicated(info: WorkloadInfo, node: &Arc<Node>) -> Arc<Self> {
        Self::make(PodId::dedicated(info), node.home.clone(), node)
    }

    fn make(id: Arc<PodId>, netns: NetNs, node: &Arc<Node>) -> Arc<Self> {
        let (config, metrics) = (node.config.clone(), node.metrics.clone());
        let network = PodNetwork::new(&id, netns, config.clone());
        let conns = PodConns::new(node.shards.count());
        let workload = PodWorkload::new(id.clone(), node.mesh.clone(), config.clone());
        let listeners = Arc::<Listeners>::default();
        let inbound = Arc::new(InboundContext {
            pod: workload.clone(),
            network: network.clone(),
            conns: conns.clone(),
            certs: node.hops.certs.clone(),
            metrics: metrics.clone(),
            config: config.clone(),
        });
        let tunnels = Tunnels::new(
            Arc::new(DialContext {
                id: id.clone(),
                network: network.clone(),
                conns: conns.clone(),
                certs: node.hops.certs.clone(),
                metrics: metrics.clone(),
                config: config.clone(),
            }),
            node.shards.clone(),
            node.quarantine.clone(),
        );
        let outbound = Arc::new(OutboundContext {
            pod: workload.clone(),
            network: network.clone(),
            conns: conns.clone(),
            peers: Peers::new(Arc::new(PodDialer::new(tunnels.clone()))),
            hops: node.hops.clone(),
            canaries: Arc::default(),
            metrics: metrics.clone(),
            config: config.clone(),
        });
        let dns = Arc::new(DnsContext {
            pod: workload,
            network,
            conns,
            state: Arc::new(DnsState::new(node.shards.count())),
            metrics,
            config,
        });
        let (captures, node) = (Captures::default(), node.clone());
        Arc::new(Self { id, outbound, inbound, dns, listeners, tunnels, captures, node })
    }

    /// The pod's connections.
    pub(crate) fn conns(&self) -> &Arc<PodConns> {
        &self.inbound.conns
    }

    /// The pod's network.
    pub(crate) fn network(&self) -> &Arc<PodNetwork> {
        &self.inbound.network
    }

    /// What the pod has done since it is served.
    pub(crate) fn reading(&self) -> PodReading {
        let conns = self.conns();
        let (mut received, mut sent) = conns.live.left_behind();
        conns.live.for_each(|conn| {
            let carried = &conn.info().carried;
            received += carried.received();
            sent += carried.sent();
        });
        let handshakes = conns.dialled.admitted() + conns.peers.admitted();
        let busy = conns.live.busy() + conns.dialled.busy() + conns.peers.busy();
        let connections = conns.live.admitted();
        let totals = PodTotals { connections, received, sent, handshakes, busy };
        PodReading { serial: self.id.serial, name: self.id.name().to_string(), totals }
    }

    /// The kinds of listeners that the pod has.
    pub(crate) fn kinds(&self) -> &'static [ListenerKind] {
        match () {
            () if !self.node.config.listen.proxy => &[],
            () if self.id.is_own() => &[ListenerKind::Inbound],
            () if self.node.config.listen.ports.socks5.is_none() => &ListenerKind::CAPTURED,
            () => &ListenerKind::ALL,
        }
    }

    /// Whether the pod's connections are redirected to the proxy by the rules of istio-cni. Pods that the settings name
    /// use the host's network, whose rules are not istio-cni's.
    pub(crate) fn is_redirected(&self) -> bool {
        self.id.is_handed_over() && self.node.config.listen.proxy
    }

    /// The acceptor that serves the connections of the listener of this kind.
    pub(crate) fn acceptor(&self, kind: ListenerKind) -> Acceptor {
        match kind {
            ListenerKind::Outbound => Acceptor::Outbound(self.outbound.clone()),
            ListenerKind::Inbound => Acceptor::Inbound(self.inbound.clone()),
            ListenerKind::Plaintext => Acceptor::Plaintext(self.inbound.clone()),
            ListenerKind::Socks => {
                let (outbound, dns) = (self.outbound.clone(), self.dns.clone());
                Acceptor::Socks(Arc::new(SocksContext { outbound, dns }))
            }
        }
    }

    /// Whether a connection may exist that the kernel has accepted and no task serves yet.
    pub(crate) fn accepts(&self) -> bool {
        let loops = |kind: &ListenerKind| self.listeners.accept_loops.count(*kind) > 0;
        ListenerKind::ALL.iter().any(loops) || self.conns().has_arriving()
    }

    /// Has the kernel give new connections to the listeners of the next process, if there are any.
    pub(crate) fn yield_listeners(&self) {
        for listener in self.listeners.sockets.lock().values() {
            // A listener that does not share its port has no next process beside it.
            let _ = socket::yield_to_newer(&**listener);
        }
    }

    /// Closes the listeners, tells peers to open no more streams, and admits no more connections.
    pub(crate) fn stop_accepting(&self) {
        self.conns().drain();
        self.listeners.sockets.lock().clear();
        self.dns.state.retire();
    }

    /// Cuts the live connections because the pod is gone.
    pub(crate) fn cut(&self) {
        self.conns().live.cut_all(cut::POD);
        self.conns().peers.cut_all(cut::POD);
    }

    /// Drops the state that the shards hold for the pod, the namespace included.
    pub(crate) fn leave_shards(&self) {
        for index in 0..self.node.shards.count() {
            let (id, network) = (self.id.clone(), self.network().clone());
            let leave = move |shard: &Shard| {
                PodPool::forget(shard, id.serial);
                accept::forget(shard, id.serial);
                // A thread that cannot leave the namespace keeps the namespace alive and does no other harm.
                if let Err(error) = netns::leave_sticky(&network.netns, &shard.home) {
                    tracing::warn!(target: "pods", uid = &*id.uid, %error, "shard stays in the pod's namespace");
                }
            };
            self.node.shards.free_on(index, leave);
        }
    }
}

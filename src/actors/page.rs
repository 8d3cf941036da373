//! What the page for people shows, out of the parts of the process.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use foldhash::{HashMap, HashMapExt};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    admin::{
        page::view::{
            AgentView, CertificateView, DiscoveryView, Listed, ListenerView, Look, PodCounts, PodState,
            PodView, ProcessView, QuarantinedView, ShardView, SourcesView, View,
        },
        readiness::Readiness,
    },
    control::{
        certs::{CertStatus, Certs},
        xds::XdsStatus,
    },
    live::{self, LiveSources},
    pods::pod::Pod,
};
use crate::{
    dataplane::pod::conns::ConnInfo,
    protocols::{
        config::{DnsAddr, NodeConfig},
        labels::Reporter,
    },
    runtime::conns::Conn,
    supervisor::{NodeSnapshot, NodeState, TreeHandle},
    sys::memory,
};

/// Limit: connections that the page shows: 25, those that have carried the most; past it: the page counts the others.
const CONNECTIONS: usize = 25;
/// Limit: tunnels that the page shows: 25, the newest; past it: the page counts the others.
const TUNNELS: usize = 25;
/// Limit: events that the page shows: the last 40; past it: `/events` has more.
const EVENTS: usize = 40;

/// The parts of the process that are shown.
#[derive(Clone)]
pub(super) struct PageSources {
    /// The name of the proxy.
    pub(super) name: String,
    /// What `/live` is made from.
    pub(super) live: LiveSources,
    /// The certificates.
    pub(super) certs: Certs,
    /// The state of the discovery stream, if there is one.
    pub(super) xds: Option<watch::Receiver<XdsStatus>>,
}

/// The `most` values with the highest scores.
struct Top<T> {
    most: usize,
    kept: BinaryHeap<Reverse<(u64, usize)>>,
    values: Vec<Option<T>>,
    all: usize,
}

/// The name of the proxy: that of its node, or else of its pod.
pub(super) fn name_of(config: &NodeConfig) -> String {
    let names = [&config.node_name, &config.pod_name];
    names.into_iter().flatten().next().cloned().unwrap_or_else(|| "proxy without a name".to_owned())
}

// === impl PageSources ===

impl PageSources {
    /// Looks at these parts, and at the tree that `handle` is set to once it is up.
    pub(super) fn look(self, handle: Arc<OnceLock<TreeHandle>>, readiness: Readiness) -> Look {
        Arc::new(move || self.view(&handle, &readiness))
    }

    fn view(&self, handle: &OnceLock<TreeHandle>, readiness: &Readiness) -> View {
        let tree = handle.get().map(TreeHandle::snapshot).unwrap_or_default();
        let (mut connections, mut tunnels) = (Top::new(CONNECTIONS), Top::new(TUNNELS));
        let pods = self.pods(&tree, &mut connections, &mut tunnels);
        let node = self.live.pods.node();
        let aside = node.quarantine.list().into_iter().map(|input| QuarantinedView {
            kind: input.kind.to_owned(),
            name: input.name.to_string(),
            crashes: input.crashes.into(),
            retry_in: Some(input.retry_in),
        });
        let rows = connections.listed(|(pod, conn)| live::connection(&self.live.mesh, &pod, &conn));
        View {
            at: SystemTime::now(),
            process: self.process(),
            pending: readiness.pending(),
            sources: self.sources(),
            pods,
            connections: rows,
            tunnels: tunnels.listed(|row| row),
            certificates: self.certs.all().into_iter().map(certificate).collect(),
            quarantined: aside.collect(),
            events: node.metrics.events.newest(EVENTS),
            tree,
        }
    }

    fn process(&self) -> ProcessView {
        let shards = &self.live.pods.node().shards;
        let shown = shards.loads().enumerate().map(|(index, load)| ShardView {
            connections: load.conns.load(Relaxed) as u64,
            tunnels: load.tunnels.load(Relaxed) as u64,
            used: shards.balance().used(index),
        });
        ProcessView {
            name: self.name.clone(),
            uptime: self.live.started.elapsed(),
            resident: memory::resident(),
            shards: shown.collect(),
            workloads: self.live.mesh.workload_count(),
            services: self.live.mesh.service_count(),
        }
    }

    fn sources(&self) -> SourcesView {
        let discovery = self.xds.as_ref().map(|xds| {
            let status = xds.borrow();
            DiscoveryView {
                synced: status.synced,
                connected: status.connected,
                since: status.since.elapsed(),
                last_error: status.last_error.as_ref().map(ToString::to_string),
            }
        });
        let agent = self.live.zds.as_ref().map(|zds| {
            let status = zds.borrow();
            let detail = status.detail();
            AgentView {
                connected: detail.is_none(),
                says: detail.unwrap_or_else(|| "connected, all pods are served".to_owned()),
            }
        });
        SourcesView { discovery, agent }
    }

    /// The pods. Their connections and tunnels go into the lists.
    fn pods(
        &self,
        tree: &[NodeSnapshot],
        connections: &mut Top<(Arc<Pod>, Conn<ConnInfo>)>,
        tunnels: &mut Top<Value>,
    ) -> Vec<PodView> {
        let mut unhealthy = self.live.pods.unhealthy();
        let names = names_up(tree);
        let mut pods = Vec::new();
        for pod in self.live.pods.all() {
            let wrong = unhealthy.remove(&pod.id.uid).map(|named| named.detail());
            let workload = pod.inbound.pod.now_or_last();
            let addresses = workload.iter().flat_map(|workload| workload.addresses());
            pods.push(PodView {
                serial: Some(pod.id.serial),
                name: pod.id.name().to_string(),
                state: if wrong.is_some() { PodState::Out } else { PodState::Up },
                detail: wrong,
                addresses: addresses.map(ToString::to_string).collect(),
                listeners: listeners(&pod, names.get(&*pod.id.uid).copied()),
                counts: counts(&pod, connections),
            });
            self.tunnels(&pod, tunnels);
        }
        // What is left is not served.
        let absent = |name: String, state, detail| PodView {
            serial: None,
            name,
            state,
            detail: Some(detail),
            addresses: Vec::new(),
            listeners: Vec::new(),
            counts: PodCounts::default(),
        };
        pods.extend(
            unhealthy.values().map(|named| absent(named.name().to_owned(), PodState::Out, named.detail())),
        );
        let pending =
            self.live.zds.as_ref().map(|zds| zds.borrow().session.pending.clone()).unwrap_or_default();
        pods.extend(pending.into_iter().map(|pending| {
            let name = pending.name.unwrap_or_else(|| pending.uid.to_string());
            absent(name, PodState::Pending, pending.reason)
        }));
        pods
    }

    /// Puts the tunnels of a pod into the list, the newest first.
    fn tunnels(&self, pod: &Arc<Pod>, into: &mut Top<Value>) {
        let (mesh, conns) = (&self.live.mesh, pod.conns());
        let score = |age: std::time::Duration| u64::MAX - u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let with_id = |mut row: Value, id: String| {
            if let Some(fields) = row.as_object_mut() {
                fields.insert("id".to_owned(), json!(id));
            }
            row
        };
        conns.dialled.for_each(|conn| {
            let id = || format!("d{}-{}", pod.id.serial, conn.id());
            into.offer(score(conn.age()), || with_id(live::tunnel(mesh, pod, conn, "dialled"), id()));
        });
        conns.peers.for_each(|conn| {
            let id = || format!("a{}-{}", pod.id.serial, conn.id());
            into.offer(score(conn.age()), || with_id(live::tunnel(mesh, pod, conn, "accepted"), id()));
        });
    }
}

/// What a pod carries. Its connections go into the list.
fn counts(pod: &Arc<Pod>, connections: &mut Top<(Arc<Pod>, Conn<ConnInfo>)>) -> PodCounts {
    let conns = pod.conns();
    let (received, sent) = conns.live.left_behind();
    let mut counts = PodCounts {
        tunnels: conns.dialled.len() + conns.peers.len(),
        opened: conns.live.admitted(),
        received,
        sent,
        waits: conns.waits_for_descriptors(),
        ..PodCounts::default()
    };
    conns.live.for_each(|conn| {
        let carried = &conn.info().carried;
        counts.received += carried.received();
        counts.sent += carried.sent();
        match conn.info().reporter {
            Reporter::Destination => counts.inbound += 1,
            Reporter::Source => counts.outbound += 1,
        }
        connections.offer(carried.received() + carried.sent(), || (pod.clone(), conn.clone()));
    });
    counts
}

/// The listeners of a pod. `names`: whether the pod's DNS proxy is up, if there is one.
fn listeners(pod: &Pod, names: Option<bool>) -> Vec<ListenerView> {
    let sockets = pod.listeners.sockets.lock();
    let mut listeners: Vec<ListenerView> = pod
        .kinds()
        .iter()
        .map(|kind| {
            let open = sockets.contains_key(kind) && pod.listeners.accept_loops.count(*kind) > 0;
            ListenerView { name: kind.name(), port: kind.port(), open }
        })
        .collect();
    drop(sockets);
    let port = pod.node.config.dns.as_ref().map(|dns| match dns.dns.address {
        DnsAddr::Localhost(port) => port,
        DnsAddr::Ip(addr) => addr.port(),
    });
    listeners.extend(port.zip(names).map(|(port, open)| ListenerView { name: "dns", port, open }));
    listeners.sort_unstable_by_key(|listener| listener.port);
    listeners
}

/// By the uid of a pod, whether the actor of its DNS proxy is up.
fn names_up(tree: &[NodeSnapshot]) -> HashMap<&str, bool> {
    fn child<'a>(nodes: &'a [NodeSnapshot], id: &str) -> Option<&'a NodeSnapshot> {
        nodes.iter().find(|node| *node.id == *id)
    }
    let mut up = HashMap::new();
    let dataplane = tree.first().and_then(|root| child(&root.children, "dataplane"));
    let pods = dataplane.and_then(|dataplane| child(&dataplane.children, "pods"));
    for pod in pods.map(|pods| pods.children.as_slice()).unwrap_or_default() {
        if let Some(dns) = child(&pod.children, "dns") {
            up.insert(&*pod.id, dns.state == NodeState::Up);
        }
    }
    up
}

fn certificate(status: CertStatus) -> CertificateView {
    CertificateView {
        identity: status.identity.to_string(),
        valid: status.cert.map(|cert| (cert.not_before(), cert.not_after())),
        failure: status.failure.map(|failure| failure.to_string()),
    }
}

// === impl Top ===

impl<T> Top<T> {
    fn new(most: usize) -> Self {
        Self { most, kept: BinaryHeap::with_capacity(most + 1), values: Vec::with_capacity(most), all: 0 }
    }

    /// Keeps the value if its score is among the highest. `make` is called only then, so it has to be cheap at most.
    fn offer(&mut self, score: u64, make: impl FnOnce() -> T) {
        self.all += 1;
        if self.kept.len() < self.most {
            self.kept.push(Reverse((score, self.values.len())));
            self.values.push(Some(make()));
            return;
        }
        let Some(Reverse((least, place))) = self.kept.peek().copied() else { return };
        if score > least {
            self.kept.pop();
            self.kept.push(Reverse((score, place)));
            if let Some(value) = self.values.get_mut(place) {
                *value = Some(make());
            }
        }
    }

    /// The values, those with the highest scores first.
    fn listed<R>(mut self, row: impl Fn(T) -> R) -> Listed<R> {
        let places = std::mem::take(&mut self.kept).into_sorted_vec();
        let values = places.into_iter().filter_map(|Reverse((_, place))| self.values.get_mut(place)?.take());
        Listed { rows: values.map(row).collect(), all: self.all }
    }
}

#[cfg(test)]
mod tests;

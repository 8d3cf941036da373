//! The pods of the node. Each pod has its own supervisor.

mod audit;
mod capture;
mod conns;
mod dns;
pub(crate) mod node;
pub(crate) mod pod;
mod policy;
mod table;
mod tunnel;
pub(crate) mod unhealthy;

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{sleep, timeout};

pub(crate) use self::audit::EnrolmentSources;
use self::{
    audit::Audits,
    capture::Capture,
    node::Node,
    pod::Pod,
    table::PodTable,
    unhealthy::{Named, Reason, Unhealthy},
};
use super::{
    control::zds::{self, PodSpec},
    quarantine::{Input, digest},
};
use crate::{
    dataplane::{pod::conns::cut, tracked_hop::TrackedHop},
    protocols::{mesh::WorkloadInfo, zds::NetnsId},
    runtime::conns::ConnSet,
    supervisor::{
        self, ChildSpec, DynamicChildren, DynamicSpec, Event, Intensity, StartError, Strategy, SupervisorSpec,
    },
    sys::netns::NetNs,
    telemetry::{events::EventKind, pod_series::PodReading},
};

/// The number of pods that a node may serve, far above a kubelet's limit.
/// Limit: pods that are served: 4096; past it: the pod is refused by name.
pub(crate) const MAX_SERVED_PODS: usize = 4096;
/// The restarts of a pod, or of the tunnels to a peer, before quarantine. A pod survives five failed starts in a row.
/// With the back-off, a pod that never starts is in quarantine after about 25 s.
/// Limit: restarts of a pod or of the tunnels to a peer: 8 in 30 s; past it: the pod or peer goes into quarantine.
const CHILD_RESTARTS: Intensity = Intensity { restarts: 8, within: Duration::from_secs(30) };
/// The time in which a pod's actors must stop once the connections of the pod are cut.
/// Limit: stop of a pod's actors, and twice as long for all pods together: 2 s; past it: what is left is killed.
const POD_STOP_WITHIN: Duration = Duration::from_secs(2);
/// The time in which the sockets of a pod that ended must close. istio-cni is answered only then, and removes the
/// pod's network after the answer. So the pod's peers learn of the end while the pod still has a network.
/// Limit: closing of the sockets of a pod that ended, before istio-cni is answered: 1 s; past it: istio-cni is
/// answered all the same, with a warning.
const POD_CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// The time that a drain waits for answers of name servers once all connections have ended.
/// Limit: answers of name servers that a drain waits for once the connections have ended: 1 s; past it: the answers
/// are lost.
const DNS_ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The time in which connections end up in a queue that were begun before the next process got all new ones.
/// Limit: time between the last new connection of a proxy that stops and the end of its listeners: 50 ms; past it: a
/// handshake that takes longer is reset.
const YIELD_FOR: Duration = Duration::from_millis(50);
/// The number of pods whose descriptors are counted one by one.
/// Limit: pods whose descriptors metrics show: the 16 with the most; past it: the others are not shown.
const MAX_COUNTED_PODS: usize = 16;
/// The time between two checks of a drain whether each connection that the kernel has accepted is served.
/// Limit: time between two looks of a drain at what is accepted and not yet served: 5 ms; past it: the drain looks
/// again until its own deadline.
const DRAIN_LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The pods of this node. A clone is cheap. The value outlives restarts of the actors.
#[derive(Clone)]
pub struct Pods {
    node: Arc<Node>,
    table: PodTable,
    supervisor: DynamicChildren,
    closing: Arc<AtomicBool>,
    audits: Audits,
}

// === impl Pods ===

impl Pods {
    /// Makes an empty set of pods. `enrolment`: what tells of pods that are not handed over.
    pub(crate) fn new(node: Arc<Node>, enrolment: Option<EnrolmentSources>) -> Self {
        let (table, supervisor) = (PodTable::default(), DynamicChildren::new("pods"));
        let audits = Audits::new(table.clone(), node.clone(), enrolment);
        Self { node, table, supervisor, closing: Arc::default(), audits }
    }

    /// The values that all pods share.
    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The supervisor of the pods' supervisors.
    pub(crate) fn spec(&self) -> DynamicSpec {
        DynamicSpec::new("pods", &self.supervisor).intensity(CHILD_RESTARTS).stop_within(POD_STOP_WITHIN * 2)
    }

    /// The actor that re-checks the pods' connections when policies change.
    pub(crate) fn policy(&self) -> ChildSpec {
        policy::child(&self.table, &self.node)
    }

    /// The actor that audits the pods.
    pub(crate) fn audit(&self) -> ChildSpec {
        self.audits.child()
    }

    /// The pod `uid`, if it is served.
    pub(crate) fn find(&self, uid: &str) -> Option<Arc<Pod>> {
        self.table.find(uid)
    }

    /// Notes a pod whose supervisor is quarantined.
    pub(crate) fn heard(&self, event: &Event) {
        let supervisor::EventKind::Quarantined { retry_in } = event.kind else { return };
        let uid = event.path.strip_prefix("root/dataplane/pods/");
        if let Some(pod) = uid.and_then(|uid| self.find(uid)) {
            let detail = format!("its actors failed too often; next try in {retry_in:?}");
            self.node.unhealthy.tell(&pod.id, Some(Unhealthy::new(Reason::Quarantine, detail)));
        }
    }

    /// The hops between pods of this node that a revocation list may cut.
    pub(crate) fn local_hops(&self) -> &ConnSet<TrackedHop> {
        &self.node.hops.joined
    }

    /// All pods.
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.table.all()
    }

    /// The pods with the most descriptors, by name, and how many pods wait for one.
    pub(crate) fn descriptors(&self) -> (Vec<(Arc<str>, usize)>, usize) {
        let pods = self.table.all();
        let mut held: Vec<_> = pods.iter().map(|pod| (pod.conns().descriptors(), pod)).collect();
        held.retain(|(descriptors, _)| *descriptors > 0);
        held.sort_unstable_by_key(|(descriptors, _)| std::cmp::Reverse(*descriptors));
        held.truncate(MAX_COUNTED_PODS);
        let named = held.iter().map(|(descriptors, pod)| (pod.id.name(), *descriptors)).collect();
        (named, pods.iter().filter(|pod| pod.conns().waits_for_descriptors()).count())
    }

    /// The number of pods in each state. `pending`: the number of pods that are not served yet.
    pub(crate) fn by_state(&self, pending: u64) -> Vec<(&'static str, u64)> {
        let named = self.node.unhealthy.now().borrow().clone();
        let (mut up, mut unhealthy) = (0, 0);
        for pod in self.table.all().iter().filter(|pod| !pod.id.is_own()) {
            let number = if named.contains_key(&pod.id.uid) { &mut unhealthy } else { &mut up };
            *number += 1;
        }
        vec![("up", up), ("unhealthy", unhealthy), ("pending", pending)]
    }

    /// The pods that are out of the mesh, by uid.
    pub(crate) fn unhealthy(&self) -> BTreeMap<Arc<str>, Named> {
        self.node.unhealthy.now().borrow().clone()
    }

    /// What each pod has done since it is served, for metrics.
    pub(crate) fn readings(&self) -> Vec<PodReading> {
        self.all().iter().map(|pod| pod.reading()).collect()
    }

    /// Tells of a pod in the events.
    fn tell<T: Into<String>>(&self, pod: &str, says: impl FnOnce() -> T) {
        self.node.metrics.events.tell(EventKind::Pod, Some(pod), says);
    }

    /// Stops accepting for all pods at once, once new connections go to the next process, and waits for the live connections until `deadline`. The remaining
    /// connections are cut then.
    pub async fn drain(&self, deadline: Duration) {
        self.closing.store(true, Ordering::Relaxed);
        let pods = self.all();
        pods.iter().for_each(|pod| pod.yield_listeners());
        sleep(YIELD_FOR).await;
        pods.iter().for_each(|pod| pod.stop_accepting());
        let emptied = async {
            while pods.iter().any(|pod| pod.accepts()) {
                sleep(DRAIN_LOOK_INTERVAL).await;
            }
            for pod in &pods {
                pod.conns().live.emptied().await;
                pod.conns().peers.emptied().await;
            }
            let answered = async {
                for pod in &pods {
                    pod.dns.state.under_way().emptied().await;
                }
            };
            // The timeout covers all pods together, so a name server that does not answer delays the drain only once.
            let _ = timeout(DNS_ANSWER_WITHIN, answered).await;
        };
        if timeout(deadline, emptied).await.is_err() {
            let left: usize = pods.iter().map(|pod| pod.conns().live.len()).sum();
            tracing::warn!(target: "drain", connections = left, ?deadline, "deadline is over: cutting what is left");
        }
        for pod in &pods {
            pod.conns().live.cut_all(cut::DRAIN);
            pod.conns().peers.cut_all(cut::DRAIN);
        }
    }

    /// Serves the proxy's own pod, so that the pod can be scraped by mutual TLS. The pod is not listed for istio-cni.
    ///
    /// # Errors
    /// The port is taken.
    pub(crate) async fn start_own(&self, info: WorkloadInfo) -> Result<(), StartError> {
        let pod = Pod::own(info, &self.node);
        self.table.insert(&pod);
        self.supervisor.start(pod.tree()).await
    }

    /// The supervisor of the one workload of the dedicated mode. Nobody hands the workload over, so it is in the tree from
    /// the start, and its supervisor is restarted with it.
    pub(crate) fn dedicated(&self, info: WorkloadInfo) -> SupervisorSpec {
        let pod = Pod::dedicated(info, &self.node);
        self.table.insert(&pod);
        self.node.hops.directory.add(&pod.inbound);
        self.node.metrics.pods.started();
        pod.tree()
    }

    async fn begin(&self, spec: PodSpec) -> Result<(), String> {
        if self.closing.load(Ordering::Relaxed) {
            return Err("the proxy is shutting down".into());
        }
        if self.table.len() >= MAX_SERVED_PODS {
            return Err(format!("this node serves {MAX_SERVED_PODS} pods already"));
        }
        let name = format!("{}/{}", spec.info.namespace, spec.info.name);
        let digest = digest(&(spec.id.dev, spec.id.ino));
        let input = Input { kind: "pod", name: &name, digest };
        let admitted = self.node.quarantine.enter(input).map_err(|aside| aside.to_string())?;
        admitted.watch(self.begin_in(spec.clone())).await?;
        admitted.done();
        Ok(())
    }

    /// Serves a pod that has passed the checks.
    async fn begin_in(&self, spec: PodSpec) -> Result<(), String> {
        let fd: OwnedFd =
            spec.netns.as_fd().try_clone_to_owned().map_err(|e| format!("network namespace: {e}"))?;
        let netns = NetNs::from_fd(fd).map_err(|e| format!("network namespace: {e}"))?;
        netns.enter(|| ()).map_err(|e| format!("cannot enter the pod's network namespace: {e}"))?;
        let info = WorkloadInfo {
            name: spec.info.name.to_string(),
            namespace: spec.info.namespace.to_string(),
            service_account: spec.info.service_account.to_string(),
        };
        let pod = Pod::new(spec.uid.clone(), info, netns, &self.node);
        self.table.insert(&pod);
        match self.supervisor.start(pod.tree()).await {
            Ok(()) => {
                self.node.hops.directory.add(&pod.inbound);
                self.node.metrics.pods.started();
                self.tell(&pod.id.name(), || "pod is served");
                Ok(())
            }
            Err(error) => {
                self.end(&pod).await;
                Err(error.to_string())
            }
        }
    }

    /// Starts the pods that a restarted supervisor does not know. istio-cni does not send these pods again, because
    /// the pods are listed as served. The listeners of the pods have been kept.
    async fn revive(&self) {
        if self.closing.load(Ordering::Relaxed) {
            return;
        }
        let up = self.supervisor.ids().await;
        for pod in self.all().iter().filter(|pod| !up.contains(&pod.id.uid)) {
            match self.supervisor.start(pod.tree()).await {
                Ok(()) => {
                    tracing::warn!(target: "pods", uid = &*pod.id.uid, pod = %pod.id.name(), "pod served again")
                }
                Err(error) => {
                    tracing::error!(target: "pods", uid = &*pod.id.uid, pod = %pod.id.name(), %error, "pod cannot be served again");
                    // A pod that is not listed is handed over once more.
                    self.end(pod).await;
                }
            }
        }
    }

    async fn end(&self, pod: &Arc<Pod>) {
        let (conns, dns) = (pod.conns(), pod.dns.state.under_way());
        pod.stop_accepting();
        self.audits.forget(pod.id.serial);
        self.node.hops.directory.remove(&pod.inbound);
        pod.cut();
        if let Err(error) = self.supervisor.stop(&pod.id.uid).await {
            tracing::warn!(target: "pods", uid = &*pod.id.uid, pod = %pod.id.name(), %error, "pod did not stop in order");
        }
        self.table.remove(pod);
        self.node.unhealthy.forget(&pod.id.uid);
        // No task reads queries any more, so no query is admitted after this cut.
        dns.cut_all(cut::POD);
        let closed = async {
            tokio::join!(conns.live.emptied(), conns.peers.emptied(), conns.dialled.emptied(), dns.emptied())
        };
        if timeout(POD_CLOSE_WITHIN, closed).await.is_err() {
            let left = conns.live.len() + conns.peers.len() + conns.dialled.len();
            tracing::warn!(target: "pods", uid = &*pod.id.uid, pod = %pod.id.name(), left, "a pod has ended whose connections have not");
        }
        pod.leave_shards();
    }
}

impl zds::Pods for Pods {
    async fn start(&self, spec: PodSpec) -> Result<(), String> {
        if let Some(old) = self.find(&spec.uid) {
            self.end(&old).await;
            self.node.metrics.pods.stopped();
        }
        let (uid, name) = (spec.uid.clone(), format!("{}/{}", spec.info.namespace, spec.info.name));
        let started = self.begin(spec).await;
        if let Err(error) = &started {
            tracing::warn!(target: "pods", uid = &*uid, pod = name, error, "pod cannot be served");
            self.tell(&name, || format!("pod cannot be served: {error}"));
        }
        started
    }

    async fn stop(&self, uid: &str) {
        if let Some(pod) = self.find(uid) {
            self.end(&pod).await;
            self.node.metrics.pods.stopped();
            tracing::info!(target: "pods", uid, pod = %pod.id.name(), "pod no longer served");
            self.tell(&pod.id.name(), || "pod is no longer served");
        }
    }

    async fn list(&self) -> Vec<(String, NetnsId)> {
        self.revive().await;
        let id = |pod: &Arc<Pod>| {
            let (dev, ino) = pod.network().netns.id();
            (pod.id.uid.to_string(), NetnsId { dev, ino })
        };
        self.all().iter().filter(|pod| pod.id.is_handed_over()).map(id).collect()
    }
}

// === impl Pod ===

impl Pod {
    /// The pod's part of the supervision tree. The stop runs in reverse order: first the pod stops accepting, then
    /// live connections end, and then the actors that the connections need.
    fn tree(self: &Arc<Self>) -> SupervisorSpec {
        let mut tree = SupervisorSpec::new(self.id.uid.clone(), Strategy::OneForOne)
            .shown_as(self.id.name())
            .intensity(Intensity { restarts: 10, within: Duration::from_secs(30) })
            .stop_within(POD_STOP_WITHIN)
            .dynamic(DynamicSpec::new("tunnels", self.tunnels.supervisor()).intensity(CHILD_RESTARTS))
            .child(conns::child(self.conns()));
        for &kind in self.kinds() {
            let (acceptor, listeners) = (self.acceptor(kind), self.listeners.clone());
            let (shards, config) = (self.node.shards.clone(), self.node.config.clone());
            let capture = Capture { acceptor, listeners, shards, config };
            tree = tree.child(capture.child(self.captures.of(kind)));
        }
        if !self.id.is_own() && self.node.config.dns.is_some() {
            tree = tree.child(dns::child(&self.dns, &self.node.shards));
        }
        tree
    }
}

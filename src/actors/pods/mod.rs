//! The pods of the node, each under a supervisor of its own.

pub mod audit;
pub mod capture;
pub mod conns;
pub mod dns;
pub mod policy;
pub mod tunnel;
pub mod unhealthy;

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use tokio::time::{sleep, timeout};

use self::{
    audit::AuditBook,
    unhealthy::{Reason, Unhealthy},
};
use super::{
    control::zds::{self, PodSpec},
    quarantine::{Input, digest},
};
use crate::{
    dataplane::{
        node::{Node, cut},
        pod::Pod,
    },
    protocols::{mesh::WorkloadInfo, zds::NetnsId},
    supervisor::{
        ChildSpec, DynamicChildren, DynamicSpec, Event, EventKind, Intensity, StartError, Strategy,
        SupervisorSpec,
    },
    sys::netns::{self, NetNs},
};

/// Pods of one node: far above what a kubelet allows.
pub const MAX_PODS: usize = 4096;
/// What a pod, or the tunnels to a peer, may fail before quarantine. Five failed starts in a row are survived; with the
/// back-off, what never starts is in quarantine after some 25 s.
const CHILD_RESTARTS: Intensity = Intensity { restarts: 8, within: Duration::from_secs(30) };
/// How long a pod's actors may take to stop once its connections are cut.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// How long the sockets of a pod that ended may take to close, so that its peers hear of the end while the pod still
/// has a network: the agent is answered, and the pod's network taken down, only then.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// How long a drain waits for answers of name servers once all connections have ended.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How often a drain looks whether all that the kernel has accepted is where it is served.
const TAKEN_LOOK: Duration = Duration::from_millis(5);

/// The pods of this node. Cheap to clone; it outlives restarts of its actors.
#[derive(Clone)]
pub struct Pods {
    node: Arc<Node>,
    pods: Arc<DashMap<Arc<str>, Arc<Pod>>>,
    supervisor: DynamicChildren,
    closing: Arc<AtomicBool>,
    /// What is known of the pods by audits.
    audits: Arc<AuditBook>,
}

// === impl Pods ===

impl Pods {
    /// No pods yet.
    pub fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            pods: Arc::default(),
            supervisor: DynamicChildren::new("pods"),
            closing: Arc::default(),
            audits: Arc::default(),
        }
    }

    /// The supervisor of the pods' supervisors.
    pub fn spec(&self) -> DynamicSpec {
        DynamicSpec::new("pods", &self.supervisor).intensity(CHILD_RESTARTS).stop_within(STOP_WITHIN * 2)
    }

    /// The actor that re-checks the pods' connections when policies change.
    pub fn policy(&self) -> ChildSpec {
        policy::child(self)
    }

    /// The actor that audits the pods.
    pub fn audit(&self) -> ChildSpec {
        audit::child(self)
    }

    /// The pod `uid`, if it is served.
    pub fn find(&self, uid: &str) -> Option<Arc<Pod>> {
        self.pods.get(uid).map(|pod| pod.clone())
    }

    /// Takes note of a pod whose supervisor was set aside.
    pub fn heard(&self, event: &Event) {
        let EventKind::Quarantined { retry_in } = event.kind else { return };
        let uid = event.path.strip_prefix("root/dataplane/pods/");
        if let Some(pod) = uid.and_then(|uid| self.find(uid)) {
            let detail = format!("its actors failed too often; next try in {retry_in:?}");
            self.node.unhealthy.tell(&pod, Some(Unhealthy::new(Reason::Quarantine, detail)));
        }
    }

    /// All pods.
    pub fn all(&self) -> Vec<Arc<Pod>> {
        self.pods.iter().map(|pod| pod.clone()).collect()
    }

    /// How many pods there are in each state, `pending` of which are not served yet.
    pub fn by_state(&self, pending: u64) -> Vec<(&'static str, u64)> {
        let named = self.node.unhealthy.now().borrow().clone();
        let (mut up, mut unhealthy) = (0, 0);
        for pod in self.pods.iter().filter(|pod| !pod.is_own) {
            let number = if named.contains_key(&pod.uid) { &mut unhealthy } else { &mut up };
            *number += 1;
        }
        vec![("up", up), ("unhealthy", unhealthy), ("pending", pending)]
    }

    /// Stops accepting everywhere at once and waits for the live connections until `deadline` is over; those that
    /// are left are cut then.
    pub async fn drain(&self, deadline: Duration) {
        self.closing.store(true, Ordering::Relaxed);
        let pods = self.all();
        for pod in &pods {
            pod.stop_accepting();
        }
        let emptied = async {
            while pods.iter().any(|pod| pod.accepts()) {
                sleep(TAKEN_LOOK).await;
            }
            for pod in &pods {
                pod.conns.emptied().await;
                pod.peers.emptied().await;
            }
            let answered = async {
                for pod in &pods {
                    pod.dns.under_way().emptied().await;
                }
            };
            // A name server that is mute, for however many pods, holds up nobody for long.
            let _ = timeout(ANSWER_WITHIN, answered).await;
        };
        if timeout(deadline, emptied).await.is_err() {
            let left: usize = pods.iter().map(|pod| pod.conns.len()).sum();
            tracing::warn!(target: "drain", connections = left, ?deadline, "deadline is over: cutting what is left");
        }
        for pod in &pods {
            pod.conns.cut_all(cut::DRAIN);
            pod.peers.cut_all(cut::DRAIN);
        }
    }

    /// Serves the proxy's own pod, so that it can be scraped by mutual TLS. It is not listed for istio-cni.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn start_own(&self, info: WorkloadInfo) -> Result<(), StartError> {
        let pod = Pod::own(info, self.node.clone());
        self.pods.insert(pod.uid.clone(), pod.clone());
        self.supervisor.start(pod.tree()).await
    }

    async fn begin(&self, spec: PodSpec) -> Result<(), String> {
        if self.closing.load(Ordering::Relaxed) {
            return Err("the proxy is shutting down".into());
        }
        if self.pods.len() >= MAX_PODS {
            return Err(format!("this node serves {MAX_PODS} pods already"));
        }
        let name = format!("{}/{}", spec.info.namespace, spec.info.name);
        let digest = digest(&(spec.id.dev, spec.id.ino));
        let input = Input { kind: "pod", name: &name, digest };
        let admitted = self.node.quarantine.enter(input).map_err(|aside| aside.to_string())?;
        admitted.watch(self.begin_in(spec.clone())).await?;
        admitted.done();
        Ok(())
    }

    /// Serves a pod that nothing speaks against.
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
        let pod = Pod::new(spec.uid.clone(), info, netns, self.node.clone());
        self.pods.insert(pod.uid.clone(), pod.clone());
        match self.supervisor.start(pod.tree()).await {
            Ok(()) => {
                self.node.directory.add(&pod);
                self.node.metrics.pods.started();
                Ok(())
            }
            Err(error) => {
                self.end(&pod).await;
                Err(error.to_string())
            }
        }
    }

    /// Starts the pods again that the supervisor's successor does not know: nobody else would, as the agent is told
    /// that they are served. Their listeners have been kept.
    async fn revive(&self) {
        if self.closing.load(Ordering::Relaxed) {
            return;
        }
        let up = self.supervisor.ids().await;
        for pod in self.all().iter().filter(|pod| !up.contains(&pod.uid)) {
            match self.supervisor.start(pod.tree()).await {
                Ok(()) => tracing::warn!(target: "pods", uid = &*pod.uid, "pod served again"),
                Err(error) => {
                    tracing::error!(target: "pods", uid = &*pod.uid, %error, "pod cannot be served again");
                    // Not listed, it is handed over once more.
                    self.end(pod).await;
                }
            }
        }
    }

    async fn end(&self, pod: &Arc<Pod>) {
        pod.stop_accepting();
        self.audits.forget(pod.serial);
        self.node.directory.remove(pod);
        pod.conns.cut_all(cut::POD);
        pod.peers.cut_all(cut::POD);
        if let Err(error) = self.supervisor.stop(&pod.uid).await {
            tracing::warn!(target: "pods", uid = &*pod.uid, %error, "pod did not stop in order");
        }
        self.pods.remove_if(&pod.uid, |_, held| held.serial == pod.serial);
        self.node.unhealthy.forget(&pod.uid);
        // Nobody reads questions any more that could be admitted.
        pod.dns.under_way().cut_all(cut::POD);
        let dns = pod.dns.under_way();
        let closed = async {
            tokio::join!(pod.conns.emptied(), pod.peers.emptied(), pod.dialled.emptied(), dns.emptied())
        };
        if timeout(CLOSE_WITHIN, closed).await.is_err() {
            let left = pod.conns.len() + pod.peers.len() + pod.dialled.len();
            tracing::warn!(target: "pods", uid = &*pod.uid, left, "a pod has ended whose connections have not");
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
        let uid = spec.uid.clone();
        let started = self.begin(spec).await;
        if let Err(error) = &started {
            tracing::warn!(target: "pods", uid = &*uid, error, "pod cannot be served");
        }
        started
    }

    async fn stop(&self, uid: &str) {
        if let Some(pod) = self.find(uid) {
            self.end(&pod).await;
            self.node.metrics.pods.stopped();
        }
    }

    async fn list(&self) -> Vec<(String, NetnsId)> {
        self.revive().await;
        let id = |pod: &Arc<Pod>| {
            let (dev, ino) = pod.netns.id();
            (pod.uid.to_string(), NetnsId { dev, ino })
        };
        self.all().iter().filter(|pod| !pod.is_own).map(id).collect()
    }
}

// === impl Pod ===

impl Pod {
    /// The pod's part of the tree. Stopped in reverse: first nothing is accepted, then what is live ends, and only
    /// then what it needs.
    fn tree(self: &Arc<Self>) -> SupervisorSpec {
        let mut tree = SupervisorSpec::new(self.uid.clone(), Strategy::OneForOne)
            .intensity(Intensity { restarts: 10, within: Duration::from_secs(30) })
            .stop_within(STOP_WITHIN)
            .dynamic(DynamicSpec::new("tunnels", self.tunnels.supervisor()).intensity(CHILD_RESTARTS))
            .child(conns::child(self));
        for &kind in self.kinds() {
            tree = tree.child(capture::child(self, kind));
        }
        if !self.is_own && self.node.settings.dns.is_some() {
            tree = tree.child(dns::child(self));
        }
        tree
    }

    /// Closes the listeners, tells peers to open no more streams, admits nothing.
    fn stop_accepting(&self) {
        self.draining.send_replace(true);
        self.listeners.lock().clear();
        self.dns.retire();
    }

    /// Drops what the shards hold for the pod, the namespace included.
    fn leave_shards(self: &Arc<Self>) {
        for index in 0..self.node.shards.count() {
            let pod = self.clone();
            let leave = move |shard: &crate::runtime::shard::Shard| {
                shard.pools.borrow_mut().remove(&pod.serial);
                // A thread that stays behind keeps the namespace alive, no more.
                if let Err(error) = netns::leave_sticky(&pod.netns, &shard.home) {
                    tracing::warn!(target: "pods", uid = &*pod.uid, %error, "shard stays in the pod's namespace");
                }
            };
            if let Err(error) = self.node.shards.run_on(index, leave) {
                tracing::debug!(target: "pods", uid = &*self.uid, %error, "shard not told of the pod's end");
            }
        }
    }
}

//! What the page shows, as it was at one moment.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use crate::{supervisor::NodeSnapshot, telemetry::events::Event};

/// Looks at the process. The call happens on a thread of its own.
pub(crate) type Look = Arc<dyn Fn() -> View + Send + Sync>;

/// The process at one moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The time of the look.
    pub(crate) at: SystemTime,
    /// The process.
    pub(crate) process: ProcessView,
    /// What readiness waits for.
    pub(crate) pending: Vec<String>,
    /// Where the state of the mesh and the pods come from.
    pub(crate) sources: SourcesView,
    /// The pods of the node, also those that are not served.
    pub(crate) pods: Vec<PodView>,
    /// The live connections.
    pub(crate) connections: Listed<Value>,
    /// The tunnels.
    pub(crate) tunnels: Listed<Value>,
    /// The certificates.
    pub(crate) certificates: Vec<CertificateView>,
    /// Inputs that are quarantined.
    pub(crate) quarantined: Vec<QuarantinedView>,
    /// The last events, the newest first.
    pub(crate) events: Vec<Event>,
    /// The supervision tree. Empty while it starts.
    pub(crate) tree: Vec<NodeSnapshot>,
}

/// Some of the rows that there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed<T> {
    /// The rows to show.
    pub(crate) rows: Vec<T>,
    /// The number of all rows.
    pub(crate) all: usize,
}

/// The process as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProcessView {
    /// The name of the node, or what is known instead.
    pub(crate) name: String,
    /// The time since the start.
    pub(crate) uptime: Duration,
    /// Resident memory in bytes, where it is known.
    pub(crate) resident: Option<u64>,
    /// The shards in their order.
    pub(crate) shards: Vec<ShardView>,
    /// The number of workloads of the mesh.
    pub(crate) workloads: usize,
    /// The number of services of the mesh.
    pub(crate) services: usize,
}

/// A shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShardView {
    /// Its connections.
    pub(crate) connections: u64,
    /// Its tunnels.
    pub(crate) tunnels: u64,
    /// The processor's time that its thread has used.
    pub(crate) used: Duration,
}

/// The control plane and istio-cni. A proxy may have neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourcesView {
    /// The discovery stream.
    pub(crate) discovery: Option<DiscoveryView>,
    /// The connection with istio-cni.
    pub(crate) agent: Option<AgentView>,
}

/// The discovery stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiscoveryView {
    /// Whether the first state of the mesh is complete.
    pub(crate) synced: bool,
    /// Whether a stream is open.
    pub(crate) connected: bool,
    /// The time since the stream was opened or lost.
    pub(crate) since: Duration,
    /// Why the last stream ended or was not opened.
    pub(crate) last_error: Option<String>,
}

/// The connection with istio-cni.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentView {
    /// Whether there is a connection with all of its pods.
    pub(crate) connected: bool,
    /// The state in words.
    pub(crate) says: String,
}

/// Whether a pod is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PodState {
    /// The pod is out of the mesh.
    Out,
    /// The pod is not served yet.
    Pending,
    /// The pod is served.
    Up,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodView {
    /// A number that no other pod of the process has had. `None` if the pod is not served.
    pub(crate) serial: Option<u64>,
    /// `namespace/name`.
    pub(crate) name: String,
    /// Whether the pod is served.
    pub(crate) state: PodState,
    /// What is wrong, or what the pod waits for.
    pub(crate) detail: Option<String>,
    /// The addresses of the pod, as far as they are known.
    pub(crate) addresses: Vec<String>,
    /// The listeners.
    pub(crate) listeners: Vec<ListenerView>,
    /// What the pod carries and has carried.
    pub(crate) counts: PodCounts,
}

/// A listener of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenerView {
    /// What comes in there.
    pub(crate) name: &'static str,
    /// The port.
    pub(crate) port: u16,
    /// Whether the pod has its connections accepted there.
    pub(crate) open: bool,
}

/// What a pod carries and has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodCounts {
    /// Live connections to the pod.
    pub(crate) inbound: usize,
    /// Live connections that the pod has opened.
    pub(crate) outbound: usize,
    /// Tunnels, of either side.
    pub(crate) tunnels: usize,
    /// Connections since the pod is served.
    pub(crate) opened: u64,
    /// Bytes from clients to servers since the pod is served.
    pub(crate) received: u64,
    /// Bytes from servers to clients since the pod is served.
    pub(crate) sent: u64,
    /// Whether the pod waits for descriptors.
    pub(crate) waits: bool,
}

/// The certificate of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateView {
    /// The identity.
    pub(crate) identity: String,
    /// The start and the end of the newest certificate.
    pub(crate) valid: Option<(SystemTime, SystemTime)>,
    /// Why the last request failed, if it failed.
    pub(crate) failure: Option<String>,
}

/// An input that is quarantined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QuarantinedView {
    /// What it is, such as a peer.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
    /// How often it has crashed its handler.
    pub(crate) crashes: u64,
    /// The time until it is tried again, where that is known.
    pub(crate) retry_in: Option<Duration>,
}

// === impl Listed ===

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), all: 0 }
    }
}

// === impl PodView ===

impl PodView {
    /// Live connections of either direction.
    pub(crate) fn live(&self) -> usize {
        self.counts.inbound + self.counts.outbound
    }
}

// === impl CertificateView ===

impl CertificateView {
    /// The state at a time: the word for it, and whether connections can be had.
    pub(crate) fn state(&self, at: SystemTime) -> (&'static str, bool) {
        match (&self.valid, &self.failure) {
            (Some((_, end)), _) if *end > at => ("valid", true),
            (Some(_), _) => ("expired", false),
            (None, Some(_)) => ("refused", false),
            (None, None) => ("asked for", true),
        }
    }
}

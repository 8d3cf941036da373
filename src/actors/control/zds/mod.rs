//! The connection with istio-cni, which says which pods of the node to serve (docs/spec/dataplane.md 6).
//!
//! The actor owns the connection and the starts and stops under way. The pods themselves live behind [`Pods`] and
//! outlive it: a restarted actor asks which run and waits for the agent to name them again.

mod actor;
mod link;
mod message;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::watch;

use self::{actor::ZdsActor, message::Msg};
use crate::{
    actors::HUNG_AFTER,
    protocols::zds::{
        NetnsId, PodInfo,
        session::{Link, Status},
    },
    supervisor::{Address, ChildSpec},
    sys::netns::NetNs,
};

/// A start or stop that takes longer than this is given up: a start counts as failed and is tried again.
/// Limit: start or stop of a pod: 30 s; past it: the operation is given up.
pub const POD_OPERATION_LIMIT: Duration = Duration::from_secs(30);

/// A pod to serve.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// The Kubernetes uid.
    pub uid: Arc<str>,
    /// Who it is.
    pub info: PodInfo,
    /// Where its sockets are to be.
    pub netns: NetNs,
    /// Which namespace that is.
    pub id: NetnsId,
}

/// Whoever serves pods. Operations on one uid never overlap; dropping the future of a start gives it up.
pub trait Pods: Clone + Send + Sync + 'static {
    /// Serves the pod; returns once all its listeners are bound. One that fails or is given up leaves nothing behind,
    /// at the latest when the next `stop` of that uid has returned.
    fn start(&self, spec: PodSpec) -> impl Future<Output = Result<(), String>> + Send;

    /// Stops serving the pod and cuts its connections. An unknown uid is fine.
    fn stop(&self, uid: &str) -> impl Future<Output = ()> + Send;

    /// The pods that are being served.
    fn list(&self) -> impl Future<Output = Vec<(String, NetnsId)>> + Send;
}

/// What readiness and metrics show, and whether to exit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZdsStatus {
    /// Readiness, pending pods, counters.
    pub session: Status,
    /// Why there is no connection, when there is none.
    pub last_error: Option<String>,
    /// The agent broke the protocol so that the set of pods is in doubt: the process must exit with status 1. The agent
    /// has been told.
    pub fatal: Option<String>,
}

/// The hand-over of pods. Cheap to clone; every clone sees the same.
#[derive(Clone)]
pub struct Zds {
    shared: Arc<Shared>,
    address: Address<Msg>,
}

/// What outlives the actor.
struct Shared {
    path: PathBuf,
    gate: watch::Receiver<bool>,
    status: watch::Sender<ZdsStatus>,
}

// === impl ZdsStatus ===

impl ZdsStatus {
    /// In words what keeps the node from being ready; nothing if it is.
    pub fn detail(&self) -> Option<String> {
        let detail = self.session.detail()?;
        Some(match (&self.fatal, &self.last_error) {
            (Some(fatal), _) => format!("istio-cni broke the protocol: {fatal}"),
            (None, Some(error)) if self.session.link == Link::Down => format!("{detail}: {error}"),
            (None, _) => detail,
        })
    }
}

// === impl Zds ===

impl Zds {
    /// The hand-over at the agent's socket `path` (`INPOD_UDS`). Nothing is dialled before `gate` is true: the first
    /// answers of the control plane have been taken in.
    pub fn new(path: PathBuf, gate: watch::Receiver<bool>) -> Self {
        let shared = Shared { path, gate, status: watch::Sender::new(ZdsStatus::default()) };
        Self { shared: Arc::new(shared), address: Address::new("zds") }
    }

    /// The actor, to be run under a supervisor, handing over to `pods`. The status survives its restarts.
    pub fn child<P: Pods>(&self, pods: P) -> ChildSpec {
        let shared = self.shared.clone();
        ChildSpec::actor("zds", &self.address, move || (ZdsActor::new(pods.clone()), shared.clone()))
            .kind_label("zds")
            .hung_after(HUNG_AFTER)
    }

    /// The status, now and as it changes.
    pub fn status(&self) -> watch::Receiver<ZdsStatus> {
        self.shared.status.subscribe()
    }
}

//! The status of the hand-over, and the state that outlives the hand-over actor.

use std::path::PathBuf;

use tokio::sync::watch;

use crate::protocols::zds::session::{Link, Status};

/// The status that readiness and metrics show, and the reason to exit if there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZdsStatus {
    /// The readiness, the pending pods and the counters.
    pub session: Status,
    /// The reason why no connection exists, if none exists.
    pub last_error: Option<String>,
    /// The agent broke the protocol, so the set of pods is in doubt: the process must exit with status 1. The agent
    /// has received the error.
    pub fatal: Option<String>,
}

/// The state that outlives the actor.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) gate: watch::Receiver<bool>,
    pub(super) status: watch::Sender<ZdsStatus>,
    /// Whether the agent is left for good, because the proxy drains.
    pub(super) left: watch::Sender<bool>,
}

// === impl ZdsStatus ===

impl ZdsStatus {
    /// The reason in words why the node is not ready; `None` if the node is ready.
    pub fn detail(&self) -> Option<String> {
        let detail = self.session.detail()?;
        Some(match (&self.fatal, &self.last_error) {
            (Some(fatal), _) => format!("istio-cni broke the protocol: {fatal}"),
            (None, Some(error)) if self.session.link == Link::Down => format!("{detail}: {error}"),
            (None, _) => detail,
        })
    }
}

//! What outlives the actor of the connection with istio-cni.

use std::path::PathBuf;

use tokio::sync::watch;

use crate::protocols::zds::session::{Link, Status};

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

/// What outlives the actor.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) gate: watch::Receiver<bool>,
    pub(super) status: watch::Sender<ZdsStatus>,
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

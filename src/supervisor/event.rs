//! Events of a tree. They are logged, and shown to the application's observer.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use super::node::Node;

/// Something happened to the node at `path`.
#[derive(Debug, Clone)]
pub struct Event {
    /// Ids from the root down, joined by `/`.
    pub path: Arc<str>,
    /// Its kind, as its spec names it.
    pub kind_label: &'static str,
    /// What happened.
    pub kind: EventKind,
}

/// What can happen to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// It panicked, failed, was killed, or ended though it was to run for ever.
    Crashed {
        /// The panic's or error's message, or `killed`.
        reason: String,
    },
    /// It ended normally, and will not be restarted.
    Finished,
    /// A start failed or took too long.
    StartFailed {
        /// What the start said.
        reason: String,
    },
    /// It is up again.
    Restarted {
        /// Restarts so far, this one included.
        restarts: u64,
    },
    /// A dynamic child failed too often: it is down, and tried again after a growing delay.
    Quarantined {
        /// The delay.
        retry_in: Duration,
    },
    /// A supervisor's children failed too often: it stops them and fails itself.
    GaveUp {
        /// The last failure.
        reason: String,
    },
    /// It did not stop within its budget and was killed.
    Killed {
        /// The budget.
        after: Duration,
    },
}

/// Where events go. An observer runs on the supervisor's turn, so it counts and does not work.
#[derive(Clone)]
pub(super) struct Observer(Arc<dyn Fn(&Event) + Send + Sync>);

// === impl EventKind ===

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crashed { reason } => write!(f, "crashed: {reason}"),
            Self::Finished => write!(f, "finished"),
            Self::StartFailed { reason } => write!(f, "did not start: {reason}"),
            Self::Restarted { restarts } => write!(f, "restarted ({restarts} so far)"),
            Self::Quarantined { retry_in } => write!(f, "quarantined, next try in {retry_in:?}"),
            Self::GaveUp { reason } => write!(f, "gave up: {reason}"),
            Self::Killed { after } => write!(f, "did not stop within {after:?} and was killed"),
        }
    }
}

// === impl Observer ===

impl Observer {
    pub(super) fn new(observe: Arc<dyn Fn(&Event) + Send + Sync>) -> Self {
        Self(observe)
    }

    pub(super) fn tell(&self, node: &Node, kind: EventKind) {
        let (path, name) = (&node.path, node.profile.shown_as.as_deref());
        match &kind {
            EventKind::Restarted { .. } => tracing::info!(target: "supervisor", path = %path, name, "{kind}"),
            EventKind::Finished => tracing::debug!(target: "supervisor", path = %path, name, "{kind}"),
            EventKind::Killed { .. } => tracing::warn!(target: "supervisor", path = %path, name, "{kind}"),
            EventKind::Crashed { .. }
            | EventKind::StartFailed { .. }
            | EventKind::Quarantined { .. }
            | EventKind::GaveUp { .. } => tracing::error!(target: "supervisor", path = %path, name, "{kind}"),
        }
        let event = Event { path: path.clone(), kind_label: node.profile.label, kind };
        // A panic here would take all children of the supervisor down.
        if catch_unwind(AssertUnwindSafe(|| (self.0)(&event))).is_err() {
            tracing::error!(target: "supervisor", path = %path, "the observer of events panicked");
        }
    }
}

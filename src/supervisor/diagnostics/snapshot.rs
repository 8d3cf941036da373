//! A snapshot of a tree.

use std::{sync::Arc, time::SystemTime};

use super::record::Load;

/// A node and everything below it, as it was at one moment.
#[derive(Debug, Clone)]
pub struct NodeSnapshot {
    /// The ids from the root to the node, joined by `/`.
    pub path: Arc<str>,
    /// The last part of the path.
    pub id: Arc<str>,
    /// The name shown to people: the node's own, or that of the nearest supervisor above with a name.
    pub shown_as: Option<Arc<str>>,
    /// The kind of the node in the application's words, such as `xds` or `capture`.
    pub kind_label: &'static str,
    /// Whether the node is a worker or a supervisor.
    pub kind: NodeKind,
    /// The state of the node.
    pub state: NodeState,
    /// The number of restarts by its supervisor.
    pub restarts: u64,
    /// The last unrequested exit or the last failed start.
    pub last_exit: Option<ExitNote>,
    /// The load of the node.
    pub load: Load,
    /// The children in start order.
    pub children: Vec<NodeSnapshot>,
}

/// The state of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// The start of the node is under way.
    Starting,
    /// The node runs.
    Up,
    /// The node failed and waits for its restart.
    BackingOff,
    /// The node failed too often and waits a long time for its restart.
    Quarantined,
    /// The node was asked to stop.
    Stopping,
    /// The node does not run: it has not started yet, has finished, or its supervisor is down.
    Down,
}

/// The time and the reason of a node's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitNote {
    /// The wall-clock time of the end.
    pub at: SystemTime,
    /// The message of the panic or error, or `killed`.
    pub reason: String,
}

/// The kind of a node in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// An actor that does the application's work.
    Worker,
    /// An actor that starts, watches and restarts others.
    Supervisor,
}

// === impl NodeState ===

impl NodeState {
    /// The state as a word for people and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::BackingOff => "backing-off",
            Self::Quarantined => "quarantined",
            Self::Stopping => "stopping",
            Self::Down => "down",
        }
    }
}

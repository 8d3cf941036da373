//! A tree as it was at one moment.

use std::{sync::Arc, time::SystemTime};

use super::record::Load;

/// A node and everything below it, as it was at one moment.
#[derive(Debug, Clone)]
pub struct NodeSnapshot {
    /// Ids from the root down, joined by `/`.
    pub path: Arc<str>,
    /// The last part of the path.
    pub id: Arc<str>,
    /// The name that people know it by: its own, or that of the nearest supervisor above it that has one.
    pub shown_as: Option<Arc<str>>,
    /// What it is, in the application's words: `xds`, `capture`.
    pub kind_label: &'static str,
    /// Worker or supervisor.
    pub kind: NodeKind,
    /// What it is doing.
    pub state: NodeState,
    /// How often its supervisor has started it again.
    pub restarts: u64,
    /// Its last exit that was not asked for, or its last failed start.
    pub last_exit: Option<ExitNote>,
    /// What it has to do.
    pub load: Load,
    /// Its children, in start order.
    pub children: Vec<NodeSnapshot>,
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// Its start is under way.
    Starting,
    /// It runs.
    Up,
    /// It failed and waits to be started again.
    BackingOff,
    /// It failed too often and waits long to be started again.
    Quarantined,
    /// It was asked to stop.
    Stopping,
    /// It does not run: not started yet, finished, or its supervisor is down.
    Down,
}

/// How and when a node ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitNote {
    /// Wall-clock time.
    pub at: SystemTime,
    /// The panic's or error's message, or `killed`.
    pub reason: String,
}

/// What a node of the tree is.
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

//! The state of a tree in shared memory: read without asking an actor, so a hung one hides nothing.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use ractor::ActorCell;

use super::{
    crash::Reports,
    door::{Door, Fault, Knocker},
    faults::FailingStarts,
    record::{Kinds, Load, Record, TraceOf},
    spec::{ChildSpec, Kind},
};

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
    pub kind: Kind,
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

/// No node has this path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the tree has no node {path:?}")]
pub struct NoSuchNode {
    /// The path that was looked for.
    pub path: String,
}

/// An actor was not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReached {
    /// There is none.
    #[error(transparent)]
    NoSuchNode(#[from] NoSuchNode),
    /// It does not run now.
    #[error("{path} is {}", .state.as_str())]
    NotUp {
        /// The node.
        path: Arc<str>,
        /// What it is doing.
        state: NodeState,
    },
    /// It runs and has not answered in time.
    #[error("{path} has not answered within {after:?}")]
    Silent {
        /// The node.
        path: Arc<str>,
        /// How long was waited.
        after: Duration,
    },
}

/// A node's place in shared memory. Written by its supervisor only; outlives the actor's incarnations.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) path: Arc<str>,
    pub(super) id: Arc<str>,
    pub(super) shown_as: Option<Arc<str>>,
    pub(super) kind_label: &'static str,
    kind: Kind,
    /// Its start and its stop, hung or not, take no longer than this together.
    pub(super) patience: Duration,
    pub(super) hung_after: Option<Duration>,
    pub(super) door: Door,
    pub(super) record: Record,
    pub(super) kinds: Arc<Kinds>,
    pub(super) reports: Arc<Reports>,
    pub(super) failing_starts: FailingStarts,
    live: Mutex<Live>,
}

#[derive(Debug)]
struct Live {
    state: NodeState,
    restarts: u64,
    last_exit: Option<ExitNote>,
    actor: Option<ActorCell>,
    /// Why it is being killed, for its supervisor to say.
    killed_for: Option<String>,
    children: Vec<Arc<Node>>,
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

// === impl Node ===

impl Node {
    /// The node of a root, whose tree names traces by `trace_of`.
    pub(super) fn root(spec: &ChildSpec, trace_of: TraceOf) -> Arc<Self> {
        Self::make(None, spec, trace_of)
    }

    /// The node of `spec` under the node at `parent`.
    pub(super) fn new(parent: &Node, spec: &ChildSpec) -> Arc<Self> {
        Self::make(Some(parent), spec, parent.record.trace_of())
    }

    fn make(parent: Option<&Node>, spec: &ChildSpec, trace_of: TraceOf) -> Arc<Self> {
        let path = match parent {
            Some(parent) => format!("{}/{}", parent.path, spec.id).into(),
            None => spec.id.clone(),
        };
        let kinds = parent.map_or_else(Arc::default, |parent| parent.kinds.clone());
        let live = Live {
            state: NodeState::Down,
            restarts: 0,
            last_exit: None,
            actor: None,
            killed_for: None,
            children: Vec::new(),
        };
        Arc::new(Self {
            path,
            id: spec.id.clone(),
            shown_as: spec.shown_as.clone().or_else(|| parent?.shown_as.clone()),
            kind_label: spec.label,
            kind: spec.kind,
            patience: spec.patience(),
            hung_after: spec.hung_after,
            door: Door::default(),
            record: Record::new(kinds.of(spec.label), trace_of),
            kinds,
            reports: parent.map_or_else(Arc::default, |parent| parent.reports.clone()),
            failing_starts: FailingStarts::default(),
            live: Mutex::new(live),
        })
    }

    pub(super) fn state(&self) -> NodeState {
        self.live.lock().state
    }

    pub(super) fn set_state(&self, state: NodeState) {
        self.live.lock().state = state;
        if state == NodeState::Down {
            self.record.end();
        }
    }

    /// It is up, as `actor`.
    pub(super) fn up(&self, actor: ActorCell) {
        let mut live = self.live.lock();
        live.state = NodeState::Up;
        live.actor = Some(actor);
        live.killed_for = None;
        self.door.reset();
    }

    /// Counts a restart and gives the count.
    pub(super) fn restarted(&self) -> u64 {
        let mut live = self.live.lock();
        live.restarts += 1;
        live.restarts
    }

    /// Notes an exit nobody asked for, or a failed start.
    pub(super) fn note_exit(&self, reason: &str) {
        self.live.lock().last_exit = Some(ExitNote { at: SystemTime::now(), reason: reason.to_owned() });
    }

    /// It is gone, and everything below it with it.
    pub(super) fn down(&self) {
        let children = {
            let mut live = self.live.lock();
            live.state = NodeState::Down;
            live.actor = None;
            live.children.clone()
        };
        self.record.end();
        children.iter().for_each(|child| child.down());
    }

    pub(super) fn children(&self) -> Vec<Arc<Node>> {
        self.live.lock().children.clone()
    }

    pub(super) fn set_children(&self, children: Vec<Arc<Node>>) {
        self.live.lock().children = children;
    }

    pub(super) fn add_child(&self, child: Arc<Node>) {
        self.live.lock().children.push(child);
    }

    pub(super) fn remove_child(&self, id: &str) {
        self.live.lock().children.retain(|child| &*child.id != id);
    }

    pub(super) fn child(&self, id: &str) -> Option<Arc<Node>> {
        self.live.lock().children.iter().find(|child| &*child.id == id).cloned()
    }

    pub(super) fn last_exit(&self) -> Option<ExitNote> {
        self.live.lock().last_exit.clone()
    }

    /// Kills its actor if it has one now.
    pub(super) fn kill(&self) {
        let actor = self.live.lock().actor.clone();
        if let Some(actor) = actor {
            actor.kill();
        }
    }

    /// Kills its actor if it has one now, and leaves word why.
    pub(super) fn kill_for(&self, reason: String) {
        self.live.lock().killed_for = Some(reason);
        self.kill();
    }

    /// Why it was killed, if somebody left word.
    pub(super) fn take_killed_for(&self) -> Option<String> {
        self.live.lock().killed_for.take()
    }

    /// Knocks at its actor. Whether there is one that can hear it.
    pub(super) fn knock(&self, knocker: &Knocker) -> bool {
        let actor = self.live.lock().actor.clone();
        actor.is_some_and(|actor| knocker.knock(&actor))
    }

    /// Has its actor suffer a fault soon.
    pub(super) fn inject(&self, fault: Fault) -> Result<(), NotReached> {
        self.door.leave(fault);
        let knocker = Knocker::new();
        let heard = knocker.is_some_and(|knocker| self.knock(&knocker));
        if heard { Ok(()) } else { Err(self.not_up()) }
    }

    /// Waits until its actor has answered a knock.
    pub(super) async fn probe(&self, timeout: Duration) -> Result<(), NotReached> {
        let number = self.door.ask();
        let knocker = Knocker::new();
        if !knocker.is_some_and(|knocker| self.knock(&knocker)) {
            self.door.settle(number);
            return Err(self.not_up());
        }
        let silent = |_| NotReached::Silent { path: self.path.clone(), after: timeout };
        tokio::time::timeout(timeout, self.door.answer_to(number)).await.map_err(silent)
    }

    fn not_up(&self) -> NotReached {
        // An actor that is just ending may still be shown as up.
        let state = Some(self.state()).filter(|state| *state != NodeState::Up);
        NotReached::NotUp { path: self.path.clone(), state: state.unwrap_or(NodeState::Stopping) }
    }

    /// The node at `path`, which is this one or below it.
    pub(super) fn find(self: &Arc<Self>, path: &str) -> Result<Arc<Node>, NoSuchNode> {
        self.search(path).ok_or_else(|| NoSuchNode { path: path.to_owned() })
    }

    fn search(self: &Arc<Self>, path: &str) -> Option<Arc<Node>> {
        if &*self.path == path {
            return Some(self.clone());
        }
        path.strip_prefix(&*self.path)?.strip_prefix('/')?;
        self.children().iter().find_map(|child| child.search(path))
    }

    pub(super) fn snapshot(&self) -> NodeSnapshot {
        let live = self.live.lock();
        let (state, restarts, last_exit) = (live.state, live.restarts, live.last_exit.clone());
        let children = live.children.clone();
        drop(live);
        NodeSnapshot {
            path: self.path.clone(),
            id: self.id.clone(),
            shown_as: self.shown_as.clone(),
            kind_label: self.kind_label,
            kind: self.kind,
            state,
            restarts,
            last_exit,
            load: self.record.load(),
            children: children.iter().map(|child| child.snapshot()).collect(),
        }
    }
}

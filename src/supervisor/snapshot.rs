//! The state of a tree in shared memory: read without asking an actor, so a hung one hides nothing.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use ractor::ActorId;
use tokio::sync::oneshot;

use super::{
    crash::Reports,
    faults::{FailingStarts, Fault},
    mailbox::Incarnation,
    record::{Kinds, Load, Record, TraceOf},
    spec::{ChildSpec, Kind},
    watchdog::Watchdog,
};

/// A node and everything below it, as it was at one moment.
#[derive(Debug, Clone)]
pub struct NodeSnapshot {
    /// Ids from the root down, joined by `/`.
    pub path: Arc<str>,
    /// The last part of the path.
    pub id: Arc<str>,
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
    pub(super) kind_label: &'static str,
    kind: Kind,
    /// Its start and its stop, hung or not, take no longer than this together.
    pub(super) patience: Duration,
    /// How long a graceful stop may take.
    pub(super) stop_within: Duration,
    /// How long a handler may take.
    pub(super) hung_after: Option<Duration>,
    /// The tree's.
    pub(super) watchdog: Arc<Watchdog<Subject>>,
    pub(super) record: Record,
    pub(super) kinds: Arc<Kinds>,
    pub(super) reports: Arc<Reports>,
    pub(super) failing_starts: FailingStarts,
    live: Mutex<Live>,
}

/// Whose handler the watchdog times.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) node: Arc<Node>,
    /// The incarnation.
    pub(super) actor: ActorId,
}

#[derive(Debug)]
struct Live {
    state: NodeState,
    restarts: u64,
    last_exit: Option<ExitNote>,
    actor: Option<Arc<dyn Incarnation>>,
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
            kind_label: spec.label,
            kind: spec.kind,
            patience: spec.patience(),
            stop_within: spec.stop_within,
            hung_after: spec.hung_after,
            watchdog: parent.map_or_else(Arc::default, |parent| parent.watchdog.clone()),
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
    pub(super) fn up(&self, actor: Arc<dyn Incarnation>) {
        let mut live = self.live.lock();
        live.state = NodeState::Up;
        live.actor = Some(actor);
        live.killed_for = None;
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

    /// A handler of the incarnation `actor` has run for so long, which is longer than it may: the actor is killed, and
    /// word is left why. A stop that its supervisor asked for is the supervisor's to bound.
    pub(super) fn hung(&self, actor: ActorId, time: Duration) {
        let reason = format!("hung: no answer for {time:?}");
        let hung = {
            let mut live = self.live.lock();
            let is_up = live.state == NodeState::Up;
            let hung = live.actor.clone().filter(|known| is_up && known.actor_id() == actor);
            if hung.is_some() {
                live.killed_for = Some(reason.clone());
            }
            hung
        };
        if let Some(hung) = hung {
            tracing::error!(target: "supervisor", path = %self.path, "{reason}: killed");
            hung.kill();
        }
    }

    /// Why it was killed, if somebody left word.
    pub(super) fn take_killed_for(&self) -> Option<String> {
        self.live.lock().killed_for.take()
    }

    /// Has its actor suffer a fault when its turn comes.
    pub(super) fn inject(&self, fault: Fault) -> Result<(), NotReached> {
        let actor = self.live.lock().actor.clone();
        actor.and_then(|actor| actor.inject(fault).ok()).ok_or_else(|| self.not_up())
    }

    /// Waits until its actor has answered.
    pub(super) async fn probe(&self, timeout: Duration) -> Result<(), NotReached> {
        let (port, answer) = oneshot::channel();
        let actor = self.live.lock().actor.clone();
        actor.and_then(|actor| actor.probe(port).ok()).ok_or_else(|| self.not_up())?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.not_up()),
            Err(_) => Err(NotReached::Silent { path: self.path.clone(), after: timeout }),
        }
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

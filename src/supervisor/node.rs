//! The nodes of a tree, in shared memory. They are read without asking an actor, so a hung actor hides nothing.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use ractor::ActorId;
use tokio::sync::oneshot;

use super::{
    actor_ref::Incarnation,
    diagnostics::{
        Dead, Death, ExitNote, HandledByKind, NodeKind, NodeSnapshot, NodeState, Record, Recorded, Reports,
        TraceOf, Watchdog,
    },
    faults::{FailingStarts, Fault},
};

/// How long an actor may take to be gone after its kill. Only one that never awaits takes it all.
/// Limit: end of an actor after its kill: 1 s; past it: the actor is abandoned, which is logged.
pub(super) const KILL_GRACE: Duration = Duration::from_secs(1);

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

/// What is fixed about a node.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub(super) id: Arc<str>,
    pub(super) kind: NodeKind,
    /// What it is, in the application's words.
    pub(super) label: &'static str,
    /// The name that people know the node by: its own, or that of the nearest supervisor above that has one.
    pub(super) shown_as: Option<Arc<str>>,
    /// How long a start may take.
    pub(super) start_timeout: Duration,
    /// How long a graceful stop may take.
    pub(super) stop_within: Duration,
    /// How long a handler may take.
    pub(super) hung_after: Option<Duration>,
}

/// A node's place in shared memory. Only its supervisor writes it; it outlives the actor's incarnations.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) path: Arc<str>,
    pub(super) profile: Profile,
    pub(super) record: Record,
    pub(super) failing_starts: FailingStarts,
    pub(super) shared: Arc<Shared>,
    live: Mutex<Live>,
}

/// What all nodes of a tree share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) handled: HandledByKind,
    pub(super) reports: Reports,
    pub(super) watchdog: Watchdog<Subject>,
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

// === impl Profile ===

impl Profile {
    /// The longest that a start and a stop take together, hung or not.
    pub(super) fn start_and_stop(&self) -> Duration {
        self.start_timeout.saturating_add(self.stop_within).saturating_add(2 * KILL_GRACE)
    }
}

// === impl Node ===

impl Node {
    /// The node of a root, whose tree names traces by `trace_of`.
    pub(super) fn root(profile: &Profile, trace_of: TraceOf) -> Arc<Self> {
        Self::make(profile.id.clone(), profile.clone(), trace_of, Arc::default())
    }

    /// A node under the node at `parent`.
    pub(super) fn new(parent: &Node, profile: &Profile) -> Arc<Self> {
        let path = format!("{}/{}", parent.path, profile.id).into();
        let shown_as = profile.shown_as.clone().or_else(|| parent.profile.shown_as.clone());
        let profile = Profile { shown_as, ..profile.clone() };
        Self::make(path, profile, parent.record.trace_of(), parent.shared.clone())
    }

    fn make(path: Arc<str>, profile: Profile, trace_of: TraceOf, shared: Arc<Shared>) -> Arc<Self> {
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
            record: Record::new(shared.handled.of(profile.label), trace_of),
            profile,
            failing_starts: FailingStarts::default(),
            shared,
            live: Mutex::new(live),
        })
    }

    /// Reports a death of its actor: how and why, and what was recorded until then.
    pub(super) fn report(&self, death: Death, reason: &str, recorded: Recorded) {
        let Profile { label, ref shown_as, .. } = self.profile;
        let dead = Dead { path: self.path.clone(), shown_as: shown_as.clone(), kind: label, death };
        self.shared.reports.file(dead, reason, recorded);
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
        self.live.lock().children.retain(|child| &*child.profile.id != id);
    }

    pub(super) fn child(&self, id: &str) -> Option<Arc<Node>> {
        self.live.lock().children.iter().find(|child| &*child.profile.id == id).cloned()
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

    /// Kills the incarnation `actor`, of which a handler has run for so long, and leaves the reason to its supervisor. A
    /// stop that the supervisor asked for is bounded by the supervisor.
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

    /// Why it was killed, if a reason was left.
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
            id: self.profile.id.clone(),
            shown_as: self.profile.shown_as.clone(),
            kind_label: self.profile.label,
            kind: self.profile.kind,
            state,
            restarts,
            last_exit,
            load: self.record.load(),
            children: children.iter().map(|child| child.snapshot()).collect(),
        }
    }
}

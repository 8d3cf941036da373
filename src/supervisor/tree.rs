//! A running tree: started, looked at, broken on purpose, stopped.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{
    actor_ref::ActorRef,
    child::{ChildSpec, StartError},
    diagnostics::{CrashReport, NodeSnapshot, NodeState, TraceOf, WATCHDOG_INTERVAL},
    event::{Event, Observer},
    faults::{Fault, tripwire},
    node::{KILL_GRACE, NoSuchNode, Node, NotReached},
    shell::{Msg, Shell, launch},
    spec::SupervisorSpec,
    task::{OwnedTask, report_panic, watch_panics},
};

/// The watchdog's name among tasks.
const WATCHDOG: &str = "supervisor/watchdog";

/// A running tree. Dropping it kills every actor in it; [`Tree::stop`] is the graceful way.
pub struct Tree {
    root: ActorRef<Msg>,
    stop_within: Duration,
    handle: TreeHandle,
    exit: watch::Receiver<Option<TreeExit>>,
    _exit_watch: OwnedTask,
    _watchdog: Option<OwnedTask>,
}

/// Looks at a tree and kills in it, but does not own it.
#[derive(Clone)]
pub struct TreeHandle {
    pub(super) root: Arc<Node>,
}

/// How a tree ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeExit {
    /// It was asked to.
    Stopped,
    /// The root gave up on its children, or was killed.
    Failed {
        /// Why.
        reason: String,
    },
}

// === impl Tree ===

impl Tree {
    /// Starts the children in order, waiting for each, on the current tokio runtime.
    ///
    /// # Errors
    /// The first start that failed. Those started before have been stopped, in reverse order.
    pub async fn start(root: SupervisorSpec) -> Result<Self, StartError> {
        Self::start_observed(root, Arc::new(|_| {}), |_| None).await
    }

    /// Starts a tree as [`Tree::start`] does. It shows every crash, restart, quarantine and escalation to `on_event`, and
    /// its flight recorder names the traces of messages by `trace_of`.
    ///
    /// The observer runs on the supervisor's turn: it may count, but not block. Its panics are caught.
    ///
    /// # Errors
    /// As [`Tree::start`].
    pub async fn start_observed(
        root: SupervisorSpec,
        on_event: Arc<dyn Fn(&Event) + Send + Sync>,
        trace_of: TraceOf,
    ) -> Result<Self, StartError> {
        let blueprint = root.blueprint();
        let spec = ChildSpec::from(root);
        let stop_within = spec.profile.stop_within;
        let node = Node::root(&spec.profile, trace_of);
        node.set_state(NodeState::Starting);
        let (root, ended) = launch(blueprint, node.clone(), Observer::new(on_event), None).await?;
        node.up(Arc::new(Shell(root.clone())));
        let (exits, exit) = watch::channel(None);
        let watched = node.clone();
        let watching = async move {
            let _ = ended.await;
            let exit = match (watched.state(), watched.last_exit()) {
                (NodeState::Stopping, _) => TreeExit::Stopped,
                (_, Some(note)) => TreeExit::Failed { reason: note.reason },
                (_, None) => TreeExit::Failed { reason: "killed".into() },
            };
            watched.down();
            exits.send_replace(Some(exit));
        };
        let exit_watch = OwnedTask::spawn("supervisor/witness", watching, |_| {});
        Ok(Self {
            root,
            stop_within,
            handle: TreeHandle { root: node },
            exit,
            _exit_watch: exit_watch,
            _watchdog: None,
        })
    }

    /// Has the children that name a limit ([`ChildSpec::hung_after`]) watched, and killed when they hang. A child that
    /// ends by itself is watched while it cleans up: it is killed when that takes longer than its `stop_within`.
    pub fn watched(mut self) -> Self {
        let watching = watch_for_ever(self.handle.root.clone());
        self._watchdog = Some(OwnedTask::spawn("supervisor/watchdogs", watching, |_| {}));
        self
    }

    /// Stops all children in reverse order, supervisors after what is below them. Each has its own budget; past the
    /// whole tree's budget the rest is killed.
    pub async fn stop(self) {
        self.handle.root.set_state(NodeState::Stopping);
        let _ = self.root.cast(Msg::Shutdown);
        let exited = self.exited();
        if tokio::time::timeout(self.stop_within, exited).await.is_err() {
            tracing::warn!(target: "supervisor", after = ?self.stop_within, "the tree did not stop and is killed");
            self.root.kill();
            let _ = tokio::time::timeout(KILL_GRACE, self.exited()).await;
        }
    }

    /// Resolves when the root has given up, was killed, or was stopped.
    pub fn exited(&self) -> impl Future<Output = TreeExit> + Send + use<> {
        let mut exit = self.exit.clone();
        async move {
            match exit.wait_for(Option::is_some).await {
                Ok(known) => known.clone().unwrap_or(TreeExit::Stopped),
                Err(_) => TreeExit::Failed { reason: "dropped".into() },
            }
        }
    }

    /// The tree as it is now: its one root, which holds its children, and so on.
    pub fn snapshot(&self) -> Vec<NodeSnapshot> {
        self.handle.snapshot()
    }

    /// A handle to look and kill with.
    pub fn handle(&self) -> TreeHandle {
        self.handle.clone()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.root.kill();
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("root", &self.handle.root.path).finish_non_exhaustive()
    }
}

/// Watches the handlers of the tree of `root`. Nobody watches the watchdog, so it repairs itself.
pub(super) async fn watch_for_ever(root: Arc<Node>) {
    let watch = || root.shared.watchdog.watch(|subject, time| subject.node.hung(subject.actor, time));
    while let Err(message) = watch_panics(tripwire(WATCHDOG, watch())).await {
        report_panic(WATCHDOG, &message);
        sleep(WATCHDOG_INTERVAL).await;
    }
}

// === impl TreeHandle ===

impl TreeHandle {
    /// The tree as it is now: its one root, which holds its children, and so on. Asks no actor.
    pub fn snapshot(&self) -> Vec<NodeSnapshot> {
        vec![self.root.snapshot()]
    }

    /// Each kind of actor the tree has had, with the messages handled and the time that took. Actors that are gone count,
    /// too.
    pub fn handled_by_kind(&self) -> Vec<(&'static str, u64, Duration)> {
        self.root.shared.handled.all()
    }

    /// Each kind of actor the tree has had, with how many of it are in quarantine.
    pub fn quarantined_by_kind(&self) -> Vec<(&'static str, u64)> {
        let mut kinds: Vec<(&'static str, u64)> =
            self.root.shared.handled.all().into_iter().map(|(kind, ..)| (kind, 0)).collect();
        let mut left = self.snapshot();
        while let Some(node) = left.pop() {
            let known = kinds.iter_mut().find(|(kind, _)| *kind == node.kind_label);
            if let Some((_, number)) = known.filter(|_| node.state == NodeState::Quarantined) {
                *number += 1;
            }
            left.extend(node.children);
        }
        kinds
    }

    /// The crash reports that are kept, of this tree's actors and of the process's tasks, oldest first. The number counts
    /// the older reports that are not kept.
    pub fn crashes(&self) -> (Vec<Arc<CrashReport>>, u64) {
        self.root.shared.reports.with_tasks()
    }

    /// The node at `path` and what is below it.
    ///
    /// # Errors
    /// [`NoSuchNode`] with the path.
    pub fn find(&self, path: &str) -> Result<NodeSnapshot, NoSuchNode> {
        self.root.find(path).map(|node| node.snapshot())
    }

    /// Kills the actor at `path` as a crash would: it does not clean up, and its supervisor restarts it. The children
    /// of a supervisor die with it. Nothing happens if the node is not up.
    ///
    /// # Errors
    /// [`NoSuchNode`] with the path.
    pub fn kill(&self, path: &str) -> Result<(), NoSuchNode> {
        let node = self.root.find(path)?;
        tracing::warn!(target: "supervisor", path, "killed on request");
        node.kill();
        Ok(())
    }

    /// Has the actor at `path` suffer `fault`, after the messages that wait in its mailbox. A fault that has not been
    /// acted out dies with the incarnation it was sent to.
    ///
    /// # Errors
    /// There is no such node, or its actor is not up.
    pub fn inject(&self, path: &str, fault: Fault) -> Result<(), NotReached> {
        let node = self.root.find(path)?;
        tracing::warn!(target: "supervisor", path, ?fault, "fault injected on request");
        node.inject(fault)
    }

    /// Has the next `times` starts of the actor at `path` fail; 0 takes it back. One that runs goes on.
    ///
    /// # Errors
    /// [`NoSuchNode`] with the path.
    pub fn fail_starts(&self, path: &str, times: u32) -> Result<(), NoSuchNode> {
        self.root.find(path)?.failing_starts.order(times);
        tracing::warn!(target: "supervisor", path, times, "starts are made to fail on request");
        Ok(())
    }

    /// Waits until the actor at `path` has handled all that was in its mailbox.
    ///
    /// # Errors
    /// There is no such node, its actor is not up or has died meanwhile, or it has not answered within `timeout`.
    pub async fn probe(&self, path: &str, timeout: Duration) -> Result<(), NotReached> {
        self.root.find(path)?.probe(timeout).await
    }
}

impl fmt::Debug for TreeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TreeHandle").field("root", &self.root.path).finish()
    }
}

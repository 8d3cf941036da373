//! A supervisor: the actor around a [`Plan`]. It performs what the plan decides and never waits in its mailbox.
//!
//! Starts, back-offs and deadlines of stops run in tasks that the supervisor owns, and their ends come back as messages.
//! Exits come as ractor's supervision events. So while one child hangs in its start, the failures of the others are
//! handled.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use ractor::{
    ActorCell, ActorId, ActorProcessingErr, RpcReplyPort, SupervisionEvent, concurrency::JoinHandle,
};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{
    actor::{Actor, Described},
    actor_ref::{ActorRef, Gone, Incarnation},
    child::{ChildSpec, Place, StartError, duplicate},
    diagnostics::{Death, NodeState},
    event::{EventKind, Observer},
    faults::Fault,
    node::{KILL_GRACE, Node},
    plan::{Action, Ending, Family, Input, Plan, Rules, Slot},
    supervised,
    task::{OwnedTask, TaskExit},
};

/// What a supervisor is built from, at every start of it.
#[derive(Clone)]
pub(super) struct Blueprint {
    pub(super) id: Arc<str>,
    pub(super) rules: Rules,
    pub(super) children: Arc<[ChildSpec]>,
}

/// The actor that supervises.
pub(super) struct Supervisor;

pub(super) enum Msg {
    /// From a start task: how the start went.
    Started { slot: Slot, result: Result<Arc<dyn Incarnation>, StartError> },
    /// From a back-off task: the back-off is over.
    Woke { slot: Slot },
    /// From the deadline of a stop: the child has survived even its kill.
    Immortal { slot: Slot },
    /// From the deadline of a stop: its task panicked, and the stop needs another.
    DeadlineLost { slot: Slot },
    /// From a parent: stop the children, then yourself.
    Shutdown,
    /// From `DynamicChildren`, bounded by its admission: start one more child.
    Add { spec: ChildSpec, reply: RpcReplyPort<Result<(), StartError>> },
    /// From `DynamicChildren`: stop a child for good.
    Remove { id: Arc<str>, reply: RpcReplyPort<()> },
}

pub(super) struct Setup {
    blueprint: Blueprint,
    node: Arc<Node>,
    observer: Observer,
    ready: oneshot::Sender<Result<(), StartError>>,
}

pub(super) struct State {
    plan: Plan,
    children: HashMap<Slot, Child>,
    by_actor: HashMap<ActorId, Slot>,
    /// Exits that were heard of before the start they belong to, because supervision events overtake messages.
    early: HashMap<ActorId, Exit>,
    node: Arc<Node>,
    observer: Observer,
    ready: Option<oneshot::Sender<Result<(), StartError>>>,
    /// Why the latest start failed; for whoever waits for `ready`.
    start_error: Option<StartError>,
    rng: SmallRng,
}

struct Child {
    spec: ChildSpec,
    node: Arc<Node>,
    actor: Option<Arc<dyn Incarnation>>,
    /// Its start, its back-off or the deadline of its stop, whichever it is in.
    task: Option<OwnedTask>,
    was_up: bool,
    on_start: Option<RpcReplyPort<Result<(), StartError>>>,
    on_stop: Vec<RpcReplyPort<()>>,
}

/// How a child ended.
struct Exit {
    normal: bool,
    reason: String,
}

/// A supervisor gave up. Its parent hears this as the reason of the failure.
#[derive(Debug, thiserror::Error)]
#[error("more restarts than its intensity allows, the last for {child}: {reason}")]
struct GaveUp {
    child: Arc<str>,
    reason: String,
}

/// A supervisor that runs, as a child of another.
#[derive(Debug)]
pub(super) struct Shell(pub(super) ActorRef<Msg>);

/// Kills an actor nobody waited for.
struct KillOnDrop(Option<ActorCell>);

/// Starts a supervisor and waits until all its children are up. On failure nothing of it is left.
pub(super) async fn launch(
    blueprint: Blueprint,
    node: Arc<Node>,
    observer: Observer,
    parent: Option<ActorCell>,
) -> Result<(ActorRef<Msg>, JoinHandle<()>), StartError> {
    if let Some(id) = duplicate(&blueprint.children) {
        return Err(StartError::Duplicate { id: id.clone() });
    }
    let id = blueprint.id.clone();
    let (ready, is_ready) = oneshot::channel();
    let setup = Setup { blueprint, node: node.clone(), observer, ready };
    let started = supervised::start(Supervisor, setup, node, parent).await;
    let (actor, ended) = started.map_err(|error| StartError::spawning(&id, error))?;
    let mut guard = KillOnDrop(Some(actor.cell()));
    let outcome = is_ready.await.unwrap_or_else(|_| Err(StartError::failed(&id, "killed")));
    if let Err(error) = outcome {
        let _ = actor.cell().wait(Some(KILL_GRACE)).await;
        return Err(error);
    }
    guard.0 = None;
    Ok((actor, ended))
}

// === impl Msg ===

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Woke { .. } => "woke",
            Self::Immortal { .. } => "immortal",
            Self::DeadlineLost { .. } => "deadline-lost",
            Self::Shutdown => "shutdown",
            Self::Add { .. } => "add",
            Self::Remove { .. } => "remove",
        }
    }
}

// === impl Shell ===

impl Incarnation for Shell {
    fn actor_id(&self) -> ActorId {
        self.0.actor_id()
    }

    fn shut_down(&self) {
        // ractor's stop would kill its children: it has to stop them first.
        let _ = self.0.cast(Msg::Shutdown);
    }

    fn kill(&self) {
        self.0.kill();
    }

    fn inject(&self, fault: Fault) -> Result<(), Gone> {
        self.0.inject(fault)
    }

    fn probe(&self, answer: oneshot::Sender<()>) -> Result<(), Gone> {
        self.0.probe(answer)
    }
}

// === impl Supervisor ===

impl Actor for Supervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Setup;

    async fn pre_start(&self, _: ActorRef<Msg>, setup: Setup) -> Result<State, ActorProcessingErr> {
        Ok(State::new(setup))
    }

    async fn post_start(&self, myself: ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.apply(&myself, Input::Added)
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        msg: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Started { slot, result } => state.started(&myself, slot, result),
            Msg::Woke { slot } => state.apply(&myself, Input::Woke(slot)),
            Msg::Immortal { slot } => state.abandon(&myself, slot),
            Msg::DeadlineLost { slot } => {
                state.bound_stop(&myself, slot);
                Ok(())
            }
            Msg::Shutdown => state.apply(&myself, Input::Shutdown),
            Msg::Add { spec, reply } => state.add(&myself, spec, reply),
            Msg::Remove { id, reply } => state.remove(&myself, &id, reply),
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (who, exit) = match event {
            SupervisionEvent::ActorFailed(who, error) => {
                (who, Exit { normal: false, reason: error.to_string() })
            }
            SupervisionEvent::ActorTerminated(who, last_state, reason) => {
                // The dead child's State (its sockets, its tasks) goes first: the next incarnation needs what it
                // holds. A panic in its Drop must not cost its siblings their lives.
                if std::panic::catch_unwind(AssertUnwindSafe(|| drop(last_state))).is_err() {
                    tracing::error!(target: "supervisor", path = %state.node.path, "a dead child's state panicked");
                }
                (who, Exit::terminated(reason))
            }
            _ => return Ok(()),
        };
        match state.by_actor.get(&who.get_id()) {
            Some(slot) => state.exited(&myself, *slot, exit),
            None => {
                if state.plan.is_starting() {
                    state.early.insert(who.get_id(), exit);
                }
                Ok(())
            }
        }
    }
}

// === impl State ===

impl State {
    fn new(Setup { blueprint, node, observer, ready }: Setup) -> Self {
        let mut state = Self {
            plan: Plan::new(blueprint.rules),
            children: HashMap::new(),
            by_actor: HashMap::new(),
            early: HashMap::new(),
            node,
            observer,
            ready: Some(ready),
            start_error: None,
            rng: SmallRng::from_rng(&mut rand::rng()),
        };
        // The nodes of fixed children, and the restarts counted there, outlive this incarnation.
        let known = |spec: &ChildSpec| match blueprint.rules.family {
            Family::Static(_) => state.node.child(spec.id()),
            Family::Dynamic { .. } => None,
        };
        let node_of = |spec: &ChildSpec| known(spec).unwrap_or_else(|| Node::new(&state.node, &spec.profile));
        let nodes: Vec<_> = blueprint.children.iter().map(node_of).collect();
        state.node.set_children(nodes.clone());
        for (spec, node) in blueprint.children.iter().zip(nodes) {
            state.adopt(spec.clone(), node, None);
        }
        state
    }

    fn adopt(
        &mut self,
        spec: ChildSpec,
        node: Arc<Node>,
        on_start: Option<RpcReplyPort<Result<(), StartError>>>,
    ) {
        let slot = self.plan.add(spec.restart);
        let child =
            Child { spec, node, actor: None, task: None, was_up: false, on_start, on_stop: Vec::new() };
        self.children.insert(slot, child);
    }

    /// Tells the plan and does what it says. An error is the supervisor's own failure: its children are stopped.
    fn apply(&mut self, myself: &ActorRef<Msg>, input: Input) -> Result<(), ActorProcessingErr> {
        for action in self.plan.on(Instant::now().into_std(), &mut self.rng, input) {
            match action {
                Action::Start(slot) => self.start(myself, slot),
                Action::Stop(slot) => self.stop(myself, slot),
                Action::Wake { slot, after, quarantined } => self.back_off(myself, slot, after, quarantined),
                Action::Forget(slot) => self.forget(slot),
                Action::Ready => self.answer_ready(Ok(())),
                Action::Exit(ending) => return self.exit(myself, ending),
            }
        }
        if !self.plan.is_starting() {
            self.early.clear();
        }
        Ok(())
    }

    fn start(&mut self, myself: &ActorRef<Msg>, slot: Slot) {
        let Some(child) = self.children.get_mut(&slot) else { return };
        child.node.set_state(NodeState::Starting);
        let (spec, myself) = (child.spec.clone(), myself.clone());
        let place =
            Place { supervisor: myself.cell(), node: child.node.clone(), observer: self.observer.clone() };
        let (id, told) = (spec.id().clone(), myself.clone());
        let fails = child.node.failing_starts.take();
        let work = async move {
            let result = match fails {
                true => Err(StartError::failed(spec.id(), "it was told to fail")),
                false => spec.start(place).await,
            };
            let _ = myself.cast(Msg::Started { slot, result });
        };
        let on_panic = move |message: String| {
            let _ = told.cast(Msg::Started { slot, result: Err(StartError::failed(&id, message)) });
        };
        child.task = Some(work_for("supervisor/start", &child.node, work, on_panic));
    }

    fn started(
        &mut self,
        myself: &ActorRef<Msg>,
        slot: Slot,
        result: Result<Arc<dyn Incarnation>, StartError>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(child) = self.children.get_mut(&slot) else { return Ok(()) };
        child.task = None;
        let reply = child.on_start.take();
        let answer = result.as_ref().map(|_| ()).map_err(StartError::clone);
        let actor = match result {
            Ok(actor) => actor,
            Err(error) => {
                let (last, reason) = (child.node.record.take(), error.to_string());
                child.node.set_state(NodeState::Down);
                child.node.note_exit(&reason);
                if !self.plan.is_ending() {
                    // What is below a supervisor has reported its own failures.
                    if error.is_of(child.spec.id()) {
                        child.node.report(Death::StartFailed, &reason, last);
                    }
                    self.start_error = Some(error);
                }
                self.observer.tell(&child.node, EventKind::StartFailed { reason });
                answer_start(reply, answer);
                return self.apply(myself, Input::StartFailed(slot));
            }
        };
        child.actor = Some(actor.clone());
        child.node.up(actor.clone());
        if std::mem::replace(&mut child.was_up, true) {
            self.observer.tell(&child.node, EventKind::Restarted { restarts: child.node.restarted() });
        }
        self.by_actor.insert(actor.actor_id(), slot);
        let early = self.early.remove(&actor.actor_id());
        answer_start(reply, answer);
        self.apply(myself, Input::Started(slot))?;
        early.map_or(Ok(()), |exit| self.exited(myself, slot, exit))
    }

    fn stop(&mut self, myself: &ActorRef<Msg>, slot: Slot) {
        let Some(child) = self.children.get_mut(&slot) else { return };
        let Some(actor) = child.actor.clone() else { return };
        child.node.set_state(NodeState::Stopping);
        actor.shut_down();
        self.bound_stop(myself, slot);
    }

    /// Has a stop that is under way end: past its budget the child is killed.
    fn bound_stop(&mut self, myself: &ActorRef<Msg>, slot: Slot) {
        let Some(child) = self.children.get_mut(&slot) else { return };
        let Some(actor) = child.actor.clone().filter(|_| child.node.state() == NodeState::Stopping) else {
            return;
        };
        let (myself, told, observer) = (myself.clone(), myself.clone(), self.observer.clone());
        let (node, budget) = (child.node.clone(), child.spec.profile.stop_within);
        let deadline = async move {
            sleep(budget).await;
            observer.tell(&node, EventKind::Killed { after: budget });
            let reason = format!("did not stop within {budget:?}");
            node.report(Death::Unstoppable, &reason, node.record.take());
            actor.kill();
            sleep(KILL_GRACE).await;
            let _ = myself.cast(Msg::Immortal { slot });
        };
        let on_panic = move |_| drop(told.cast(Msg::DeadlineLost { slot }));
        child.task = Some(work_for("supervisor/stop", &child.node, deadline, on_panic));
    }

    fn exited(&mut self, myself: &ActorRef<Msg>, slot: Slot, exit: Exit) -> Result<(), ActorProcessingErr> {
        let Some(child) = self.children.get_mut(&slot) else { return Ok(()) };
        let Some(actor) = child.actor.take() else { return Ok(()) };
        self.by_actor.remove(&actor.actor_id());
        child.task = None;
        let last = child.node.record.take();
        child.node.down();
        let Exit { normal, reason } = exit;
        let hung = child.node.take_killed_for();
        let death = Death::of(normal, &reason, hung.is_some(), last.panicked);
        let reason = hung.unwrap_or(reason);
        if !self.plan.expects_exit(slot) {
            child.node.note_exit(&reason);
            let kind = if normal && !child.spec.restart.applies(normal) {
                EventKind::Finished
            } else {
                child.node.report(death, &reason, last);
                EventKind::Crashed { reason }
            };
            self.observer.tell(&child.node, kind);
        }
        self.apply(myself, Input::Exited { slot, normal })
    }

    /// Carries on without a child that nothing ends. Such a child must loop without an await.
    fn abandon(&mut self, myself: &ActorRef<Msg>, slot: Slot) -> Result<(), ActorProcessingErr> {
        let Some(child) = self.children.get(&slot).filter(|child| child.actor.is_some()) else {
            return Ok(());
        };
        let reason = "it survived its kill and is abandoned";
        tracing::error!(target: "supervisor", path = %child.node.path, reason);
        child.node.note_exit(reason);
        self.exited(myself, slot, Exit { normal: false, reason: reason.into() })
    }

    fn back_off(&mut self, myself: &ActorRef<Msg>, slot: Slot, after: Duration, quarantined: bool) {
        let Some(child) = self.children.get_mut(&slot) else { return };
        if quarantined {
            child.node.set_state(NodeState::Quarantined);
            self.observer.tell(&child.node, EventKind::Quarantined { retry_in: after });
        } else {
            child.node.set_state(NodeState::BackingOff);
        }
        let (myself, told) = (myself.clone(), myself.clone());
        let back_off = async move {
            sleep(after).await;
            let _ = myself.cast(Msg::Woke { slot });
        };
        let on_panic = move |_| drop(told.cast(Msg::Woke { slot }));
        child.task = Some(work_for("supervisor/backoff", &child.node, back_off, on_panic));
    }

    fn add(
        &mut self,
        myself: &ActorRef<Msg>,
        spec: ChildSpec,
        reply: RpcReplyPort<Result<(), StartError>>,
    ) -> Result<(), ActorProcessingErr> {
        let id = spec.id().clone();
        if self.plan.is_ending() {
            let _ = reply.send(Err(StartError::Unavailable { id }));
            return Ok(());
        }
        if self.children.values().any(|child| *child.spec.id() == id) {
            let _ = reply.send(Err(StartError::Duplicate { id }));
            return Ok(());
        }
        let node = Node::new(&self.node, &spec.profile);
        self.node.add_child(node.clone());
        self.adopt(spec, node, Some(reply));
        self.apply(myself, Input::Added)
    }

    fn remove(
        &mut self,
        myself: &ActorRef<Msg>,
        id: &str,
        reply: RpcReplyPort<()>,
    ) -> Result<(), ActorProcessingErr> {
        let Some((slot, child)) = self.children.iter_mut().find(|(_, child)| &**child.spec.id() == id) else {
            let _ = reply.send(());
            return Ok(());
        };
        child.on_stop.push(reply);
        let slot = *slot;
        self.apply(myself, Input::Remove(slot))
    }

    fn forget(&mut self, slot: Slot) {
        let Some(child) = self.children.remove(&slot) else { return };
        self.node.remove_child(child.spec.id());
        for reply in child.on_stop {
            let _ = reply.send(());
        }
    }

    fn exit(&mut self, myself: &ActorRef<Msg>, ending: Ending) -> Result<(), ActorProcessingErr> {
        let unavailable = StartError::Unavailable { id: self.node.profile.id.clone() };
        let (error, gave_up) = match ending {
            Ending::Asked => (unavailable, None),
            Ending::StartFailed(_) => (self.start_error.take().unwrap_or(unavailable), None),
            Ending::GaveUp(slot) => {
                let (child, last_exit) = match self.children.get(&slot) {
                    Some(child) => (child.node.path.clone(), child.node.last_exit()),
                    None => (self.node.path.clone(), None),
                };
                let gave_up =
                    GaveUp { child, reason: last_exit.map_or_else(String::new, |note| note.reason) };
                self.node.note_exit(&gave_up.to_string());
                self.observer.tell(&self.node, EventKind::GaveUp { reason: gave_up.to_string() });
                (StartError::failed(&self.node.profile.id, &gave_up), Some(gave_up))
            }
        };
        if self.ready.is_some() {
            // It was never up, so this is no crash: the start that waits hears why.
            self.answer_ready(Err(error));
        } else if let Some(gave_up) = gave_up {
            return Err(gave_up.into());
        }
        myself.stop(None);
        Ok(())
    }

    fn answer_ready(&mut self, outcome: Result<(), StartError>) {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(outcome);
        }
    }
}

/// A task that works for the child at `node`. If it panics, `on_panic` sends what the task was to send.
fn work_for(
    kind: &str,
    node: &Node,
    work: impl Future<Output = ()> + Send + 'static,
    on_panic: impl FnOnce(String) + Send + 'static,
) -> OwnedTask {
    OwnedTask::spawn(format!("{kind}/{}", node.path), work, |exit| {
        if let TaskExit::Panicked { message } = exit {
            on_panic(message);
        }
    })
}

fn answer_start(reply: Option<RpcReplyPort<Result<(), StartError>>>, answer: Result<(), StartError>) {
    if let Some(reply) = reply {
        let _ = reply.send(answer);
    }
}

// === impl Exit ===

impl Exit {
    /// ractor reports a killed actor as terminated, like one that stopped: only the reason tells.
    fn terminated(reason: Option<String>) -> Self {
        match reason.as_deref() {
            Some("killed" | "actor_task_cancelled") => {
                Self { normal: false, reason: reason.unwrap_or_default() }
            }
            _ => Self { normal: true, reason: reason.unwrap_or_else(|| "stopped by itself".into()) },
        }
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(actor) = self.0.take() {
            actor.kill();
        }
    }
}

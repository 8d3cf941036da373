//! A worker that does as it is told, and a journal of what workers went through.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ractor::{ActorProcessingErr, RpcReplyPort};
use tokio::{
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use crate::supervisor::{
    Actor, ActorRef, Address, Backoff, ChildSpec, Described, Event, EventKind, Intensity, NodeState,
    OwnedTask, Strategy, SupervisorSpec, Tree, TreeHandle,
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);

/// Back-off of a second, without jitter.
pub(crate) const STEADY: Backoff = Backoff { first: SECOND, cap: SECOND, jitter: 0.0 };
pub(crate) const PATIENT: Intensity = Intensity { restarts: 1_000_000, within: SECOND };

/// Held by the tests with a watchdog, alone by the one that has it panic: what is armed is armed for the process.
static WATCHDOGS: RwLock<()> = RwLock::const_new(());

/// What all workers of a test write to.
#[derive(Clone, Default)]
pub(crate) struct World {
    journal: Arc<Mutex<Vec<String>>>,
    events: Arc<Mutex<Vec<(Instant, Event)>>>,
    /// As long as the world is there, nobody else's order makes its watchdog panic.
    shared: Arc<Mutex<Option<RwLockReadGuard<'static, ()>>>>,
}

/// A worker's remote control.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) id: String,
    pub(crate) address: Address<Msg>,
    script: Arc<Mutex<Script>>,
    starts: Arc<AtomicU32>,
    incarnations: Arc<AtomicU32>,
    /// Stands for a port: only one incarnation can hold it.
    port: Arc<AtomicBool>,
    pub(crate) lock: Arc<Mutex<u32>>,
    world: World,
}

#[derive(Default)]
struct Script {
    starts: VecDeque<Start>,
    always: Option<Start>,
    hangs_in_stop: bool,
    panics_in_drop: bool,
}

#[derive(Clone, Copy)]
pub(crate) enum Start {
    Well,
    Fails,
    Panics,
    Hangs,
    /// Comes up, and panics before its first message.
    PanicsAfter,
    /// Comes up, and hangs before its first message.
    HangsAfter,
}

pub(crate) enum Msg {
    /// Answers with the number of the incarnation.
    Ping(RpcReplyPort<u32>),
    Panic,
    PanicWithLock,
    Fail,
    End,
    Hang,
    /// Takes the reply port along into a panic.
    DieWith(RpcReplyPort<u32>),
    /// Keeps the reply port, and answers never.
    Keep(RpcReplyPort<u32>),
}

struct Probe(Worker);

struct State {
    incarnation: u32,
    kept: Vec<RpcReplyPort<u32>>,
    _task: OwnedTask,
    _held: Held,
}

/// Releases the port when the State drops.
struct Held(Worker);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.world.note("drop", &self.0.id);
        self.0.port.store(false, Ordering::SeqCst);
        if self.0.script.lock().panics_in_drop {
            panic!("in drop");
        }
    }
}

impl World {
    pub(crate) fn note(&self, what: &str, id: &str) {
        self.journal.lock().push(format!("{what} {id}"));
    }

    /// What was noted since the last look.
    pub(crate) fn journal(&self) -> Vec<String> {
        std::mem::take(&mut self.journal.lock())
    }

    /// The notes of this kind since the last look: `["a", "b"]` for "start".
    pub(crate) fn noted(&self, what: &str) -> Vec<String> {
        let journal = self.journal();
        journal
            .iter()
            .filter_map(|note| note.strip_prefix(what)?.strip_prefix(' '))
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn worker(&self, id: &str) -> Worker {
        Worker {
            id: id.into(),
            address: Address::new(id),
            script: Arc::default(),
            starts: Arc::default(),
            incarnations: Arc::default(),
            port: Arc::default(),
            lock: Arc::default(),
            world: self.clone(),
        }
    }

    pub(crate) async fn start(&self, root: SupervisorSpec) -> Tree {
        self.try_start(root).await.expect("the tree starts")
    }

    pub(crate) async fn try_start(
        &self,
        root: SupervisorSpec,
    ) -> Result<Tree, crate::supervisor::StartError> {
        let events = self.events.clone();
        let on_event = Arc::new(move |event: &Event| events.lock().push((Instant::now(), event.clone())));
        Tree::start_observed(root, on_event, trace_of).await
    }

    /// Like `start`, with a watchdog.
    pub(crate) async fn watched(&self, root: SupervisorSpec) -> (Tree, TreeHandle) {
        let guard = WATCHDOGS.read().await;
        self.shared.lock().replace(guard);
        self.start_watched(root).await
    }

    /// Like `watched`, while no other test has a watchdog.
    pub(crate) async fn watched_alone(
        &self,
        root: SupervisorSpec,
    ) -> (Tree, TreeHandle, RwLockWriteGuard<'static, ()>) {
        let guard = WATCHDOGS.write().await;
        let (tree, handle) = self.start_watched(root).await;
        (tree, handle, guard)
    }

    async fn start_watched(&self, root: SupervisorSpec) -> (Tree, TreeHandle) {
        let tree = self.start(root).await.watched();
        let handle = tree.handle();
        (tree, handle)
    }

    /// Why a node crashed so far.
    pub(crate) fn crashes(&self, path: &str) -> Vec<String> {
        let crash = |event| match event {
            EventKind::Crashed { reason } => Some(reason),
            _ => None,
        };
        self.events(path).into_iter().filter_map(crash).collect()
    }

    /// The events of a node so far.
    pub(crate) fn events(&self, path: &str) -> Vec<EventKind> {
        self.events.lock().iter().filter(|(_, e)| &*e.path == path).map(|(_, e)| e.kind.clone()).collect()
    }

    /// The events from that number on, each with its time.
    pub(crate) fn events_from(&self, first: usize) -> Vec<(Instant, Event)> {
        self.events.lock().get(first..).map(<[_]>::to_vec).unwrap_or_default()
    }
}

/// The trace that every span called `traced` belongs to.
pub(crate) const TRACE: u128 = 7;

fn trace_of(span: &tracing::Span) -> Option<u128> {
    span.metadata().filter(|span| span.name() == "traced").map(|_| TRACE)
}

impl Worker {
    pub(crate) fn spec(&self) -> ChildSpec {
        let worker = self.clone();
        ChildSpec::actor(self.id.as_str(), &self.address, move || (Probe(worker.clone()), ()))
    }

    /// How its next starts go; after them all go well.
    pub(crate) fn script(&self, starts: impl IntoIterator<Item = Start>) {
        self.script.lock().starts.extend(starts);
    }

    pub(crate) fn always(&self, start: Start) {
        self.script.lock().always = Some(start);
    }

    pub(crate) fn hang_in_stop(&self) {
        self.script.lock().hangs_in_stop = true;
    }

    pub(crate) fn panic_in_drop(&self) {
        self.script.lock().panics_in_drop = true;
    }

    pub(crate) fn starts(&self) -> u32 {
        self.starts.load(Ordering::SeqCst)
    }

    /// Starts that went well.
    pub(crate) fn incarnations(&self) -> u32 {
        self.incarnations.load(Ordering::SeqCst)
    }

    /// Whether an incarnation holds the port.
    pub(crate) fn is_alive(&self) -> bool {
        self.port.load(Ordering::SeqCst)
    }

    pub(crate) fn tell(&self, msg: Msg) {
        self.address.cast(msg).expect("the worker is up");
    }

    pub(crate) async fn ping(&self) -> u32 {
        self.address.call(600 * SECOND, Msg::Ping).await.expect("the worker answers")
    }
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Ping(_) => "ping",
            Self::Panic => "panic",
            Self::PanicWithLock => "panic-with-lock",
            Self::Fail => "fail",
            Self::End => "end",
            Self::Hang => "hang",
            Self::DieWith(_) => "die-with",
            Self::Keep(_) => "keep",
        }
    }
}

impl Actor for Probe {
    type Msg = Msg;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<State, ActorProcessingErr> {
        let worker = &self.0;
        let incarnation = worker.starts.fetch_add(1, Ordering::SeqCst) + 1;
        worker.world.note("start", &worker.id);
        let step = worker.step();
        match step {
            Start::Well | Start::PanicsAfter | Start::HangsAfter => {}
            Start::Fails => return Err("told to fail".into()),
            Start::Panics => panic!("told to panic"),
            Start::Hangs => std::future::pending().await,
        }
        if worker.port.swap(true, Ordering::SeqCst) {
            return Err("the port is in use".into());
        }
        worker.incarnations.fetch_add(1, Ordering::SeqCst);
        let (world, id) = (worker.world.clone(), worker.id.clone());
        let task = OwnedTask::spawn("probe", std::future::pending(), move |_| world.note("task-end", &id));
        Ok(State { incarnation, kept: Vec::new(), _task: task, _held: Held(worker.clone()) })
    }

    async fn post_start(&self, _: ActorRef<Msg>, _: &mut State) -> Result<(), ActorProcessingErr> {
        let step = self.0.script.lock().starts.pop_front();
        match step {
            Some(Start::PanicsAfter) => panic!("told to panic after the start"),
            Some(Start::HangsAfter) => std::future::pending().await,
            _ => {}
        }
        self.0.world.note("up", &self.0.id);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        msg: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Ping(reply) => drop(reply.send(state.incarnation)),
            Msg::Panic => panic!("boom"),
            Msg::PanicWithLock => {
                let mut locked = self.0.lock.lock();
                *locked += 1;
                panic!("with a lock");
            }
            Msg::Fail => return Err("out of order".into()),
            Msg::End => myself.stop(None),
            Msg::Hang => std::future::pending().await,
            Msg::DieWith(_reply) => panic!("with a reply port"),
            Msg::Keep(reply) => state.kept.push(reply),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, _: &mut State) -> Result<(), ActorProcessingErr> {
        self.0.world.note("stop", &self.0.id);
        if self.0.script.lock().hangs_in_stop {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

impl Worker {
    /// The next step of the script. `PanicsAfter` and `HangsAfter` stay for `post_start` to take.
    fn step(&self) -> Start {
        let mut script = self.script.lock();
        match script.starts.front() {
            Some(step @ (Start::PanicsAfter | Start::HangsAfter)) => *step,
            Some(_) => {
                let step = script.starts.pop_front().unwrap_or(Start::Well);
                if matches!(step, Start::Well) {
                    script.starts.push_front(Start::Well); // taken by post_start
                }
                step
            }
            None => script.always.unwrap_or(Start::Well),
        }
    }
}

/// A root with a steady back-off of a second and no limit.
pub(crate) fn root(strategy: Strategy) -> SupervisorSpec {
    sup("root", strategy)
}

pub(crate) fn sup(id: &str, strategy: Strategy) -> SupervisorSpec {
    SupervisorSpec::new(id, strategy).intensity(PATIENT).backoff(STEADY)
}

/// Lets everything that needs no time happen.
pub(crate) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Lets virtual time pass, timer by timer: the paused clock only moves when nothing is left to do.
pub(crate) async fn pass(time: Duration) {
    let never = tokio::time::timeout(time, std::future::pending::<()>()).await;
    assert!(never.is_err());
}

/// Lets virtual time pass until the condition holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..10_000 {
        settle().await;
        if condition() {
            return;
        }
        pass(50 * MS).await;
    }
    panic!("never: {what}");
}

pub(crate) fn state(tree: &TreeHandle, path: &str) -> NodeState {
    tree.find(path).expect("the node exists").state
}

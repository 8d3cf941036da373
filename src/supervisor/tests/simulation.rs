//! The tree of ARCHITECTURE.md with actors of straw, under random kills, hangs, failures, failed starts, messages, and
//! pods that come and go, on a virtual clock. After each step: only those lost their connections whom a fault may cost
//! them, every fault was told of, and every bound held.

mod shape;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use tokio::time::{Instant, sleep};

use self::shape::{Counter, Kind, Shape};
use super::support::*;
use crate::supervisor::{
    Backoff, ChildSpec, DynamicChildren, DynamicSpec, EventKind, MAX_REPORTS, NodeSnapshot, NodeState,
    Strategy, SupervisorSpec, Tree, TreeHandle,
};

/// How long a handler may take.
const LIMIT: Duration = Duration::from_secs(1);
/// Back-off and quarantine without chance.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(30), jitter: 0.0 };
const QUARANTINE: Backoff =
    Backoff { first: Duration::from_secs(30), cap: Duration::from_secs(600), jitter: 0.0 };
/// Longer than the longest pause before a restart, all levels of the tree together.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Two starts that hang.
const RELATIVES_START_WITHIN: Duration = Duration::from_secs(12);
/// Longer than all actors of the tree may take to stop, one after the other.
const STOPS_WITHIN: Duration = Duration::from_secs(300);
/// Simulated lives of a tree. `WARREN_SIMULATION_RUNS` has another number.
const RUNS: u64 = 1000;

/// One run.
struct Run {
    shape: Shape,
    world: World,
    tree: Tree,
    handle: TreeHandle,
    workers: BTreeMap<usize, Worker>,
    dynamic: BTreeMap<usize, DynamicChildren>,
    rng: SmallRng,
    /// The events looked at.
    seen: usize,
    /// Faults that were sent and not told of yet.
    faults: BTreeMap<usize, &'static str>,
    /// What may have cost others their lives since all was well.
    causes: BTreeSet<usize>,
    /// Who was starting as a relative failed: such a start is given up, and its failure counts for nothing.
    given_up: BTreeSet<usize>,
    failures: BTreeMap<Counter, Vec<Instant>>,
    /// Who has counted too many, and must not restart anybody.
    exhausted: BTreeSet<Counter>,
    gave_up: BTreeSet<usize>,
    quarantined: BTreeSet<usize>,
    restarts: BTreeMap<usize, u64>,
    /// How often each has failed, and since when it has been waiting for its restart.
    times: BTreeMap<usize, u32>,
    waiting: BTreeMap<usize, Instant>,
    drops: usize,
    task_ends: usize,
    /// All that happened, to be compared.
    story: Vec<String>,
}

// === impl Run ===

fn fixed(
    shape: &Shape,
    at: usize,
    parts: (&BTreeMap<usize, Worker>, &BTreeMap<usize, DynamicChildren>),
) -> SupervisorSpec {
    let strategy = if shape.0[at].kind == Kind::Rest { Strategy::RestForOne } else { Strategy::OneForOne };
    let spec =
        SupervisorSpec::new(shape.0[at].id, strategy).intensity(shape.0[at].intensity).backoff(BACKOFF);
    shape.children(at).fold(spec, |spec, child| spec.child(child_of(shape, child, parts)))
}

fn child_of(
    shape: &Shape,
    at: usize,
    parts: (&BTreeMap<usize, Worker>, &BTreeMap<usize, DynamicChildren>),
) -> ChildSpec {
    let place = &shape.0[at];
    match place.kind {
        Kind::Worker => parts.0[&at].spec().hung_after(LIMIT),
        Kind::One | Kind::Rest => fixed(shape, at, parts).into(),
        Kind::Dynamic => {
            let spec = DynamicSpec::new(place.id, &parts.1[&at]);
            spec.intensity(place.intensity).backoff(BACKOFF).quarantine(QUARANTINE).into()
        }
    }
}

fn all_up(node: &NodeSnapshot) -> bool {
    node.state == NodeState::Up && node.children.iter().all(all_up)
}

fn flat(node: &NodeSnapshot, into: &mut Vec<NodeSnapshot>) {
    into.push(node.clone());
    node.children.iter().for_each(|child| flat(child, into));
}

impl Run {
    async fn new(seed: u64) -> Self {
        let (shape, world) = (Shape::new(), World::default());
        let places = &shape.0;
        let of = |kind| (0..places.len()).filter(|&at| places[at].kind == kind).collect::<Vec<_>>();
        let (straw, handles) = (of(Kind::Worker), of(Kind::Dynamic));
        let workers = straw.into_iter().map(|at| (at, world.worker(shape.0[at].id))).collect();
        let dynamic = handles.into_iter().map(|at| (at, DynamicChildren::new(shape.0[at].id))).collect();
        let (tree, handle) = world.watched(fixed(&shape, 0, (&workers, &dynamic))).await;
        Self {
            shape,
            world,
            tree,
            handle,
            workers,
            dynamic,
            rng: SmallRng::seed_from_u64(seed),
            seen: 0,
            faults: BTreeMap::new(),
            causes: BTreeSet::new(),
            given_up: BTreeSet::new(),
            failures: BTreeMap::new(),
            exhausted: BTreeSet::new(),
            gave_up: BTreeSet::new(),
            quarantined: BTreeSet::new(),
            restarts: BTreeMap::new(),
            times: BTreeMap::new(),
            waiting: BTreeMap::new(),
            drops: 0,
            task_ends: 0,
            story: Vec::new(),
        }
    }

    fn nodes(&self) -> BTreeMap<usize, NodeSnapshot> {
        let mut all = Vec::new();
        self.tree.snapshot().iter().for_each(|root| flat(root, &mut all));
        all.into_iter().map(|node| (self.shape.at(&node.path), node)).collect()
    }

    /// As the hand-over and the traffic do: pods and peers that are not there are asked for.
    async fn ask_for_what_is_missing(&mut self) {
        for (&at, children) in &self.dynamic.clone() {
            for child in self.shape.children(at).collect::<Vec<_>>() {
                let nodes = self.nodes();
                let serves = nodes.get(&at).is_some_and(|node| node.state == NodeState::Up);
                if serves && !nodes.contains_key(&child) {
                    let spec = child_of(&self.shape, child, (&self.workers, &self.dynamic));
                    let all = 0..self.shape.0.len();
                    let gone: Vec<usize> = all.filter(|&at| self.shape.is_below(at, child)).collect();
                    for gone in gone {
                        self.restarts.remove(&gone);
                        self.quarantined.remove(&gone);
                        self.forgive(gone);
                    }
                    let began = Instant::now();
                    let started = children.start(spec).await;
                    assert!(began.elapsed() <= STOPS_WITHIN, "a start took {:?}", began.elapsed());
                    self.story.push(format!("asked for {}: {}", self.shape.0[child].path, started.is_ok()));
                    self.look();
                }
            }
        }
    }

    /// Looks at all that has happened since the last look.
    fn look(&mut self) {
        for (at, event) in self.world.events_from(self.seen) {
            self.seen += 1;
            self.story.push(format!("{}: {}", event.path, event.kind));
            let place = self.shape.at(&event.path);
            match event.kind {
                EventKind::Crashed { reason } => {
                    let told = self.faults.remove(&place);
                    let gave_up = self.gave_up.remove(&place);
                    assert!(told.is_some() || gave_up, "{} crashed for no reason: {reason}", event.path);
                    self.failed(place, at);
                }
                EventKind::StartFailed { reason } => {
                    assert!(!reason.contains("in use"), "two incarnations of {} at once", event.path);
                    match self.given_up.remove(&place) {
                        true => drop(self.causes.insert(place)),
                        false => self.failed(place, at),
                    }
                }
                EventKind::GaveUp { .. } => {
                    let due = self.exhausted.contains(&Counter::Family(place));
                    assert!(due, "{} gave up without need", event.path);
                    self.gave_up.insert(place);
                    self.causes.insert(place);
                    self.forgive(place);
                }
                EventKind::Quarantined { retry_in } => {
                    let exhausted = self.exhausted.remove(&Counter::Child(place));
                    let due = exhausted || self.quarantined.contains(&place);
                    assert!(due, "{} is in quarantine without need", event.path);
                    assert!(retry_in <= QUARANTINE.cap, "{}: {retry_in:?}", event.path);
                    self.quarantined.insert(place);
                }
                EventKind::Restarted { restarts } => {
                    self.given_up.remove(&place);
                    let counter = self.shape.counter(place);
                    assert!(!self.exhausted.contains(&counter), "{} is restarted past the limit", event.path);
                    let before = self.restarts.insert(place, restarts).unwrap_or(0);
                    assert_eq!(restarts, before + 1, "{} is counted once for each restart", event.path);
                }
                EventKind::Killed { .. } => {}
                EventKind::Finished => panic!("{} is to run for ever", event.path),
            }
        }
        self.check_lives();
        self.check_nodes();
    }

    /// A new incarnation counts anew.
    fn forgive(&mut self, place: usize) {
        for counter in [Counter::Family(place), Counter::Child(place)] {
            self.failures.remove(&counter);
            self.exhausted.remove(&counter);
        }
    }

    fn failed(&mut self, place: usize, at: Instant) {
        self.causes.insert(place);
        *self.times.entry(place).or_default() += 1;
        self.waiting.remove(&place);
        let all = 0..self.shape.0.len();
        let lost: Vec<usize> = all.filter(|&other| self.shape.costs(place, other)).collect();
        let nodes = self.nodes();
        let starts = |at: &usize| nodes.get(at).is_some_and(|node| node.state == NodeState::Starting);
        self.given_up.extend(lost.iter().copied().filter(|at| *at != place).filter(starts));
        for other in lost.into_iter().filter(|&other| other != place) {
            // What was sent to them has died with them.
            self.faults.remove(&other);
            self.forgive(other);
        }
        self.failures.remove(&Counter::Family(place));
        self.exhausted.remove(&Counter::Family(place));
        let counter = self.shape.counter(place);
        let limit = self.shape.limit(counter);
        let failures = self.failures.entry(counter).or_default();
        failures.push(at);
        failures.retain(|before| at.duration_since(*before) < limit.within);
        if failures.len() > limit.restarts as usize {
            // It gives up, and stops its children before it says so.
            self.exhausted.insert(counter);
            let (Counter::Family(who) | Counter::Child(who)) = counter;
            self.causes.insert(who);
        }
    }

    /// Nobody has lost what it owned but those whom a failure may cost it.
    fn check_lives(&mut self) {
        for note in self.world.journal() {
            let Some((what, id)) = note.split_once(' ') else { continue };
            self.drops += usize::from(what == "drop");
            self.task_ends += usize::from(what == "task-end");
            if what != "task-end" {
                continue;
            }
            let place = self.shape.0.iter().position(|place| place.id == id).expect("known");
            let explained = self.causes.iter().any(|&cause| self.shape.costs(cause, place));
            let causes: Vec<_> = self.causes.iter().map(|&cause| &self.shape.0[cause].path).collect();
            assert!(explained, "{id} lost its connections for nothing: {causes:?}");
        }
    }

    /// What is shown is what is.
    fn check_nodes(&mut self) {
        let nodes = self.nodes();
        for (&at, node) in &nodes {
            let counted = self.restarts.get(&at).copied().unwrap_or(0);
            assert_eq!(node.restarts, counted, "restarts of {}", node.path);
            if let Some(worker) = self.workers.get(&at) {
                let may_live =
                    matches!(node.state, NodeState::Up | NodeState::Stopping | NodeState::Starting);
                assert!(may_live || !worker.is_alive(), "{} lives and is {:?}", node.path, node.state);
                assert!(
                    node.state != NodeState::Up || worker.is_alive(),
                    "{} is up without a life",
                    node.path
                );
            }
        }
        self.check_pauses(&nodes);
        // What was sent to an incarnation that was stopped has died with it.
        let runs = |at: &usize| {
            nodes.get(at).is_some_and(|node| matches!(node.state, NodeState::Up | NodeState::Stopping))
        };
        self.faults.retain(|at, _| runs(at));
        let (reports, _) = self.handle.crashes();
        assert!(reports.len() <= 2 * MAX_REPORTS, "{} crash reports", reports.len());
        if self.tree.snapshot().iter().all(all_up) && self.faults.is_empty() {
            self.causes.clear();
        }
    }

    /// Nobody waits for a restart longer than after the most failures of one. Relatives may have to start before.
    fn check_pauses(&mut self, nodes: &BTreeMap<usize, NodeSnapshot>) {
        let most = self.times.values().copied().max().unwrap_or_default();
        let most =
            BACKOFF.first.saturating_mul(2u32.saturating_pow(most)).min(BACKOFF.cap) + RELATIVES_START_WITHIN;
        for (&at, node) in nodes {
            if node.state != NodeState::BackingOff {
                self.waiting.remove(&at);
                continue;
            }
            let waits = self.waiting.entry(at).or_insert_with(Instant::now).elapsed();
            assert!(waits <= most, "{} has been waiting for {waits:?}, not {most:?}", node.path);
        }
    }

    /// One fault or message, and what must follow from it at once.
    async fn step(&mut self, panics: bool) {
        let nodes = self.nodes();
        let up: Vec<usize> = (1..self.shape.0.len())
            .filter(|at| nodes.get(at).is_some_and(|node| node.state == NodeState::Up))
            .filter(|at| !self.faults.contains_key(at))
            .collect();
        let Some(&at) = up.choose(&mut self.rng) else { return };
        let path = self.shape.0[at].path.clone();
        let what = self.rng.random_range(0..12);
        self.story.push(format!("step {what} at {path}"));
        let Some(worker) = self.workers.get(&at).cloned() else {
            match (self.shape.0[self.shape.0[at].parent].kind, what) {
                (Kind::Dynamic, 0..4) => self.remove(at).await,
                _ => self.kill(at).await,
            }
            return;
        };
        let (msg, fault) = match what {
            0..3 => return self.kill(at).await,
            3 => (Msg::Fail, "fail"),
            4 => (Msg::End, "end"),
            5 => (Msg::Hang, "hang"),
            6 if panics => (Msg::Panic, "panic"),
            7 => return worker.script([Start::Fails, Start::Fails]),
            8 => return worker.script([Start::Hangs]),
            _ => return self.ask(at, &worker).await,
        };
        if worker.address.cast(msg).is_ok() {
            self.is_told(at, fault).await;
        }
    }

    async fn kill(&mut self, at: usize) {
        self.handle.kill(&self.shape.0[at].path).expect("exists");
        self.is_told(at, "kill").await;
    }

    /// A fault is told of at once, other than a hang, and unless a supervisor stops the actor anyway.
    async fn is_told(&mut self, at: usize, fault: &'static str) {
        let is_calm = self.causes.is_empty();
        self.faults.insert(at, fault);
        self.causes.insert(at);
        sleep(MS).await;
        let path = &self.shape.0[at].path;
        let crashed = |kind: &EventKind| matches!(kind, EventKind::Crashed { .. });
        let events = self.world.events_from(self.seen);
        let told = events.iter().any(|(_, event)| *event.path == **path && crashed(&event.kind));
        assert!(told || !is_calm || fault == "hang", "the {fault} of {path} is not told of");
        self.look();
    }

    /// A dynamic child is removed, and everything below it.
    async fn remove(&mut self, at: usize) {
        self.causes.insert(at);
        let began = Instant::now();
        let children = self.dynamic[&self.shape.0[at].parent].clone();
        children.stop(self.shape.0[at].id).await.expect("stops in time");
        assert!(began.elapsed() <= STOPS_WITHIN, "a stop took {:?}", began.elapsed());
        // One that hung may have been told of while it was stopped.
        self.look();
        self.faults.retain(|&place, _| !self.shape.is_below(place, at));
    }

    /// A question is answered by the incarnation that runs, or fails in its time.
    async fn ask(&mut self, at: usize, worker: &Worker) {
        let began = Instant::now();
        let answer = worker.address.call(2 * SECOND, Msg::Ping).await;
        assert!(began.elapsed() <= 2 * SECOND, "a question took {:?}", began.elapsed());
        match answer {
            Ok(incarnation) => assert_eq!(incarnation, worker.starts(), "{}", self.shape.0[at].path),
            Err(_) => assert!(!self.causes.is_empty(), "{} answers nobody", self.shape.0[at].path),
        }
        self.look();
    }

    async fn live(&mut self, seed: u64) {
        // Some trees hardly get up between two faults, some have their peace.
        let pace = [200 * MS, 3 * SECOND, 40 * SECOND][self.rng.random_range(0..3)];
        for _ in 0..12 {
            self.ask_for_what_is_missing().await;
            self.step(seed.is_multiple_of(100)).await;
            let pause = self.rng.random_range(Duration::ZERO..pace);
            sleep(pause).await;
            self.look();
            let nodes = self.nodes();
            let is_up = |at: &usize| nodes.get(at).is_some_and(|node| node.state == NodeState::Up);
            let untold: Vec<usize> = self.faults.keys().copied().filter(is_up).collect();
            assert!(pause < 2 * LIMIT || untold.is_empty(), "hangs are not told of: {untold:?}");
        }
    }

    /// Everything is up again in time, or the root has given up for a reason; then all ends in time and leaves nothing.
    async fn end(mut self) -> Vec<String> {
        let began = Instant::now();
        while !self.tree.snapshot().iter().all(all_up) || self.is_incomplete() {
            if self.gave_up.contains(&0) {
                break;
            }
            let states: Vec<_> =
                self.nodes().into_values().filter(|node| node.state != NodeState::Up).collect();
            assert!(began.elapsed() < PATIENCE, "not up: {states:?}");
            self.ask_for_what_is_missing().await;
            sleep(5 * SECOND).await;
            self.look();
        }
        let hangs = self.workers.values().collect::<Vec<_>>().choose(&mut self.rng).copied().cloned();
        hangs.filter(|_| self.rng.random_bool(0.3)).iter().for_each(Worker::hang_in_stop);
        self.causes.insert(0);
        let began = Instant::now();
        self.tree.stop().await;
        assert!(began.elapsed() <= STOPS_WITHIN, "the stop took {:?}", began.elapsed());
        sleep(SECOND).await;
        for note in self.world.journal() {
            self.drops += usize::from(note.starts_with("drop "));
            self.task_ends += usize::from(note.starts_with("task-end "));
        }
        let lives: u32 = self.workers.values().map(Worker::incarnations).sum();
        assert!(self.workers.values().all(|worker| !worker.is_alive()), "somebody lives on");
        assert_eq!((self.drops, self.task_ends), (lives as usize, lives as usize), "each life has one end");
        self.story
    }

    fn is_incomplete(&self) -> bool {
        self.nodes().len() < self.shape.0.len()
    }
}

async fn run(seed: u64) -> Vec<String> {
    let mut run = Run::new(seed).await;
    run.live(seed).await;
    run.end().await
}

#[tokio::test(start_paused = true)]
async fn random_faults_cost_only_whom_they_may_and_all_are_told() {
    let runs =
        std::env::var("WARREN_SIMULATION_RUNS").ok().map_or(RUNS, |runs| runs.parse().expect("a number"));
    let first: u64 = match std::env::var("WARREN_SIMULATION_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => u64::from(rand::random::<u32>()) * 1000,
    };
    for seed in first..first + runs {
        let life = std::panic::AssertUnwindSafe(run(seed));
        if let Err(message) = crate::supervisor::watch_panics(life).await {
            panic!("{message}\nWARREN_SIMULATION_SEED={seed} WARREN_SIMULATION_RUNS=1 repeats this");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_seed_tells_the_same_story_again() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed).await, run(seed).await, "seed {seed}");
    }
}

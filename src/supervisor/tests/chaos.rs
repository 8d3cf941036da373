//! Random kills against a model of who is restarted.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::support::*;
use crate::supervisor::{EventKind, NodeSnapshot, NodeState, Strategy, SupervisorSpec, Tree, watch_panics};

/// The model: a tree of names.
enum Model {
    Worker(&'static str),
    Supervisor(&'static str, Strategy, Vec<Model>),
}

impl Model {
    fn id(&self) -> &'static str {
        match self {
            Self::Worker(id) | Self::Supervisor(id, ..) => id,
        }
    }

    fn workers(&self) -> Vec<&'static str> {
        match self {
            Self::Worker(id) => vec![id],
            Self::Supervisor(_, _, children) => children.iter().flat_map(Self::workers).collect(),
        }
    }

    fn paths(&self) -> Vec<String> {
        let below = match self {
            Self::Worker(_) => vec![],
            Self::Supervisor(_, _, children) => children.iter().flat_map(Self::paths).collect(),
        };
        let below = below.into_iter().map(|path| format!("{}/{path}", self.id()));
        std::iter::once(self.id().to_owned()).chain(below).collect()
    }

    /// The workers that start anew when the node at `path`, below this one, is killed.
    fn restarted(&self, path: &[&str]) -> Vec<&'static str> {
        let Self::Supervisor(_, strategy, children) = self else { return vec![] };
        let at = children.iter().position(|child| child.id() == path[0]).expect("the path exists");
        if path.len() > 1 {
            return children[at].restarted(&path[1..]);
        }
        let hit = match strategy {
            Strategy::OneForOne => &children[at..=at],
            Strategy::RestForOne => &children[at..],
            Strategy::OneForAll => &children[..],
        };
        hit.iter().flat_map(Self::workers).collect()
    }

    fn spec(&self, workers: &BTreeMap<&'static str, Worker>) -> SupervisorSpec {
        let Self::Supervisor(id, strategy, children) = self else { panic!("a worker is no supervisor") };
        children.iter().fold(sup(id, *strategy), |spec, child| match child {
            Self::Worker(id) => spec.child(workers[id].spec()),
            Self::Supervisor(..) => spec.supervisor(child.spec(workers)),
        })
    }
}

fn model() -> Model {
    use Model::{Supervisor, Worker};
    use Strategy::{OneForAll, OneForOne, RestForOne};
    let deep = Supervisor("deep", RestForOne, vec![Worker("d0"), Worker("d1")]);
    let mixed = Supervisor("mixed", OneForAll, vec![Worker("m0"), deep, Worker("m1")]);
    let rest = Supervisor("rest", RestForOne, vec![Worker("r0"), Worker("r1"), mixed, Worker("r2")]);
    let all = Supervisor("all", OneForAll, vec![Worker("o0"), Worker("o1")]);
    Supervisor("root", OneForOne, vec![Worker("a"), rest, all])
}

async fn grow(world: &World, model: &Model) -> (Tree, BTreeMap<&'static str, Worker>) {
    let workers: BTreeMap<_, _> = model.workers().into_iter().map(|id| (id, world.worker(id))).collect();
    let tree = world.start(model.spec(&workers)).await;
    (tree, workers)
}

fn all_up(node: &NodeSnapshot) -> bool {
    node.state == NodeState::Up && node.children.iter().all(all_up)
}

/// Runs the test with fixed seeds and a fresh one, and says which one failed.
async fn with_seeds(test: impl AsyncFn(SmallRng)) {
    for seed in (0..12).chain([rand::random()]) {
        if let Err(message) = watch_panics(AssertUnwindSafe(test(SmallRng::seed_from_u64(seed)))).await {
            panic!("seed {seed}: {message}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_kill_restarts_exactly_whom_the_model_says_in_order() {
    with_seeds(async |mut rng| {
        let (world, model) = (World::default(), model());
        let (tree, workers) = grow(&world, &model).await;
        let paths = model.paths();
        let mut expected: BTreeMap<_, u32> = workers.keys().map(|id| (*id, 1)).collect();
        for _ in 0..25 {
            settle().await;
            world.journal();
            let path = &paths[rng.random_range(1..paths.len())];
            tree.handle().kill(path).expect("exists");
            settle().await;
            until("all is up again", || tree.snapshot().iter().all(all_up)).await;
            let parts: Vec<_> = path.split('/').skip(1).collect();
            let restarted = model.restarted(&parts);
            for id in &restarted {
                *expected.get_mut(id).expect("known") += 1;
            }
            assert_eq!(world.noted("start"), restarted, "after the kill of {path}");
        }
        let starts: BTreeMap<_, _> = workers.iter().map(|(id, worker)| (*id, worker.starts())).collect();
        assert_eq!(starts, expected);
        tree.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_kills_and_failed_starts_is_survived_without_two_incarnations_at_once() {
    with_seeds(async |mut rng| {
        let (world, model) = (World::default(), model());
        let (tree, workers) = grow(&world, &model).await;
        let (paths, ids) = (model.paths(), model.workers());
        for _ in 0..60 {
            let worker = &workers[ids[rng.random_range(0..ids.len())]];
            match rng.random_range(0..6) {
                0 => worker.script([Start::Fails]),
                1 => worker.script([Start::Hangs]),
                2 => drop(worker.address.cast(Msg::Panic)),
                3 => drop(worker.address.cast(Msg::Hang)),
                _ => tree.handle().kill(&paths[rng.random_range(1..paths.len())]).expect("exists"),
            }
            pass(Duration::from_millis(rng.random_range(0..700))).await;
        }
        until("the storm is over", || {
            tree.snapshot().iter().all(all_up) && workers.values().all(|w| w.address.cast(Msg::Fail).is_ok())
        })
        .await;
        settle().await;
        until("all is up again", || tree.snapshot().iter().all(all_up)).await;
        for path in &paths {
            for event in world.events(path) {
                let collided =
                    matches!(&event, EventKind::StartFailed { reason } if reason.contains("in use"));
                assert!(!collided, "two incarnations of {path} at once");
            }
        }
        tree.stop().await;
        settle().await;
        let held: u32 = workers.values().map(Worker::incarnations).sum();
        assert_eq!(world.noted("drop").len(), held as usize, "every State was dropped");
    })
    .await;
}

//! Faults put into running actors, and the watchdog that finds hung ones.

use std::time::Duration;

use super::support::*;
use crate::supervisor::{
    EventKind, Fault, NoSuchNode, NodeState, NotReached, Strategy, SupervisorSpec, TreeHandle,
};

const LIMIT: Duration = Duration::from_millis(750);

fn crashes(world: &World, path: &str) -> Vec<String> {
    let crash = |event| match event {
        EventKind::Crashed { reason } => Some(reason),
        _ => None,
    };
    world.events(path).into_iter().filter_map(crash).collect()
}

async fn watched(world: &World, spec: SupervisorSpec) -> (crate::supervisor::Tree, TreeHandle) {
    let tree = world.start(spec).await.watched();
    let handle = tree.handle();
    (tree, handle)
}

#[tokio::test(start_paused = true)]
async fn an_idle_actor_panics_when_told_to_and_is_restarted_alone() {
    let world = World::default();
    let [a, b] = ["a", "b"].map(|id| world.worker(id));
    let tree = world.start(root(Strategy::OneForOne).child(a.spec()).child(b.spec())).await;
    tree.handle().inject("root/a", Fault::Panic).expect("is up");
    settle().await;
    assert_eq!(crashes(&world, "root/a"), ["root/a was told to panic"]);
    assert_eq!((a.ping().await, b.ping().await), (2, 1));
    tree.handle().probe("root/a", SECOND).await.expect("the fault was the incarnation's before");
    assert_eq!(a.starts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hang_holds_back_messages_and_probes_until_it_is_over() {
    let world = World::default();
    let a = world.worker("a");
    let tree = world.start(root(Strategy::OneForOne).child(a.spec())).await;
    let handle = tree.handle();
    handle.inject("root/a", Fault::Hang(10 * SECOND)).expect("is up");
    settle().await;
    let silent = NotReached::Silent { path: "root/a".into(), after: SECOND };
    assert_eq!(handle.probe("root/a", SECOND).await, Err(silent.clone()));
    assert_eq!(silent.to_string(), "root/a has not answered within 1s");
    let began = tokio::time::Instant::now();
    assert_eq!(a.ping().await, 1);
    assert_eq!(began.elapsed().as_secs(), 9);
    assert_eq!(handle.probe("root/a", SECOND).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_hung_actor_can_be_killed_and_its_fault_dies_with_it() {
    let world = World::default();
    let a = world.worker("a");
    let tree = world.start(root(Strategy::OneForOne).child(a.spec())).await;
    let handle = tree.handle();
    handle.inject("root/a", Fault::Hang(600 * SECOND)).expect("is up");
    settle().await;
    handle.inject("root/a", Fault::Panic).expect("is up");
    handle.kill("root/a").expect("exists");
    settle().await;
    assert_eq!(a.ping().await, 2);
    assert_eq!(handle.probe("root/a", SECOND).await, Ok(()));
    assert_eq!(crashes(&world, "root/a"), ["killed"]);
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_panics_and_hangs_like_a_worker() {
    let world = World::default();
    let [a, b] = ["a", "b"].map(|id| world.worker(id));
    let inner = sup("inner", Strategy::OneForOne).child(a.spec());
    let tree = world.start(root(Strategy::OneForOne).supervisor(inner).child(b.spec())).await;
    let handle = tree.handle();
    handle.inject("root/inner", Fault::Panic).expect("is up");
    settle().await;
    assert_eq!((a.ping().await, b.ping().await), (2, 1));
    assert_eq!(crashes(&world, "root/inner"), ["root/inner was told to panic"]);
    handle.inject("root/inner", Fault::Hang(20 * SECOND)).expect("is up");
    settle().await;
    a.tell(Msg::Panic);
    pass(19 * SECOND).await;
    assert_eq!(a.starts(), 2, "its supervisor hangs");
    assert_eq!(a.ping().await, 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_or_not_up_is_not_reached() {
    let world = World::default();
    let a = world.worker("a");
    let tree = world.start(root(Strategy::OneForOne).child(a.spec())).await;
    let handle = tree.handle();
    let nobody = NotReached::NoSuchNode(NoSuchNode { path: "root/b".into() });
    assert_eq!(handle.inject("root/b", Fault::Panic), Err(nobody.clone()));
    assert_eq!(handle.probe("root/b", SECOND).await, Err(nobody));
    a.tell(Msg::Panic);
    settle().await;
    let down = NotReached::NotUp { path: "root/a".into(), state: NodeState::BackingOff };
    assert_eq!(down.to_string(), "root/a is backing-off");
    assert_eq!(handle.inject("root/a", Fault::Panic), Err(down.clone()));
    assert_eq!(handle.probe("root/a", SECOND).await, Err(down));
    assert_eq!(a.ping().await, 2);
    settle().await;
    assert_eq!(a.starts(), 2, "a fault that reached nobody is not kept");
}

#[tokio::test(start_paused = true)]
async fn the_watchdog_kills_what_hangs_longer_than_it_may_and_nothing_else() {
    let world = World::default();
    let [strict, patient, unwatched] = ["strict", "patient", "unwatched"].map(|id| world.worker(id));
    let spec = root(Strategy::OneForOne)
        .child(strict.spec().hung_after(LIMIT))
        .child(patient.spec().hung_after(60 * SECOND))
        .child(unwatched.spec());
    let (_tree, handle) = watched(&world, spec).await;
    pass(60 * SECOND).await;
    for id in ["strict", "patient", "unwatched"] {
        handle.inject(&format!("root/{id}"), Fault::Hang(10 * SECOND)).expect("is up");
    }
    pass(2 * SECOND).await;
    assert_eq!(crashes(&world, "root/strict"), ["hung: no answer for 750ms"]);
    pass(60 * SECOND).await;
    assert_eq!((strict.ping().await, patient.ping().await, unwatched.ping().await), (2, 1, 1));
    assert_eq!(strict.starts(), 2, "the successor is well");
}

#[tokio::test(start_paused = true)]
async fn the_watchdog_finds_a_handler_that_never_returns_however_deep() {
    let world = World::default();
    let a = world.worker("a");
    let inner = sup("inner", Strategy::OneForOne).child(a.spec().hung_after(LIMIT));
    let (_tree, _) = watched(&world, root(Strategy::OneForOne).supervisor(inner)).await;
    for incarnation in 2..5 {
        a.tell(Msg::Hang);
        until("it is restarted", || a.starts() == incarnation).await;
        assert_eq!(a.ping().await, incarnation);
    }
    assert_eq!(crashes(&world, "root/inner/a").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_knock_at_a_dying_actor_costs_the_watchdog_nothing() {
    let world = World::default();
    let [a, b] = ["a", "b"].map(|id| world.worker(id));
    let spec = root(Strategy::OneForOne).child(a.spec().hung_after(LIMIT)).child(b.spec().hung_after(LIMIT));
    let (_tree, handle) = watched(&world, spec).await;
    for _ in 0..20 {
        handle.kill("root/a").expect("exists");
        pass(130 * MS).await;
    }
    pass(10 * SECOND).await;
    assert_eq!(b.starts(), 1, "nobody was killed for another's silence");
    b.tell(Msg::Hang);
    until("it still watches", || b.starts() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_takes_its_time_is_no_hang() {
    let world = World::default();
    let a = world.worker("a");
    a.hang_in_stop();
    let (tree, _) = watched(&world, root(Strategy::OneForOne).child(a.spec().hung_after(LIMIT))).await;
    tree.stop().await;
    assert_eq!(world.events("root/a"), [EventKind::Killed { after: 5 * SECOND }]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_actor_handles_everything_in_order_and_late_for_as_long_as_told() {
    let world = World::default();
    let a = world.worker("a");
    let (_tree, handle) = watched(&world, root(Strategy::OneForOne).child(a.spec().hung_after(LIMIT))).await;
    handle.inject("root/a", Fault::Slow { each: 400 * MS, lasting: SECOND }).expect("is up");
    settle().await;
    let began = tokio::time::Instant::now();
    let late = |ms| (1, Duration::from_millis(ms));
    for at in [400, 800, 1200, 1200] {
        assert_eq!((a.ping().await, began.elapsed()), late(at));
    }
    assert_eq!(crashes(&world, "root/a"), [""; 0], "late is not hung");
}

#[tokio::test(start_paused = true)]
async fn a_slow_supervisor_notices_at_once_and_repairs_late() {
    let world = World::default();
    let a = world.worker("a");
    let inner = sup("inner", Strategy::OneForOne).child(a.spec());
    let tree = world.start(root(Strategy::OneForOne).supervisor(inner)).await;
    let slow = Fault::Slow { each: 5 * SECOND, lasting: 60 * SECOND };
    tree.handle().inject("root/inner", slow).expect("is up");
    settle().await;
    a.tell(Msg::Panic);
    settle().await;
    assert_eq!(crashes(&world, "root/inner/a").len(), 1, "an exit is no message");
    pass(5 * SECOND).await;
    assert_eq!(a.starts(), 1, "the end of the pause is one");
    assert_eq!(a.ping().await, 2);
    pass(60 * SECOND).await;
    a.tell(Msg::Panic);
    settle().await;
    assert_eq!(a.ping().await, 3);
    assert_eq!(crashes(&world, "root/inner"), [""; 0]);
}

//! Faults sent to running actors.

use std::time::Duration;

use super::support::*;
use crate::supervisor::{Fault, NoSuchNode, NodeState, NotReached, Strategy};

const LIMIT: Duration = Duration::from_millis(750);

#[tokio::test(start_paused = true)]
async fn an_idle_actor_panics_when_told_to_and_is_restarted_alone() {
    let world = World::default();
    let [a, b] = ["a", "b"].map(|id| world.worker(id));
    let tree = world.start(root(Strategy::OneForOne).child(a.spec()).child(b.spec())).await;
    tree.handle().inject("root/a", Fault::Panic).expect("is up");
    settle().await;
    assert_eq!(world.crashes("root/a"), ["root/a was told to panic"]);
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
    assert_eq!(world.crashes("root/a"), ["killed"]);
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
    assert_eq!(world.crashes("root/inner"), ["root/inner was told to panic"]);
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
async fn a_slow_actor_handles_everything_in_order_and_late_for_as_long_as_told() {
    let world = World::default();
    let a = world.worker("a");
    let (_tree, handle) = world.watched(root(Strategy::OneForOne).child(a.spec().hung_after(LIMIT))).await;
    handle.inject("root/a", Fault::Slow { each: 400 * MS, lasting: SECOND }).expect("is up");
    settle().await;
    let began = tokio::time::Instant::now();
    let late = |ms| (1, Duration::from_millis(ms));
    for at in [400, 800, 1200, 1200] {
        assert_eq!((a.ping().await, began.elapsed()), late(at));
    }
    assert_eq!(world.crashes("root/a"), [""; 0], "late is not hung");
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
    assert_eq!(world.crashes("root/inner/a").len(), 1, "an exit is no message");
    pass(5 * SECOND).await;
    assert_eq!(a.starts(), 1, "the end of the pause is one");
    assert_eq!(a.ping().await, 2);
    pass(60 * SECOND).await;
    a.tell(Msg::Panic);
    settle().await;
    assert_eq!(a.ping().await, 3);
    assert_eq!(world.crashes("root/inner"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_fault_acts_in_the_incarnation_it_was_sent_to_and_in_no_other() {
    let world = World::default();
    let [a, b] = ["a", "b"].map(|id| world.worker(id));
    let tree = world.start(root(Strategy::OneForOne).child(a.spec()).child(b.spec())).await;
    let handle = tree.handle();
    // The fault waits behind a message that hangs, and dies with it.
    a.tell(Msg::Hang);
    handle.inject("root/a", Fault::Slow { each: 9 * SECOND, lasting: 60 * SECOND }).expect("is up");
    handle.inject("root/a", Fault::Panic).expect("is up");
    settle().await;
    handle.kill("root/a").expect("exists");
    settle().await;
    assert_eq!(a.ping().await, 2);
    let began = tokio::time::Instant::now();
    assert_eq!((a.ping().await, began.elapsed()), (2, Duration::ZERO));
    assert_eq!(world.crashes("root/a"), ["killed"]);
    // What is sent now is the second's, and its lateness is not the third's.
    handle.inject("root/a", Fault::Slow { each: SECOND, lasting: 60 * SECOND }).expect("is up");
    handle.inject("root/a", Fault::Panic).expect("is up");
    settle().await;
    assert_eq!(world.crashes("root/a"), ["killed", "root/a was told to panic"]);
    assert_eq!(a.ping().await, 3);
    let began = tokio::time::Instant::now();
    assert_eq!((a.ping().await, began.elapsed()), (3, Duration::ZERO));
    assert_eq!((b.ping().await, world.crashes("root/b")), (1, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_fault_waits_for_the_messages_before_it() {
    let world = World::default();
    let a = world.worker("a");
    let tree = world.start(root(Strategy::OneForOne).child(a.spec())).await;
    let (port, answer) = tokio::sync::oneshot::channel();
    a.tell(Msg::Ping(port.into()));
    tree.handle().inject("root/a", Fault::Panic).expect("is up");
    assert_eq!(tree.handle().find("root/a").expect("exists").load.depth, 1);
    settle().await;
    assert_eq!(answer.await, Ok(1));
    assert_eq!(world.crashes("root/a"), ["root/a was told to panic"]);
}

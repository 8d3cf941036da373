//! Children that come and go.

use std::time::Duration;

use super::support::*;
use crate::supervisor::{
    Backoff, ChildSpec, DynamicChildren, DynamicSpec, EventKind, Intensity, NodeState, OwnedTask, Restart,
    StartError, Strategy, Tree,
};

async fn pods(world: &World) -> (Tree, DynamicChildren) {
    let children = DynamicChildren::new("pods");
    let spec = DynamicSpec::new("pods", &children)
        .intensity(Intensity { restarts: 2, within: 100 * SECOND })
        .backoff(STEADY)
        .quarantine(Backoff { first: 60 * SECOND, cap: 200 * SECOND, jitter: 0.0 });
    (world.start(root(Strategy::OneForOne).dynamic(spec)).await, children)
}

async fn ids(children: &DynamicChildren) -> Vec<String> {
    children.ids().await.iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn a_child_is_up_when_start_returns_and_gone_when_stop_returns() {
    let world = World::default();
    let (tree, children) = pods(&world).await;
    let [a, b] = ["pod/a", "pod/b"].map(|id| world.worker(id));
    let inner = sup("pod/c", Strategy::OneForOne).child(b.spec());
    children.start(a.spec()).await.expect("starts");
    children.start(inner).await.expect("starts");
    assert_eq!((a.ping().await, b.ping().await), (1, 1));
    assert_eq!(ids(&children).await, ["pod/a", "pod/c"]);
    assert_eq!(tree.handle().find("root/pods/pod/c/pod/b").expect("exists").state, NodeState::Up);
    children.stop("pod/c").await.expect("stops");
    assert!(world.journal().contains(&"drop pod/b".to_owned()));
    assert_eq!(ids(&children).await, ["pod/a"]);
    children.stop("pod/c").await.expect("an unknown child is fine");
    children.start(b.spec()).await.expect("starts");
    assert_eq!(b.starts(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_id_is_taken_until_its_child_has_stopped() {
    let world = World::default();
    let (_tree, children) = pods(&world).await;
    let a = world.worker("a");
    a.hang_in_stop();
    children.start(a.spec()).await.expect("starts");
    let duplicate = Err(StartError::Duplicate { id: "a".into() });
    assert_eq!(children.start(world.worker("a").spec()).await, duplicate);
    let stopper = children.clone();
    let _stop = OwnedTask::spawn("stop", async move { drop(stopper.stop("a").await) }, |_| {});
    settle().await;
    assert_eq!(children.start(world.worker("a").spec()).await, duplicate);
    pass(6 * SECOND).await;
    children.start(world.worker("a").spec()).await.expect("starts");
}

#[tokio::test(start_paused = true)]
async fn a_first_start_that_fails_is_returned_and_forgotten() {
    let world = World::default();
    let (_tree, children) = pods(&world).await;
    let a = world.worker("a");
    a.script([Start::Fails]);
    let error = children.start(a.spec()).await.expect_err("must fail");
    assert_eq!(error.to_string(), "a did not start: told to fail");
    assert!(ids(&children).await.is_empty());
    pass(100 * SECOND).await;
    assert_eq!(a.starts(), 1);
    children.start(a.spec()).await.expect("starts");
}

#[tokio::test(start_paused = true)]
async fn a_hung_start_or_stop_holds_up_no_other_child() {
    let world = World::default();
    let (_tree, children) = pods(&world).await;
    let [a, b, c] = ["a", "b", "c"].map(|id| world.worker(id));
    a.always(Start::Hangs);
    b.hang_in_stop();
    children.start(b.spec()).await.expect("starts");
    let (starting, stopping) = (children.clone(), children.clone());
    let _start = OwnedTask::spawn("start", async move { drop(starting.start(a.spec()).await) }, |_| {});
    let _stop = OwnedTask::spawn("stop", async move { drop(stopping.stop("b").await) }, |_| {});
    settle().await;
    let began = tokio::time::Instant::now();
    children.start(c.spec()).await.expect("starts");
    children.stop("c").await.expect("stops");
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(ids(&children).await, ["b", "a"]);
}

#[tokio::test(start_paused = true)]
async fn a_child_past_its_limit_is_quarantined_retried_and_forgiven_when_it_lasts() {
    let world = World::default();
    let (tree, children) = pods(&world).await;
    let [bad, good] = ["bad", "good"].map(|id| world.worker(id));
    children.start(bad.spec()).await.expect("starts");
    children.start(good.spec()).await.expect("starts");
    bad.always(Start::Fails);
    bad.tell(Msg::Panic);
    pass(3 * SECOND).await;
    let handle = tree.handle();
    assert_eq!(state(&handle, "root/pods/bad"), NodeState::Quarantined);
    assert_eq!((ids(&children).await, bad.starts()), (vec!["bad".into(), "good".into()], 3));
    pass(60 * SECOND + 120 * SECOND + 200 * SECOND + 200 * SECOND).await;
    assert_eq!(bad.starts(), 7, "retried after 60, 120, 200 and 200 s");

    bad.always(Start::Well);
    pass(200 * SECOND).await;
    assert_eq!(state(&handle, "root/pods/bad"), NodeState::Up);
    bad.tell(Msg::Panic);
    pass(2 * SECOND).await;
    assert_eq!(state(&handle, "root/pods/bad"), NodeState::Quarantined, "it did not last");
    pass(200 * SECOND).await;
    pass(100 * SECOND).await;
    bad.tell(Msg::Panic);
    settle().await;
    assert_eq!(state(&handle, "root/pods/bad"), NodeState::BackingOff, "it lasted, and starts anew");
    assert_eq!((good.starts(), good.ping().await), (1, 1));
    assert!(world.events("root/pods").is_empty(), "nothing of it went up the tree");
    let quarantined =
        world.events("root/pods/bad").iter().filter(|e| matches!(e, EventKind::Quarantined { .. })).count();
    assert_eq!(quarantined, 6);
}

#[tokio::test(start_paused = true)]
async fn a_quarantined_child_can_be_stopped_at_once() {
    let world = World::default();
    let (tree, children) = pods(&world).await;
    let bad = world.worker("bad");
    children.start(bad.spec()).await.expect("starts");
    bad.always(Start::Fails);
    bad.tell(Msg::Panic);
    until("quarantine", || state(&tree.handle(), "root/pods/bad") == NodeState::Quarantined).await;
    let began = tokio::time::Instant::now();
    children.stop("bad").await.expect("stops");
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(tree.handle().find("root/pods/bad").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_temporary_child_that_ends_is_forgotten() {
    let world = World::default();
    let (_tree, children) = pods(&world).await;
    let a = world.worker("a");
    children.start(a.spec().restart(Restart::Temporary)).await.expect("starts");
    a.tell(Msg::Panic);
    settle().await;
    assert!(ids(&children).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_dynamic_supervisor_has_forgotten_its_children_and_takes_new_ones() {
    let world = World::default();
    let (tree, children) = pods(&world).await;
    let [a, b] = ["a", "b"].map(|id| world.worker(id));
    children.start(a.spec()).await.expect("starts");
    tree.handle().kill("root/pods").expect("exists");
    settle().await;
    children.start(b.spec()).await.expect("waits for the restart, then starts");
    assert_eq!(ids(&children).await, ["b"]);
    assert_eq!((a.starts(), b.starts()), (1, 1));
    assert!(world.journal().contains(&"drop a".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn dynamic_children_stop_all_at_once() {
    let world = World::default();
    let (tree, children) = pods(&world).await;
    for n in 0..50 {
        let worker = world.worker(&n.to_string());
        worker.hang_in_stop();
        children.start(worker.spec()).await.expect("starts");
    }
    let began = tokio::time::Instant::now();
    tree.stop().await;
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(world.noted("drop").len(), 50);
}

#[tokio::test(start_paused = true)]
async fn without_a_supervisor_starts_are_refused_in_time() {
    let world = World::default();
    let children = DynamicChildren::new("nobody");
    let spec: ChildSpec = world.worker("a").spec();
    assert_eq!(children.start(spec).await, Err(StartError::Unavailable { id: "a".into() }));
    assert_eq!(children.stop("a").await, Ok(()));
    assert!(children.ids().await.is_empty());
}

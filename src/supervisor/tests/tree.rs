//! Trees of static supervisors.

use std::time::Duration;

use super::support::*;
use crate::supervisor::{
    AddressError, Backoff, EventKind, Intensity, NodeKind, NodeState, Restart, StartError, Strategy,
    SupervisorSpec, Tree, TreeExit,
};

#[tokio::test(start_paused = true)]
async fn children_start_in_order_each_after_the_one_before_is_up() {
    let world = World::default();
    let [a, b, c] = ["a", "b", "c"].map(|id| world.worker(id));
    let inner = sup("inner", Strategy::OneForOne).child(b.spec());
    let tree = world.start(root(Strategy::OneForOne).child(a.spec()).supervisor(inner).child(c.spec())).await;
    assert_eq!(world.noted("start"), ["a", "b", "c"]);
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_first_start_that_fails_is_returned_after_stopping_the_others_in_reverse() {
    for (how, said) in [
        (Start::Fails, "bad did not start: told to fail"),
        (Start::Panics, "bad did not start: told to panic"),
        (Start::Hangs, "bad did not start within 5s"),
    ] {
        let world = World::default();
        let [a, b, bad, after] = ["a", "b", "bad", "after"].map(|id| world.worker(id));
        bad.script([how]);
        let inner = sup("inner", Strategy::OneForAll).child(b.spec()).child(bad.spec()).child(after.spec());
        let spec = root(Strategy::OneForOne).child(a.spec()).supervisor(inner);
        let error = world.try_start(spec).await.expect_err("must not start");
        assert_eq!(error.to_string(), said);
        assert_eq!(world.noted("drop"), ["b", "a"]);
        assert_eq!((after.starts(), bad.starts()), (0, 1));
        assert!(a.address.cast(Msg::Fail).is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn two_siblings_of_one_id_are_refused() {
    let world = World::default();
    let spec = root(Strategy::OneForOne).child(world.worker("a").spec()).child(world.worker("a").spec());
    assert_eq!(Tree::start(spec).await.err(), Some(StartError::Duplicate { id: "a".into() }));
    assert!(world.journal().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_strategy_restarts_the_failed_child_and_its_relatives_in_order() {
    let table = [
        (Strategy::OneForOne, "b", vec![], vec!["b"]),
        (Strategy::RestForOne, "b", vec!["d", "c"], vec!["b", "c", "d"]),
        (Strategy::OneForAll, "b", vec!["d", "c", "a"], vec!["a", "b", "c", "d"]),
        (Strategy::RestForOne, "d", vec![], vec!["d"]),
    ];
    for (strategy, failing, stopped, started) in table {
        let world = World::default();
        let workers = ["a", "b", "c", "d"].map(|id| world.worker(id));
        let spec = workers.iter().fold(root(strategy), |spec, worker| spec.child(worker.spec()));
        let tree = world.start(spec).await;
        settle().await;
        world.journal();
        tree.handle().kill(&format!("root/{failing}")).expect("exists");
        pass(SECOND * 9 / 10).await;
        let journal = world.journal();
        let stops: Vec<_> = journal.iter().filter_map(|note| note.strip_prefix("stop ")).collect();
        assert_eq!(stops, stopped, "{strategy:?}");
        assert!(!journal.iter().any(|note| note.starts_with("start")), "all wait for the back-off");
        pass(SECOND).await;
        assert_eq!(world.noted("start"), started, "{strategy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_temporary_sibling_that_a_restart_stopped_stays_down() {
    let world = World::default();
    let [a, b, c] = ["a", "b", "c"].map(|id| world.worker(id));
    let spec = root(Strategy::OneForAll)
        .child(a.spec())
        .child(b.spec().restart(Restart::Temporary))
        .child(c.spec().restart(Restart::Transient));
    let tree = world.start(spec).await;
    c.tell(Msg::End);
    settle().await;
    a.tell(Msg::Panic);
    pass(3 * SECOND).await;
    assert_eq!((a.starts(), b.starts(), c.starts()), (2, 1, 2));
    assert_eq!(state(&tree.handle(), "root/b"), NodeState::Down);
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_past_its_intensity_stops_its_children_and_fails_to_its_parent() {
    let world = World::default();
    let [a, b, outer] = ["a", "b", "outer"].map(|id| world.worker(id));
    let inner = SupervisorSpec::new("inner", Strategy::OneForOne)
        .intensity(Intensity { restarts: 2, within: 100 * SECOND })
        .backoff(STEADY)
        .child(a.spec())
        .child(b.spec());
    let tree = world.start(root(Strategy::OneForOne).supervisor(inner).child(outer.spec())).await;
    for _ in 0..2 {
        b.tell(Msg::Fail);
        settle().await;
        b.ping().await;
    }
    settle().await;
    world.journal();
    b.tell(Msg::Fail);
    settle().await;
    assert_eq!(world.noted("stop"), ["a"], "its other child is stopped gracefully");
    assert_eq!(state(&tree.handle(), "root/inner"), NodeState::BackingOff);
    assert_eq!((a.ping().await, b.ping().await, outer.ping().await), (2, 4, 1));
    let why = "more restarts than its intensity allows, the last for root/inner/b: out of order".to_owned();
    assert_eq!(
        world.events("root/inner"),
        [
            EventKind::GaveUp { reason: why.clone() },
            EventKind::Crashed { reason: why },
            EventKind::Restarted { restarts: 1 }
        ]
    );
    assert_eq!(
        tree.handle().find("root/inner/b").expect("exists").restarts,
        2,
        "counts outlive the supervisor"
    );
}

#[tokio::test(start_paused = true)]
async fn a_root_that_gives_up_says_so() {
    let world = World::default();
    let [a, b] = ["a", "b"].map(|id| world.worker(id));
    let spec = SupervisorSpec::new("root", Strategy::OneForOne)
        .intensity(Intensity { restarts: 0, within: SECOND })
        .child(a.spec())
        .child(b.spec());
    let tree = world.start(spec).await;
    let exited = tree.exited();
    b.tell(Msg::Panic);
    let reason = "more restarts than its intensity allows, the last for root/b: boom".to_owned();
    assert_eq!(exited.await, TreeExit::Failed { reason });
    assert_eq!(world.noted("stop"), ["a"]);
    assert_eq!(state(&tree.handle(), "root/a"), NodeState::Down);
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_gives_up_before_it_is_up_fails_its_start() {
    let world = World::default();
    let [a, slow] = ["a", "slow"].map(|id| world.worker(id));
    a.script([Start::PanicsAfter]);
    slow.always(Start::Hangs);
    let spec = SupervisorSpec::new("root", Strategy::OneForOne)
        .intensity(Intensity { restarts: 0, within: SECOND })
        .child(a.spec())
        .child(slow.spec().start_timeout(60 * SECOND));
    let error = world.try_start(spec).await.expect_err("must not start");
    let reason =
        "more restarts than its intensity allows, the last for root/a: told to panic after the start";
    assert_eq!(error, StartError::Failed { id: "root".into(), reason: reason.into() });
    assert_eq!((a.starts(), slow.starts()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_is_stopped_killed_or_dropped_says_so() {
    let world = World::default();
    let spec = || root(Strategy::OneForOne).child(world.worker("a").spec());
    let tree = world.start(spec()).await;
    let exited = tree.exited();
    tree.stop().await;
    assert_eq!(exited.await, TreeExit::Stopped);

    let tree = world.start(spec()).await;
    tree.handle().kill("root").expect("exists");
    assert_eq!(tree.exited().await, TreeExit::Failed { reason: "killed".into() });

    settle().await;
    world.journal();
    let tree = world.start(spec()).await;
    let exited = tree.exited();
    drop(tree);
    assert!(matches!(exited.await, TreeExit::Failed { .. }));
    settle().await;
    assert_eq!(world.noted("drop"), ["a"], "nothing of it lives on");
}

#[tokio::test(start_paused = true)]
async fn a_failing_restart_backs_off_and_counts_until_the_supervisor_gives_up() {
    let world = World::default();
    let a = world.worker("a");
    let spec = SupervisorSpec::new("root", Strategy::OneForOne)
        .intensity(Intensity { restarts: 5, within: 1000 * SECOND })
        .backoff(Backoff { first: SECOND, cap: 4 * SECOND, jitter: 0.0 })
        .child(a.spec());
    let tree = world.start(spec).await;
    a.always(Start::Fails);
    a.tell(Msg::Panic);
    let began = tokio::time::Instant::now();
    assert!(matches!(tree.exited().await, TreeExit::Failed { .. }));
    assert_eq!(began.elapsed().as_secs(), 1 + 2 + 4 + 4 + 4);
    assert_eq!(a.starts(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_killed_supervisor_is_restarted_with_all_its_children() {
    let world = World::default();
    let [a, b, c] = ["a", "b", "c"].map(|id| world.worker(id));
    let deep = sup("deep", Strategy::OneForOne).child(b.spec());
    let inner = sup("inner", Strategy::OneForOne).child(a.spec()).supervisor(deep);
    let tree = world.start(root(Strategy::OneForOne).supervisor(inner).child(c.spec())).await;
    tree.handle().kill("root/inner").expect("exists");
    settle().await;
    assert_eq!(a.address.cast(Msg::Fail), Err(AddressError::Down { name: "a".into() }));
    assert_eq!(state(&tree.handle(), "root/inner/deep/b"), NodeState::Down);
    assert_eq!((a.ping().await, b.ping().await, c.ping().await), (2, 2, 1));
    let failed = ["root/inner", "root/inner/a", "root/inner/deep/b"]
        .map(|path| world.events(path).iter().any(|event| matches!(event, EventKind::StartFailed { .. })));
    assert_eq!(failed, [false; 3], "the old incarnation was gone before");
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_back_off_or_a_hung_restart_is_bounded() {
    let world = World::default();
    let [a, b] = ["a", "b"].map(|id| world.worker(id));
    let patient = Backoff { first: 3600 * SECOND, cap: 3600 * SECOND, jitter: 0.0 };
    let held = sup("held", Strategy::OneForOne).backoff(patient).child(a.spec());
    let tree = world.start(root(Strategy::OneForOne).supervisor(held).child(b.spec())).await;
    a.tell(Msg::Panic);
    b.script([Start::Hangs]);
    b.tell(Msg::Panic);
    until("b hangs", || b.starts() == 2).await;
    let began = tokio::time::Instant::now();
    tree.stop().await;
    assert!(began.elapsed() <= Duration::from_secs(5));
    assert_eq!((a.starts(), b.starts()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_shows_states_restarts_and_last_exits_of_a_hung_tree() {
    let world = World::default();
    let [a, b] = ["a", "b"].map(|id| world.worker(id));
    let inner = sup("inner", Strategy::OneForOne).child(b.spec().kind_label("capture"));
    let tree = world.start(root(Strategy::OneForOne).child(a.spec()).supervisor(inner)).await;
    a.tell(Msg::Hang);
    b.tell(Msg::Panic);
    settle().await;
    let handle = tree.handle();
    let shown = handle.find("root/inner/b").expect("exists");
    assert_eq!((shown.state, shown.restarts, shown.kind_label), (NodeState::BackingOff, 0, "capture"));
    assert_eq!(shown.last_exit.expect("it crashed").reason, "boom");
    b.ping().await;
    let [shown] = <[_; 1]>::try_from(tree.snapshot()).expect("one root");
    let flat: Vec<_> = shown.children.iter().map(|n| (&*n.path, n.kind, n.state, n.restarts)).collect();
    assert_eq!(
        flat,
        [
            ("root/a", NodeKind::Worker, NodeState::Up, 0),
            ("root/inner", NodeKind::Supervisor, NodeState::Up, 0)
        ]
    );
    assert_eq!(handle.find("root/inner/b").expect("exists").restarts, 1);
    assert_eq!(handle.find("root/inn").expect_err("is no node").path, "root/inn");
    assert!(handle.kill("rootless").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_supervisors_name_is_that_of_everything_below_it() {
    let world = World::default();
    let [a, b] = ["a", "b"].map(|id| world.worker(id));
    let inner = sup("inner", Strategy::OneForOne).shown_as("default/web").child(b.spec());
    let tree = world.start(root(Strategy::OneForOne).child(a.spec()).supervisor(inner)).await;
    b.tell(Msg::Panic);
    settle().await;
    let shown_as = |path| tree.handle().find(path).expect("exists").shown_as;
    assert_eq!((shown_as("root"), shown_as("root/a")), (None, None));
    assert_eq!(shown_as("root/inner").as_deref(), Some("default/web"));
    assert_eq!(shown_as("root/inner/b").as_deref(), Some("default/web"));
    let (reports, _) = tree.handle().crashes();
    let report = reports.iter().find(|report| &*report.path == "root/inner/b").expect("it crashed");
    assert_eq!(report.shown_as.as_deref(), Some("default/web"));
}

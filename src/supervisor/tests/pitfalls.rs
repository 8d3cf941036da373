//! What ractor leaves to its users, by number.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::support::*;
use crate::supervisor::{
    AddressError, DynamicChildren, DynamicSpec, EventKind, Fault, NodeState, OwnedTask, Restart, StartError,
    Strategy, Tree,
    dynamic::{MAX_PENDING_STARTS, MAX_PENDING_STOPS},
};

#[tokio::test(start_paused = true)]
async fn pitfall_01_starts_past_the_bound_wait_outside_the_unbounded_mailbox() {
    let world = World::default();
    let children = DynamicChildren::new("pods");
    let tree = world.start(root(Strategy::OneForOne).dynamic(DynamicSpec::new("pods", &children))).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..MAX_PENDING_STARTS + 10)
        .map(|n| {
            let (children, refused) = (children.clone(), refused.clone());
            let worker = world.worker(&n.to_string());
            worker.always(Start::Hangs);
            let start = async move {
                let started = children.start(worker.spec()).await;
                assert!(matches!(started, Err(StartError::TimedOut { .. })), "{started:?}");
                refused.fetch_add(1, Ordering::SeqCst);
            };
            OwnedTask::spawn("caller", start, |_| {})
        })
        .collect();
    for _ in 0..10 {
        settle().await;
    }
    assert_eq!(world.noted("start").len(), MAX_PENDING_STARTS);
    until("the hung starts are given up", || refused.load(Ordering::SeqCst) == callers.len()).await;
    assert_eq!(world.noted("start").len(), 10, "the others had their turn");
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pitfall_01_stops_past_the_bound_wait_outside_the_unbounded_mailbox() {
    let world = World::default();
    let children = DynamicChildren::new("pods");
    let tree = world.start(root(Strategy::OneForOne).dynamic(DynamicSpec::new("pods", &children))).await;
    tree.handle().inject("root/pods", Fault::Hang(SECOND)).expect("it is up");
    settle().await;
    let stopped = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..MAX_PENDING_STOPS + 10)
        .map(|n| {
            let (children, stopped) = (children.clone(), stopped.clone());
            let stop = async move {
                children.stop(&n.to_string()).await.expect("a child that is not there is fine");
                stopped.fetch_add(1, Ordering::SeqCst);
            };
            OwnedTask::spawn("caller", stop, |_| {})
        })
        .collect();
    for _ in 0..10 {
        settle().await;
    }
    assert_eq!(tree.handle().find("root/pods").expect("exists").load.depth, MAX_PENDING_STOPS);
    until("all had their turn", || stopped.load(Ordering::SeqCst) == callers.len()).await;
    assert_eq!(tree.handle().find("root/pods").expect("exists").load.depth, 0);
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pitfall_02_stopping_a_supervisor_first_stops_what_is_below_it_in_reverse() {
    let world = World::default();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|id| world.worker(id));
    let inner = sup("inner", Strategy::OneForOne).child(b.spec()).child(c.spec());
    let tree = world.start(root(Strategy::OneForOne).child(a.spec()).supervisor(inner).child(d.spec())).await;
    settle().await;
    world.journal();
    tree.stop().await;
    let journal = world.journal();
    let expected = ["d", "c", "b", "a"].map(|id| [format!("stop {id}"), format!("drop {id}")]).concat();
    let seen: Vec<_> = journal.into_iter().filter(|note| !note.starts_with("task-end")).collect();
    assert_eq!(seen, expected, "each is stopped and gone before the next");
}

#[tokio::test(start_paused = true)]
async fn pitfall_03_no_exit_of_a_child_takes_its_supervisor_or_siblings_along() {
    let world = World::default();
    let [a, b] = ["a", "b"].map(|id| world.worker(id));
    b.panic_in_drop();
    let spec = root(Strategy::OneForOne).child(a.spec()).child(b.spec().restart(Restart::Transient));
    let observer = Arc::new(|_: &crate::supervisor::Event| panic!("an observer that panics"));
    let tree = Tree::start_observed(spec, observer, |_| None).await.expect("starts");
    let [root_before, a_before] = [tree.handle(), tree.handle()].map(|_| a.address.actor_id());
    b.tell(Msg::End);
    until("b ended", || state(&tree.handle(), "root/b") == NodeState::Down).await;
    pass(10 * SECOND).await;
    assert_eq!((a.starts(), b.starts()), (1, 1));
    assert_eq!(root_before, a_before);
    assert_eq!(a.ping().await, 1);
    a.tell(Msg::Panic);
    settle().await;
    assert_eq!(a.ping().await, 2, "the supervisor still restarts");
}

#[tokio::test(start_paused = true)]
async fn pitfall_04_a_restart_that_fails_or_hangs_is_bounded_and_blocks_no_sibling() {
    let world = World::default();
    let [a, b] = ["a", "b"].map(|id| world.worker(id));
    let spec = root(Strategy::OneForOne).child(a.spec().start_timeout(60 * SECOND)).child(b.spec());
    let tree = world.start(spec).await;
    a.script([Start::Hangs, Start::Fails, Start::Panics]);
    a.tell(Msg::Panic);
    until("a hangs in its restart", || a.starts() == 2).await;
    b.tell(Msg::Panic);
    settle().await;
    assert_eq!(b.ping().await, 2, "b is restarted meanwhile");
    assert_eq!(state(&tree.handle(), "root/a"), NodeState::Starting);
    assert_eq!(a.ping().await, 5);
    let reasons: Vec<_> = world
        .events("root/a")
        .into_iter()
        .filter_map(|kind| match kind {
            EventKind::StartFailed { reason } => Some(reason),
            _ => None,
        })
        .collect();
    assert_eq!(
        reasons,
        ["a did not start within 60s", "a did not start: told to fail", "a did not start: told to panic",]
    );
}

#[tokio::test(start_paused = true)]
async fn pitfall_04_a_crash_before_the_supervisor_hears_of_the_start_is_not_missed() {
    let world = World::default();
    let a = world.worker("a");
    let _tree = world.start(root(Strategy::OneForOne).child(a.spec())).await;
    settle().await;
    a.script([Start::PanicsAfter, Start::PanicsAfter]);
    a.tell(Msg::Panic);
    until("both short lives are over", || a.starts() == 4).await;
    assert_eq!(a.ping().await, 4);
    let crashes = world.events("root/a").iter().filter(|e| matches!(e, EventKind::Crashed { .. })).count();
    assert_eq!(crashes, 3);
}

#[tokio::test(start_paused = true)]
async fn pitfall_05_a_dead_childs_state_is_dropped_before_the_next_incarnation_starts() {
    let world = World::default();
    let a = world.worker("a");
    let tree = world.start(root(Strategy::OneForOne).child(a.spec())).await;
    for incarnation in 2..6 {
        settle().await;
        world.journal();
        // The State of a killed or stopped actor rides in the event; that of a failed one does not.
        match incarnation % 3 {
            0 => tree.handle().kill("root/a").expect("exists"),
            1 => a.tell(Msg::End),
            _ => a.tell(Msg::Fail),
        }
        settle().await;
        assert_eq!(a.ping().await, incarnation);
        let journal: Vec<_> =
            world.journal().into_iter().filter(|n| n.starts_with("drop") || n.starts_with("start")).collect();
        assert_eq!(journal, ["drop a", "start a"]);
    }
    let failed = world.events("root/a").iter().any(|e| matches!(e, EventKind::StartFailed { .. }));
    assert!(!failed, "no incarnation found its port in use");
}

#[tokio::test(start_paused = true)]
async fn pitfall_06_a_killed_transient_child_is_restarted_and_an_ended_one_is_not() {
    let world = World::default();
    let a = world.worker("a");
    let tree = world.start(root(Strategy::OneForOne).child(a.spec().restart(Restart::Transient))).await;
    tree.handle().kill("root/a").expect("exists");
    settle().await;
    assert_eq!(a.ping().await, 2);
    assert_eq!(
        world.events("root/a"),
        [EventKind::Crashed { reason: "killed".into() }, EventKind::Restarted { restarts: 1 }]
    );
    a.tell(Msg::End);
    pass(10 * SECOND).await;
    assert_eq!(a.starts(), 2);
    assert_eq!(world.events("root/a").last(), Some(&EventKind::Finished));
}

#[tokio::test(start_paused = true)]
async fn pitfall_07_a_panic_skips_post_stop_and_drops_the_state() {
    let world = World::default();
    let a = world.worker("a");
    let _tree = world.start(root(Strategy::OneForOne).child(a.spec())).await;
    settle().await;
    world.journal();
    a.tell(Msg::Panic);
    settle().await;
    assert_eq!(world.journal(), ["drop a", "task-end a"]);
}

#[tokio::test(start_paused = true)]
async fn pitfall_08_a_stop_past_its_budget_is_killed_and_holds_nobody_up_longer() {
    let world = World::default();
    let [a, b, c] = ["a", "b", "c"].map(|id| world.worker(id));
    b.hang_in_stop();
    let spec = root(Strategy::OneForOne)
        .child(a.spec())
        .child(b.spec().stop_within(7 * SECOND))
        .child(c.spec().stop_within(3 * SECOND));
    let tree = world.start(spec).await;
    c.tell(Msg::Hang);
    settle().await;
    world.journal();
    let began = tokio::time::Instant::now();
    tree.stop().await;
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!(world.noted("drop"), ["c", "b", "a"]);
    assert_eq!(world.events("root/b"), [EventKind::Killed { after: 7 * SECOND }]);
    assert_eq!(world.events("root/c"), [EventKind::Killed { after: 3 * SECOND }]);
}

#[tokio::test(start_paused = true)]
async fn pitfall_09_a_task_in_the_state_dies_with_its_actor() {
    for death in [Msg::Panic, Msg::Fail, Msg::End] {
        let world = World::default();
        let a = world.worker("a");
        let _tree = world.start(root(Strategy::OneForOne).child(a.spec())).await;
        settle().await;
        a.tell(death);
        settle().await;
        assert_eq!(world.noted("task-end"), ["a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn pitfall_10_an_address_outlives_the_incarnations_behind_it() {
    let world = World::default();
    let a = world.worker("a");
    let _tree = world.start(root(Strategy::OneForOne).child(a.spec())).await;
    let stale = a.address.current().expect("somebody is there");
    a.tell(Msg::Panic);
    settle().await;
    let down = AddressError::Down { name: "a".into() };
    assert_eq!(a.address.cast(Msg::Fail), Err(down.clone()));
    assert_eq!(a.address.call(10 * MS, Msg::Ping).await, Err(down), "no restart within the timeout");
    assert_eq!(a.address.call(5 * SECOND, Msg::Ping).await, Ok(2), "waits for the restart");
    assert!(stale.cast(Msg::Fail).is_err());
}

#[tokio::test(start_paused = true)]
async fn pitfall_11_two_trees_with_the_same_ids_do_not_collide() {
    let (one, two) = (World::default(), World::default());
    let (a, b) = (one.worker("a"), two.worker("a"));
    let first = one.start(root(Strategy::OneForOne).child(a.spec())).await;
    let second = two.start(root(Strategy::OneForOne).child(b.spec())).await;
    first.handle().kill("root/a").expect("exists");
    settle().await;
    assert_eq!((a.ping().await, b.ping().await), (2, 1));
    assert!(["root", "a", "root/a"].iter().all(|name| ractor::registry::where_is(name).is_none()));
    first.stop().await;
    assert_eq!(b.ping().await, 1);
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pitfall_12_a_lock_held_through_a_panic_serves_the_next_incarnation() {
    let world = World::default();
    let a = world.worker("a");
    let _tree = world.start(root(Strategy::OneForOne).child(a.spec())).await;
    for _ in 0..3 {
        a.tell(Msg::PanicWithLock);
        settle().await;
        a.ping().await;
    }
    assert_eq!(*a.lock.lock(), 3);
}

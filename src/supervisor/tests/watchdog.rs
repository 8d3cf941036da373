//! The watchdog that finds hung actors.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::support::*;
use crate::supervisor::{
    CrashReport, Death, EventKind, Fault, NodeState, OwnedTask, Strategy, TreeHandle, faults,
    tree::watch_for_ever,
};

const LIMIT: Duration = Duration::from_millis(750);

fn last_report(tree: &TreeHandle, path: &str) -> Arc<CrashReport> {
    let (reports, _) = tree.crashes();
    reports.into_iter().rfind(|report| &*report.path == path).expect("there is a report")
}

#[tokio::test(start_paused = true)]
async fn the_watchdog_kills_what_hangs_longer_than_it_may_and_nothing_else() {
    let world = World::default();
    let [strict, patient, unwatched] = ["strict", "patient", "unwatched"].map(|id| world.worker(id));
    let spec = root(Strategy::OneForOne)
        .child(strict.spec().hung_after(LIMIT))
        .child(patient.spec().hung_after(60 * SECOND))
        .child(unwatched.spec());
    let (_tree, handle) = world.watched(spec).await;
    pass(60 * SECOND).await;
    for id in ["strict", "patient", "unwatched"] {
        handle.inject(&format!("root/{id}"), Fault::Hang(10 * SECOND)).expect("is up");
    }
    pass(2 * SECOND).await;
    assert_eq!(world.crashes("root/strict"), ["hung: no answer for 750ms"]);
    pass(60 * SECOND).await;
    assert_eq!((strict.ping().await, patient.ping().await, unwatched.ping().await), (2, 1, 1));
    assert_eq!(strict.starts(), 2, "the successor is well");
}

#[tokio::test(start_paused = true)]
async fn the_watchdog_finds_a_handler_that_never_returns_however_deep() {
    let world = World::default();
    let a = world.worker("a");
    let inner = sup("inner", Strategy::OneForOne).child(a.spec().hung_after(LIMIT));
    let (_tree, _) = world.watched(root(Strategy::OneForOne).supervisor(inner)).await;
    for incarnation in 2..5 {
        a.tell(Msg::Hang);
        until("it is restarted", || a.starts() == incarnation).await;
        assert_eq!(a.ping().await, incarnation);
    }
    assert_eq!(world.crashes("root/inner/a").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn deaths_of_one_actor_cost_no_other_its_life_and_the_watchdog_nothing() {
    let world = World::default();
    let [a, b] = ["a", "b"].map(|id| world.worker(id));
    let spec = root(Strategy::OneForOne).child(a.spec().hung_after(LIMIT)).child(b.spec().hung_after(LIMIT));
    let (_tree, handle) = world.watched(spec).await;
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
    let (tree, _) = world.watched(root(Strategy::OneForOne).child(a.spec().hung_after(LIMIT))).await;
    tree.stop().await;
    assert_eq!(world.events("root/a"), [EventKind::Killed { after: 5 * SECOND }]);
}

#[tokio::test(start_paused = true)]
async fn a_hang_is_found_within_a_second_though_nothing_else_happens() {
    let world = World::default();
    let a = world.worker("a");
    let limit = 500 * MS;
    let (_tree, handle) = world.watched(root(Strategy::OneForOne).child(a.spec().hung_after(limit))).await;
    pass(60 * SECOND).await;
    a.tell(Msg::Hang);
    pass(limit - MS).await;
    assert_eq!(world.crashes("root/a"), [""; 0]);
    pass(2 * MS).await;
    assert_eq!(world.crashes("root/a"), ["hung: no answer for 500ms"]);
    let report = last_report(&handle, "root/a");
    assert_eq!((report.death, report.handling), (Death::Hung, Some(("hang", limit))));
    pass(2 * SECOND).await;
    assert_eq!((a.starts(), state(&handle, "root/a")), (2, NodeState::Up));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_hangs_is_seen_and_given_up_in_its_time() {
    let world = World::default();
    let a = world.worker("a");
    let (_tree, handle) = world.watched(root(Strategy::OneForOne).child(a.spec().hung_after(LIMIT))).await;
    settle().await;
    a.always(Start::Hangs);
    a.tell(Msg::Panic);
    pass(2 * SECOND).await;
    let handling = handle.find("root/a").expect("exists").load.handling;
    assert_eq!(handling.map(|(what, _)| what), Some("pre-start"));
    pass(5 * SECOND).await;
    let report = last_report(&handle, "root/a");
    assert_eq!((report.death, report.handling), (Death::StartFailed, Some(("pre-start", 5 * SECOND))));
    assert_eq!(report.reason, "a did not start within 5s");
    a.always(Start::Well);
    until("it is up again", || state(&handle, "root/a") == NodeState::Up).await;
}

#[tokio::test(start_paused = true)]
async fn a_hang_before_the_first_message_is_found() {
    let world = World::default();
    let a = world.worker("a");
    let (_tree, handle) = world.watched(root(Strategy::OneForOne).child(a.spec().hung_after(LIMIT))).await;
    settle().await;
    a.script([Start::HangsAfter]);
    a.tell(Msg::Panic);
    until("the second has come and gone", || world.crashes("root/a").len() == 2).await;
    assert_eq!(world.crashes("root/a").last().map(String::as_str), Some("hung: no answer for 750ms"));
    assert_eq!(last_report(&handle, "root/a").handling, Some(("post-start", LIMIT)));
    assert_eq!(a.ping().await, 3);
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_ends_by_itself_and_hangs_while_it_cleans_up_is_found() {
    let world = World::default();
    let a = world.worker("a");
    a.hang_in_stop();
    // Whether it has a limit or not: what bounds a stop is its own.
    let (_tree, handle) =
        world.watched(root(Strategy::OneForOne).child(a.spec().stop_within(3 * SECOND))).await;
    a.tell(Msg::End);
    pass(3 * SECOND - MS).await;
    assert_eq!(world.crashes("root/a"), [""; 0]);
    pass(2 * MS).await;
    assert_eq!(world.crashes("root/a"), ["hung: no answer for 3s"]);
    assert_eq!(last_report(&handle, "root/a").handling, Some(("post-stop", 3 * SECOND)));
    assert_eq!(a.ping().await, 2);
}

#[tokio::test(start_paused = true)]
async fn an_idle_tree_wakes_the_watchdog_at_no_time() {
    let world = World::default();
    let [a, b] = ["a", "b"].map(|id| world.worker(id));
    let spec = root(Strategy::OneForOne).child(a.spec().hung_after(LIMIT)).child(b.spec());
    let tree = world.start(spec).await;
    let woken = Arc::new(AtomicU32::new(0));
    let (counted, mut watching) = (woken.clone(), Box::pin(watch_for_ever(tree.handle().root)));
    let watching = poll_fn(move |cx| {
        counted.fetch_add(1, Ordering::SeqCst);
        watching.as_mut().poll(cx)
    });
    let _watching = OwnedTask::spawn("watchdog", watching, |_| {});
    let woken = || {
        let woken = woken.clone();
        async move {
            settle().await;
            woken.swap(0, Ordering::SeqCst)
        }
    };
    assert!(woken().await > 0);
    pass(3600 * SECOND).await;
    assert_eq!(woken().await, 0, "nothing runs");
    assert_eq!(a.ping().await, 1);
    assert!(woken().await > 0);
    pass(3600 * SECOND).await;
    assert_eq!(woken().await, 0, "a message that was handled leaves no timer behind");
    b.tell(Msg::Hang);
    pass(3600 * SECOND).await;
    assert_eq!(woken().await, 0, "what has no limit is not timed");
    a.tell(Msg::Hang);
    pass(LIMIT - MS).await;
    assert_eq!(woken().await, 3, "at once, then every 250 ms");
}

#[tokio::test(start_paused = true)]
async fn a_watchdog_that_panics_repairs_itself() {
    let world = World::default();
    let a = world.worker("a");
    let spec = root(Strategy::OneForOne).child(a.spec().hung_after(LIMIT));
    let (_tree, _, _guard) = world.watched_alone(spec).await;
    settle().await;
    faults::arm("supervisor/watchdog", 1).expect("room");
    a.tell(Msg::Hang);
    until("it is restarted", || a.starts() == 2).await;
    assert_eq!(faults::armed("supervisor/watchdog"), 0);
}

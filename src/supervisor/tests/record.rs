//! What a tree shows of mailboxes and handlers, and what its crash reports say.

use std::time::Duration;

use super::support::{MS, Msg, SECOND, Start, TRACE, Worker, World, pass, root, settle, sup, until};
use crate::supervisor::{
    CrashReport, Death, Load, MAX_REPORTS, OwnedTask, Strategy, Tree,
    diagnostics::{MESSAGES_KEPT, frames},
};

async fn one(world: &World, id: &str) -> (Worker, Tree) {
    let worker = world.worker(id);
    let tree = world.start(root(Strategy::OneForOne).child(worker.spec())).await;
    (worker, tree)
}

fn load(tree: &Tree, path: &str) -> Load {
    tree.handle().find(path).unwrap().load
}

/// The reports on `path`, without those of tasks: they may be any test's.
fn reports(tree: &Tree, path: &str) -> Vec<std::sync::Arc<CrashReport>> {
    tree.handle().crashes().0.into_iter().filter(|report| &*report.path == path).collect()
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_counted_whoever_sent_it_and_is_gone_with_the_incarnation() {
    let world = World::default();
    let (worker, tree) = one(&world, "counted").await;
    worker.ping().await;
    let idle = load(&tree, "root/counted");
    assert_eq!((idle.depth, idle.oldest, idle.handling), (0, Duration::ZERO, None));
    worker.tell(Msg::Hang);
    settle().await;
    let myself = worker.address.current().unwrap();
    pass(SECOND).await;
    myself.cast(Msg::Fail).unwrap();
    pass(2 * SECOND).await;
    worker.tell(Msg::Fail);
    let busy = load(&tree, "root/counted");
    assert_eq!((busy.depth, busy.oldest), (2, 2 * SECOND));
    assert_eq!(busy.handling, Some(("hang", 3 * SECOND)));
    tree.handle().kill("root/counted").unwrap();
    until("restarted", || worker.incarnations() == 2).await;
    worker.ping().await;
    let fresh = load(&tree, "root/counted");
    assert_eq!((fresh.depth, fresh.oldest, fresh.handling), (0, Duration::ZERO, None));
    assert!(myself.cast(Msg::Fail).is_err(), "the former incarnation is gone");
    assert_eq!(load(&tree, "root/counted").depth, 0);
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn handlers_are_timed_and_totals_outlive_the_actor() {
    let world = World::default();
    let (worker, tree) = one(&world, "timed").await;
    for _ in 0..3 {
        worker.ping().await;
    }
    let before = load(&tree, "root/timed").handled;
    tree.handle().inject("root/timed", crate::supervisor::Fault::Hang(250 * MS)).unwrap();
    worker.ping().await;
    let now = load(&tree, "root/timed");
    assert_eq!(now.handled, before + 2);
    assert_eq!((now.longest, now.busy), (Some(("injected-fault", 250 * MS)), 250 * MS));
    let totals = tree.handle().handled_by_kind();
    assert!(totals.contains(&("actor", now.handled, now.busy)), "{totals:?}");
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_is_reported_with_what_was_handled_and_what_waited() {
    let world = World::default();
    let (worker, tree) = one(&world, "killed").await;
    for _ in 0..MESSAGES_KEPT + 5 {
        worker.ping().await;
    }
    worker.tell(Msg::Hang);
    worker.tell(Msg::Panic);
    settle().await;
    pass(4 * SECOND).await;
    tree.handle().kill("root/killed").unwrap();
    until("restarted", || worker.incarnations() == 2).await;
    let [report] = reports(&tree, "root/killed").try_into().unwrap();
    assert_eq!((report.death, &*report.reason), (Death::Killed, "killed"));
    assert_eq!((report.handling, report.waiting), (Some(("hang", 4 * SECOND)), 1));
    assert_eq!(report.messages.len(), MESSAGES_KEPT);
    assert!(report.messages.iter().all(|message| message.kind == "ping" && message.ago >= 4 * SECOND));
    assert_eq!((report.location(), report.frames()), (None, &[] as &[String]));
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_and_an_error_are_reported_with_their_message() {
    let world = World::default();
    let (worker, tree) = one(&world, "broken").await;
    worker.ping().await;
    worker.tell(Msg::Panic);
    until("restarted", || worker.incarnations() == 2).await;
    worker.tell(Msg::Fail);
    until("restarted again", || worker.incarnations() == 3).await;
    let [panicked, failed] = reports(&tree, "root/broken").try_into().unwrap();
    assert_eq!((panicked.death, panicked.handling.map(|(kind, _)| kind)), (Death::Panicked, Some("panic")));
    assert!(panicked.reason.contains("boom"), "{}", panicked.reason);
    assert_eq!((failed.death, failed.handling), (Death::Failed, None));
    assert_eq!(failed.messages.last().map(|message| message.kind), Some("fail"));
    assert!(panicked.number < failed.number);
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_list_of_reports_is_bounded_and_says_what_it_has_lost() {
    let world = World::default();
    let (worker, tree) = one(&world, "frail").await;
    for number in 1..=MAX_REPORTS + 3 {
        worker.tell(Msg::Fail);
        until("restarted", || worker.incarnations() as usize == number + 1).await;
    }
    let kept = reports(&tree, "root/frail");
    assert_eq!(kept.len(), MAX_REPORTS);
    assert!(kept.is_sorted_by_key(|report| report.number));
    assert!(tree.handle().crashes().1 >= 3);
    tree.stop().await;
}

#[tokio::test]
async fn the_panic_of_a_task_is_reported_by_its_name() {
    let world = World::default();
    let (_, tree) = one(&world, "idle").await;
    let (tell, told) = tokio::sync::oneshot::channel();
    let _task = OwnedTask::spawn("record/of/a-task", async { panic!("a bug") }, |exit| drop(tell.send(exit)));
    told.await.unwrap();
    let [report] = reports(&tree, "record/of/a-task").try_into().unwrap();
    assert_eq!((&*report.kind, report.death, &*report.reason), ("record/of", Death::TaskPanicked, "a bug"));
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn starts_that_fail_are_reported_once_for_each_reason_and_counted() {
    let world = World::default();
    let worker = world.worker("late");
    let inner = sup("inner", Strategy::OneForOne).child(worker.spec());
    let tree = world.start(root(Strategy::OneForOne).supervisor(inner)).await;
    worker.ping().await;
    worker.script([Start::Fails, Start::Fails, Start::Panics, Start::Fails]);
    worker.tell(Msg::Fail);
    until("up again", || worker.incarnations() == 2).await;
    let seen: Vec<_> = reports(&tree, "root/inner/late")
        .iter()
        .map(|report| (report.death, report.reason.clone(), report.again()))
        .collect();
    let [died, failed, panicked, last] = seen.try_into().unwrap();
    assert_eq!(died, (Death::Failed, "out of order".to_owned(), 0));
    assert_eq!((failed.0, failed.2), (Death::StartFailed, 1), "{failed:?}");
    assert!(failed.1.starts_with("late did not start: ") && failed.1.contains("told to fail"), "{failed:?}");
    assert_eq!((panicked.0, panicked.2), (Death::StartFailed, 0), "{panicked:?}");
    assert!(panicked.1.contains("told to panic"), "{panicked:?}");
    assert_eq!((last.1, last.2), (failed.1, 0), "news after another failure");
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_failed_start_of_a_child_is_not_reported_of_its_supervisor_too() {
    let world = World::default();
    let worker = world.worker("late");
    let inner = sup("inner", Strategy::OneForOne).child(worker.spec());
    let tree = world.start(root(Strategy::OneForOne).supervisor(inner)).await;
    worker.script([Start::Fails]);
    tree.handle().kill("root/inner").unwrap();
    until("up again", || worker.incarnations() == 2).await;
    let deaths = |path| reports(&tree, path).iter().map(|report| report.death).collect::<Vec<_>>();
    assert_eq!(deaths("root/inner/late"), [Death::StartFailed]);
    assert_eq!(deaths("root/inner"), [Death::Killed]);
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn messages_and_deaths_name_the_trace_they_belong_to() {
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry());
    let world = World::default();
    let (worker, tree) = one(&world, "traced").await;
    worker.ping().await;
    tracing::error_span!("plain")
        .in_scope(|| worker.tell(Msg::Ping(tokio::sync::oneshot::channel().0.into())));
    let traced = tracing::error_span!("traced");
    traced.in_scope(|| worker.tell(Msg::Ping(tokio::sync::oneshot::channel().0.into())));
    traced.in_scope(|| worker.tell(Msg::Panic));
    until("restarted", || worker.incarnations() == 2).await;
    let [report] = reports(&tree, "root/traced").try_into().unwrap();
    assert_eq!((report.death, report.trace), (Death::Panicked, Some(TRACE)));
    let spans: Vec<_> = report.messages.iter().filter(|message| message.kind == "ping").collect();
    let spans: Vec<_> = spans.iter().map(|message| (message.span, message.trace)).collect();
    assert_eq!(spans, [(None, None), (Some("plain"), None), (Some("traced"), Some(TRACE))]);
    tree.stop().await;
}

#[test]
fn a_backtrace_begins_below_the_panic_and_keeps_what_is_inside_of_what_caught_it() {
    let text = "   0: warren::supervisor::diagnostics::panics::note_panic
             at /somewhere/src/supervisor/diagnostics/panics.rs:1:1
   1: std::panicking::panic_with_hook
   2: __rustc::rust_begin_unwind
   3: core::panicking::panic_fmt
             at /rustc/0/library/core/src/panicking.rs:80:14
   4: warren::actors::mesh::decode
             at /somewhere/src/actors/mesh.rs:7:9
   5: std::panicking::catch_unwind::do_call
   6: std::panicking::catch_unwind
   7: tokio::runtime::task::harness::poll_future
             at /home/.cargo/registry/src/index/tokio/src/runtime/task/harness.rs:5:9";
    let want = [
        "warren::actors::mesh::decode at src/actors/mesh.rs:7:9",
        "std::panicking::catch_unwind::do_call",
        "std::panicking::catch_unwind",
        "tokio::runtime::task::harness::poll_future at \
         /home/.cargo/registry/src/index/tokio/src/runtime/task/harness.rs:5:9",
    ];
    assert_eq!(frames(text), want);
}

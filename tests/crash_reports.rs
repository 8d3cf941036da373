//! Where a crash report says that a panic came from. The panic hook is the process's: it is tested in a process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ractor::ActorProcessingErr;
use warren::{
    actors::telemetry::panics,
    protocols::config::LogFormat,
    supervisor::{
        Actor, ActorRef, Address, ChildSpec, CrashReport, Death, Described, Fault, OwnedTask, Strategy,
        SupervisorSpec, Tree,
    },
    telemetry::{log::Logging, metrics::Metrics},
};

const LIMIT: Duration = Duration::from_secs(25);

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says how the test failed, which the hook has logged.
struct Shown(Kept);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", String::from_utf8_lossy(&self.0.0.lock()));
        }
    }
}

enum Msg {
    Work,
}

/// Panics over its work, and then once over its start.
#[derive(Clone, Default)]
struct Frail(Arc<AtomicBool>);

#[inline(never)]
fn deep_inside(what: &str) {
    panic!("a bug in {what}");
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        "work"
    }
}

impl Actor for Frail {
    type Msg = Msg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        if self.0.swap(false, Ordering::SeqCst) {
            deep_inside("its start");
        }
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Msg>, _: Msg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.0.store(true, Ordering::SeqCst);
        deep_inside("its work");
        Ok(())
    }
}

/// The report of this death of `path`, as soon as there is one.
async fn report(tree: &Tree, path: &str, death: Death) -> Arc<CrashReport> {
    let found = async {
        loop {
            let (reports, _) = tree.handle().crashes();
            if let Some(report) =
                reports.into_iter().find(|found| &*found.path == path && found.death == death)
            {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("no report of {path}"))
}

#[track_caller]
fn assert_is_traced(report: &CrashReport, what: &str) {
    assert!(report.reason.contains(&format!("a bug in {what}")), "{}", report.reason);
    let location = report.location().unwrap();
    assert!(location.starts_with("tests/crash_reports.rs:"), "{location}");
    let frames = report.frames();
    assert!(frames[0].starts_with("crash_reports::deep_inside at "), "{frames:#?}");
    assert!(frames[0].contains("tests/crash_reports.rs:"), "{frames:#?}");
}

#[tokio::test]
async fn panics_of_actors_starts_and_tasks_are_reported_with_the_way_to_them() {
    let kept = Kept::default();
    let _shown = Shown(kept.clone());
    let (dispatch, logging) = Logging::to(kept.clone(), LogFormat::Plain, "info".parse().unwrap()).unwrap();
    tracing::dispatcher::set_global_default(dispatch).unwrap();
    panics::install(Metrics::new("x").unwrap());
    let address = Address::new("frail");
    let frail = ChildSpec::actor("frail", &address, || (Frail::default(), ()));
    let broken = Frail::default();
    let other = Address::new("other");
    let again = ChildSpec::actor("other", &other, move || (broken.clone(), ()));
    let root = SupervisorSpec::new("root", Strategy::OneForOne).child(frail).child(again);
    let tree = Tree::start(root).await.unwrap();

    other.cast(Msg::Work).unwrap();
    let died = report(&tree, "root/other", Death::Panicked).await;
    assert_is_traced(&died, "its work");
    assert_eq!(died.handling.map(|(kind, _)| kind), Some("work"));
    let failed = report(&tree, "root/other", Death::StartFailed).await;
    assert_is_traced(&failed, "its start");

    let task = OwnedTask::spawn("crash/reports/task", async { deep_inside("a task") }, |_| {});
    let panicked = report(&tree, "crash/reports/task", Death::TaskPanicked).await;
    assert_is_traced(&panicked, "a task");
    drop(task);

    // Without a panic there is no way to show; and one that is ordered is said in the log with our own frames.
    address.current().unwrap().kill();
    let killed = report(&tree, "root/frail", Death::Killed).await;
    assert_eq!((killed.location(), killed.frames().len()), (None, 0));
    tokio::time::timeout(LIMIT, async {
        while tree.handle().inject("root/frail", Fault::Panic).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    report(&tree, "root/frail", Death::Panicked).await;
    let logged = async {
        loop {
            let text = String::from_utf8(kept.0.lock().clone()).unwrap();
            let line =
                text.lines().find(|line| line.contains("crash report") && line.contains("injected-fault"));
            if let Some(line) = line {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let line = tokio::time::timeout(LIMIT, logged).await.expect("the report in the log");
    assert!(line.contains("backtrace=\"warren::supervisor::faults::tripwire::panic_on_request"), "{line}");
    assert!(line.contains("path=\"root/frail\"") && line.contains("death=\"panicked\""), "{line}");
    tree.stop().await;
    drop(logging);
}

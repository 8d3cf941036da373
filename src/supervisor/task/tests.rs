use std::rc::Rc;

use parking_lot::Mutex;
use tokio::{sync::oneshot, task::yield_now};

use super::*;

/// Notes its own drop.
struct Noted(Arc<Mutex<Vec<String>>>, &'static str);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.lock().push(self.1.to_owned());
    }
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("in drop");
    }
}

/// The journal of a task that holds a `Noted`, and what its `on_exit` was told.
fn spawn(future: impl Future<Output = ()> + Send + 'static) -> (OwnedTask, Arc<Mutex<Vec<String>>>) {
    let journal = Arc::new(Mutex::new(vec![]));
    let (held, told) = (Noted(journal.clone(), "dropped"), journal.clone());
    let work = async move {
        let _held = held;
        future.await;
    };
    (OwnedTask::spawn("t", work, move |exit| told.lock().push(format!("{exit:?}"))), journal)
}

async fn settle() {
    for _ in 0..10 {
        yield_now().await;
    }
}

#[tokio::test]
async fn the_end_is_reported_once_and_after_what_the_task_held_is_dropped() {
    let (task, journal) = spawn(async {});
    settle().await;
    assert!(task.is_finished());
    drop(task);
    settle().await;
    assert_eq!(*journal.lock(), ["dropped", "Done"]);
}

#[tokio::test]
async fn a_panic_is_reported_with_its_message() {
    let (_task, journal) = spawn(async { panic!("number {}", 7) });
    settle().await;
    assert_eq!(*journal.lock(), ["dropped", "Panicked { message: \"number 7\" }"]);
}

#[tokio::test]
async fn a_drop_of_the_owner_aborts_before_and_after_the_first_poll() {
    for polled in [false, true] {
        let (task, journal) = spawn(std::future::pending());
        if polled {
            settle().await;
        }
        drop(task);
        settle().await;
        assert_eq!(*journal.lock(), ["dropped", "Aborted"], "polled before: {polled}");
    }
}

#[tokio::test]
async fn an_abort_of_an_ended_task_reports_nothing_more() {
    let (task, journal) = spawn(async {});
    settle().await;
    task.abort();
    settle().await;
    assert_eq!(journal.lock().len(), 2);
    assert_eq!(&**task.name(), "t");
}

#[test]
fn the_end_of_the_runtime_is_an_abort() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (_task, journal) = {
        let _entered = runtime.enter();
        spawn(std::future::pending())
    };
    drop(runtime);
    assert_eq!(*journal.lock(), ["dropped", "Aborted"]);
}

#[tokio::test]
async fn a_panic_in_a_drop_is_a_panic_of_the_task() {
    let (sender, told) = oneshot::channel();
    let held = PanicsInDrop;
    let work = async move {
        let _held = held;
    };
    let _task = OwnedTask::spawn("t", work, move |exit| drop(sender.send(exit)));
    assert_eq!(told.await.expect("told"), TaskExit::Panicked { message: "in drop".into() });
}

#[tokio::test]
async fn watched_futures_need_not_be_send_and_give_their_output_or_their_panic() {
    let shared = Rc::new(3);
    let other = shared.clone();
    let fine = watch_panics(async move {
        yield_now().await;
        *other
    });
    assert_eq!(fine.await, Ok(3));
    assert_eq!(watch_panics(async { panic!("static") }).await, Err::<(), _>("static".into()));
    assert_eq!(watch_panics(async { panic!("{}", 1 + 1) }).await, Err::<(), _>("2".into()));
    let odd = watch_panics(async { std::panic::panic_any(5_u8) });
    assert_eq!(odd.await, Err::<(), _>("panic without a message".into()));
}

#[test]
fn watching_adds_no_second_copy_of_the_future() {
    let future = async {
        let buffer = [0_u8; 1000];
        yield_now().await;
        std::hint::black_box(buffer);
    };
    let size = size_of_val(&future);
    assert!(size_of_val(&watch_panics(future)) <= size + 8);
}

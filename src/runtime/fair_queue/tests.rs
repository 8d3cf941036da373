mod orders;

use std::cell::Cell;

use tokio::{
    sync::{Notify, oneshot},
    task::{LocalSet, spawn_local, yield_now},
};

use super::*;

#[allow(clippy::disallowed_methods, reason = "the tests own their tasks by the LocalSet they run in")]
async fn with_lane<F: Future>(test: impl FnOnce(FairQueue) -> F) -> F::Output {
    let run = async {
        let (fair_queue, driver) = fair_queue(Backlog::default());
        let driven = spawn_local(driver);
        let done = test(fair_queue).await;
        // The driver ends with the last of its tasks, and not before.
        driven.await.unwrap();
        done
    };
    LocalSet::new().run_until(run).await
}

/// Joins the ready queue again at once. tokio's `yield_now` would wait until the runtime has looked at its sockets.
async fn stand_in_line() {
    let mut stood = false;
    std::future::poll_fn(move |cx| {
        if std::mem::replace(&mut stood, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[tokio::test]
async fn all_work_is_done_and_then_the_lane_ends() {
    let done = Rc::new(Cell::new(0));
    let told = done.clone();
    with_lane(|fair_queue| async move {
        for turns in 0..100 {
            let told = told.clone();
            fair_queue.put(async move {
                for _ in 0..turns % 7 {
                    yield_now().await;
                }
                told.set(told.get() + 1);
            });
        }
    })
    .await;
    assert_eq!(done.get(), 100);
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "the tests own their tasks by the LocalSet they run in")]
async fn a_crowd_on_one_lane_leaves_others_their_turns() {
    let backlog = Rc::new(Cell::new(0));
    let steps = backlog.clone();
    with_lane(|fair_queue| async move {
        for _ in 0..50 {
            let steps = steps.clone();
            fair_queue.put(async move {
                for _ in 0..20 {
                    steps.set(steps.get() + 1);
                    stand_in_line().await;
                }
            });
        }
        // This task runs beside the fair queue: the fair queue takes one turn between two turns of the task.
        let beside = spawn_local(async move {
            let mut longest = 0;
            for _ in 0..100 {
                let before = steps.get();
                stand_in_line().await;
                longest = longest.max(steps.get() - before);
            }
            longest
        });
        let longest = beside.await.unwrap();
        assert!((1..=STEPS_PER_TURN).contains(&longest), "{longest} steps between two turns of another task");
    })
    .await;
    assert_eq!(backlog.get(), 1000);
}

/// Polls the driver once, as the runtime would.
fn turn(driver: &mut Driver) -> Poll<()> {
    Pin::new(driver).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_crowd_is_there_while_somebody_waits_for_the_next_turn() {
    let backlog = Backlog::default();
    let (held, mut driver) = fair_queue(backlog.clone());
    for _ in 0..STEPS_PER_TURN {
        held.put(async {});
    }
    assert!(turn(&mut driver).is_pending());
    assert!(!backlog.is_there(), "all of them have had their turn");
    for _ in 0..=STEPS_PER_TURN {
        held.put(async {});
    }
    assert!(turn(&mut driver).is_pending());
    assert!(backlog.is_there(), "one is left");
    assert!(turn(&mut driver).is_pending());
    assert!(!backlog.is_there());
}

#[test]
fn patience_is_with_a_crowd_only_and_has_an_end() {
    let backlog = Backlog::default();
    let mut flush_delay = backlog.flush_delay();
    assert!(!flush_delay.waits());
    let (held, mut driver) = fair_queue(backlog);
    for _ in 0..=STEPS_PER_TURN {
        held.put(std::future::pending());
    }
    assert!(turn(&mut driver).is_pending());
    while flush_delay.waits() {
        std::thread::yield_now();
    }
    assert!(turn(&mut driver).is_pending());
    assert!(!flush_delay.waits(), "the crowd is gone");
}

#[test]
fn a_lane_that_ends_leaves_no_crowd_behind() {
    let backlog = Backlog::default();
    let (held, mut driver) = fair_queue(backlog.clone());
    for _ in 0..=STEPS_PER_TURN {
        held.put(std::future::pending());
    }
    assert!(turn(&mut driver).is_pending());
    assert!(backlog.is_there());
    drop(driver);
    assert!(!backlog.is_there());
}

#[tokio::test]
async fn members_are_woken_from_other_threads_and_from_each_other() {
    let (from_outside, outside) = oneshot::channel();
    let heard = with_lane(|fair_queue| async move {
        let notify = Rc::new(Notify::new());
        let (tell, heard) = oneshot::channel();
        let notified = notify.clone();
        fair_queue.put(async move {
            notified.notified().await;
            tell.send("heard").unwrap();
        });
        fair_queue.put(async move {
            outside.await.unwrap();
            notify.notify_one();
        });
        std::thread::spawn(move || from_outside.send(()).unwrap());
        heard.await.unwrap()
    })
    .await;
    assert_eq!(heard, "heard");
}

#[tokio::test]
async fn a_wake_after_the_end_is_of_no_concern() {
    let kept = Rc::new(RefCell::new(None));
    let keeps = kept.clone();
    with_lane(|fair_queue| async move {
        fair_queue.put(std::future::poll_fn(move |cx| {
            *keeps.borrow_mut() = Some(cx.waker().clone());
            Poll::Ready(())
        }));
        yield_now().await;
        yield_now().await;
        let waker: Waker = kept.borrow_mut().take().unwrap();
        waker.wake_by_ref();
        // Another task has the key of the ended task by now. A wake-up too many does not harm that task.
        fair_queue.put(async { yield_now().await });
        waker.wake();
    })
    .await;
}

#[tokio::test]
async fn what_is_on_a_lane_ends_with_it() {
    let (held, driver) = fair_queue(Backlog::default());
    let (alive, gone) = oneshot::channel::<()>();
    held.put(async move {
        let _alive = alive;
        std::future::pending::<()>().await;
    });
    drop(driver);
    drop(held);
    assert!(gone.await.is_err());
}

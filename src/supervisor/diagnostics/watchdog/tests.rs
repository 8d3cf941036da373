use std::cell::{Cell, RefCell};

use tokio::time::{advance, sleep};

use super::*;

const LIMIT: Duration = Duration::from_millis(500);
const MS: Duration = Duration::from_millis(1);

/// Runs `work` beside the watchdog, and gives what was found to hang.
async fn found(
    watchdog: &Watchdog<&'static str>,
    work: impl Future<Output = ()>,
) -> Vec<(&'static str, Duration)> {
    let found = RefCell::new(Vec::new());
    tokio::select! {
        biased;
        () = watchdog.watch(|subject, time| found.borrow_mut().push((*subject, time))) => {}
        () = work => {}
    }
    found.into_inner()
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_found_once_it_has_run_for_its_limit_and_not_before() {
    let watchdog = Watchdog::default();
    for (runs, expected) in
        [(499, vec![]), (501, vec![("a", LIMIT)]), (751, vec![("a", LIMIT), ("a", LIMIT * 3 / 2)])]
    {
        let work = async {
            let _watched = watchdog.enter("a", LIMIT);
            sleep(runs * MS).await;
        };
        assert_eq!(found(&watchdog, work).await, expected, "{runs} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_begins_between_two_looks_is_found_within_a_look_of_its_limit() {
    let watchdog = Watchdog::default();
    let work = async {
        let _other = watchdog.enter("patient", 100 * LIMIT);
        sleep(100 * MS).await;
        let _watched = watchdog.enter("a", LIMIT);
        sleep(LIMIT + WATCHDOG_INTERVAL).await;
    };
    let began = tokio::time::Instant::now();
    let at = Cell::new(None);
    tokio::select! {
        () = watchdog.watch(|_, _| at.set(at.get().or(Some(began.elapsed())))) => {}
        () = work => {}
    }
    assert_eq!(at.into_inner(), Some(750 * MS));
}

#[tokio::test(start_paused = true)]
async fn short_handlers_in_a_row_are_never_one_long_one() {
    let watchdog = Watchdog::default();
    let work = async {
        for _ in 0..100 {
            let _watched = watchdog.enter("a", LIMIT);
            sleep(LIMIT - MS).await;
        }
    };
    assert_eq!(found(&watchdog, work).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_handler_does_not_hang_because_the_machine_stood_still() {
    let watchdog = Watchdog::default();
    let work = async {
        let _watched = watchdog.enter("a", LIMIT);
        sleep(100 * MS).await;
        advance(100 * LIMIT).await;
        sleep(100 * MS).await;
    };
    assert_eq!(found(&watchdog, work).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_watchdog_that_died_is_replaced_by_one_that_sees_what_runs() {
    let watchdog = Watchdog::default();
    let _watched = watchdog.enter("a", LIMIT);
    assert_eq!(found(&watchdog, sleep(LIMIT - MS)).await, []);
    assert_eq!(found(&watchdog, sleep(WATCHDOG_INTERVAL + MS)).await, [("a", LIMIT)]);
}

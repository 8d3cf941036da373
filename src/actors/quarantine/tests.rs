use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const NO_JITTER: Backoff = Backoff { first: SECOND, cap: Duration::from_secs(4), jitter: 0.0 };

fn input(name: &str, digest: u64) -> Input<'_> {
    Input { kind: "peer", name, digest }
}

#[test]
fn the_second_crash_sets_aside_with_growing_delays_and_another_content_is_another_input() {
    let (mut ledger, mut rng, start) = (Ledger::default(), SmallRng::seed_from_u64(1), Instant::now());
    let a = input("a", 1);
    assert_eq!(ledger.crashed(&a, start, &NO_JITTER, &mut rng), None);
    assert_eq!(ledger.admit(&a, start), Ok(()));
    for (crashes, delay) in [(2, 1), (3, 2), (4, 4), (5, 4)] {
        assert_eq!(ledger.crashed(&a, start, &NO_JITTER, &mut rng), Some(SECOND * delay));
        let aside = InQuarantine { crashes, retry_in: SECOND * delay };
        assert_eq!(ledger.admit(&a, start), Err(aside));
        assert_eq!(ledger.admit(&a, start + SECOND * delay), Ok(()), "it is tried again");
    }
    assert_eq!(ledger.list(start).len(), 1);
    assert_eq!(ledger.admit(&input("b", 1), start), Ok(()), "nobody else suffers");
    assert_eq!(ledger.admit(&input("a", 2), start), Ok(()), "a mended input is tried at once");
    assert_eq!(ledger.admit(&a, start), Ok(()));
}

#[test]
fn a_single_crash_is_forgotten_in_time_and_the_books_have_a_bound() {
    let (mut ledger, mut rng, start) = (Ledger::default(), SmallRng::seed_from_u64(1), Instant::now());
    ledger.crashed(&input("a", 1), start, &NO_JITTER, &mut rng);
    assert_eq!(ledger.admit(&input("a", 1), start + CRASH_FORGOTTEN_AFTER), Ok(()));
    assert!(ledger.entries.is_empty());
    for _ in 0..2 {
        ledger.crashed(&input("aside", 1), start, &NO_JITTER, &mut rng);
    }
    for n in 0..MAX_INPUTS + 5 {
        ledger.crashed(&input(&n.to_string(), 1), start + SECOND, &NO_JITTER, &mut rng);
    }
    assert_eq!(ledger.entries.len(), MAX_INPUTS);
    assert!(ledger.admit(&input("aside", 1), start).is_err(), "what is quarantined goes last");
}

#[tokio::test(start_paused = true)]
async fn a_panic_through_the_guard_counts_and_nothing_else_does() {
    let quarantine = Quarantine::new(NO_JITTER);
    let changed = quarantine.changed();
    let crash = || {
        let handle = || {
            let _guard = quarantine.enter(input("a", 1)).expect("it is not quarantined").guard();
            panic!("bad input");
        };
        assert!(catch_unwind(AssertUnwindSafe(handle)).is_err());
    };
    drop(quarantine.enter(input("a", 1)).expect("it is new").guard());
    assert!(!changed.has_changed().unwrap());
    crash();
    assert_eq!(quarantine.list(), []);
    crash();
    let text = quarantine.enter(input("a", 1)).err().unwrap().to_string();
    assert_eq!(text, "quarantined: crashed its handler 2 times; next try in 1 s");
    assert_eq!(quarantine.list().len(), 1);
    tokio::time::advance(SECOND).await;
    quarantine.enter(input("a", 1)).expect("its time has come").done();
    assert_eq!(quarantine.list(), [], "forgiven");
    crash();
    assert!(quarantine.check(&input("a", 1)).is_ok(), "and counted anew");
}

#[tokio::test]
async fn a_future_is_watched_step_by_step_and_one_that_is_dropped_is_no_crash() {
    let quarantine = Quarantine::default();
    for _ in 0..2 {
        let admitted = quarantine.enter(input("a", 1)).expect("it is not quarantined");
        let work = async {
            tokio::task::yield_now().await;
            panic!("bad input");
        };
        assert_eq!(
            crate::supervisor::watch_panics(admitted.watch(work)).await,
            Err::<(), _>("bad input".into())
        );
        // The panic of another input drops a future that is not being polled.
        let waiting = quarantine
            .enter(input("b", 1))
            .expect("it is not quarantined")
            .watch(std::future::pending::<()>());
        let other = || {
            let _waiting = waiting;
            panic!("somebody else");
        };
        assert!(catch_unwind(AssertUnwindSafe(other)).is_err());
    }
    assert!(quarantine.enter(input("a", 1)).is_err());
    assert!(quarantine.enter(input("b", 1)).is_ok());
}

#[test]
fn an_armed_input_panics_where_it_is_handled() {
    let quarantine = Quarantine::default();
    let name = "quarantine/test/of/an/armed/input";
    faults::arm(name, 2).expect("room");
    for _ in 0..2 {
        assert!(
            catch_unwind(AssertUnwindSafe(|| drop(
                quarantine.enter(input(name, 1)).map(AdmittedInput::guard)
            )))
            .is_err()
        );
    }
    assert!(quarantine.enter(input(name, 1)).is_err());
    drop(quarantine.enter(input("quarantine/test", 1)).expect("another name").guard());
}

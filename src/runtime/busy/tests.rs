use super::*;

#[test]
fn a_few_polls_are_timed_and_count_for_all() {
    let busy = AtomicU64::new(0);
    let timed = (0..64_000).filter(|_| Timed::begin(&busy).since.is_some()).count();
    assert!((500..2000).contains(&timed), "{timed}");
    assert!(busy.load(Ordering::Relaxed) > 0);
}

#[test]
fn polls_within_a_poll_are_not_timed_again_and_a_panic_leaves_no_trace() {
    let (outer, inner) = (AtomicU64::new(0), AtomicU64::new(0));
    for _ in 0..10_000 {
        let _outer = Timed::begin(&outer);
        let within = Timed::begin(&inner);
        assert!(within.since.is_none() && !within.is_outer);
    }
    assert_eq!(inner.load(Ordering::Relaxed), 0);
    let panicked = std::panic::catch_unwind(|| {
        let _timed = Timed::begin(&outer);
        panic!("a connection's task");
    });
    assert!(panicked.is_err() && Timed::begin(&inner).is_outer);
}

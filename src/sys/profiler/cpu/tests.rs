#![allow(clippy::unwrap_used)]

use std::{hint::black_box, thread};

use super::{super::symbols::Symbols, *};

/// Uses processor time until `done`.
#[inline(never)]
fn known_function(done: &AtomicBool) -> u64 {
    let mut sum = 0_u64;
    while !done.load(Relaxed) {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(7));
    }
    sum
}

/// Profiles of this process are taken one at a time, and so are their tests.
static TURN: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

#[test]
fn a_busy_function_is_found_on_its_thread_and_a_second_profile_is_refused_meanwhile() {
    let _turn = TURN.lock();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let busy = thread::Builder::new().name("busy".to_owned());
        busy.spawn_scoped(scope, || known_function(&done)).unwrap();
        let mut profiler = CpuProfiler::start(1000).unwrap();
        assert!(matches!(CpuProfiler::start(100), Err(CpuProfileError::Busy)));
        // The kernel decides how soon samples come: what counts is that they do.
        while profiler.counts.values().sum::<u64>() < 50 {
            thread::park_timeout(DRAIN_INTERVAL);
            profiler.drain();
        }
        done.store(true, Relaxed);
        let profile = profiler.finish();
        let symbols = Symbols::new();
        let name = |address: &usize| symbols.resolve(*address).into_iter().map(|function| function.name);
        let is_known = |stack: &&SampledStack| {
            stack.thread == "busy"
                && stack.addresses.iter().flat_map(name).any(|name| name.ends_with("known_function"))
        };
        let found: u64 = profile.stacks.iter().filter(is_known).map(|stack| stack.count).sum();
        assert!(found > 0, "{profile:?}");
        assert!(profile.used > Duration::ZERO && profile.lost == 0, "{profile:?}");
    });
    // It can be taken again once it is done.
    drop(CpuProfiler::start(100).unwrap());
    assert!(RING.load(SeqCst).is_null());
}

#[test]
fn a_ring_that_nobody_empties_loses_samples_and_counts_them() {
    let ring = Ring::new();
    for _ in 0..RING_SLOTS + 3 {
        ring.note(0);
    }
    assert_eq!(ring.lost.load(Relaxed), 3);
    assert!(ring.slots.iter().all(|slot| slot.depth.load(Relaxed) == 1));
}

#![allow(clippy::unwrap_used)]

use std::alloc::System;

use super::*;

const BLOCK: Layout = Layout::new::<[u64; 8192]>();

#[inline(never)]
fn known_allocation(heap: &SampledHeap<System>) -> *mut u8 {
    // SAFETY: the size is not zero.
    unsafe { heap.alloc(BLOCK) }
}

/// The bytes of a profile, by what its samples stand for.
fn bytes(profile: &HeapProfile) -> f64 {
    let sizes = profile.stacks.values().flatten();
    sizes.map(|size| crate::protocols::pprof::stands_for(*size, HEAP_PERIOD).1).sum()
}

#[test]
fn what_is_in_use_is_found_and_what_was_freed_or_moved_is_not() {
    assert!(matches!(profile(), Err(HeapProfileError::Inactive)));
    let heap = SampledHeap::new(System);
    // Nothing is noted while it is off.
    let early = known_allocation(&heap);
    begin();
    let mut blocks: Vec<*mut u8> = (0..2000).map(|_| known_allocation(&heap)).collect();
    let found = profile().unwrap();
    let (noted, total) = (found.stacks.values().map(Vec::len).sum::<usize>(), 2000.0 * BLOCK.size() as f64);
    // 125 MiB in steps of 512 KiB: 250 samples, give or take. The bounds are ten deviations wide.
    assert!((90..410).contains(&noted), "{noted}");
    assert!((0.36..1.64).contains(&(bytes(&found) / total)), "{} of {total}", bytes(&found));
    let symbols = super::super::symbols::Symbols::new();
    let names = |stack: &Arc<[usize]>| {
        let functions = stack.iter().flat_map(|address| symbols.resolve(*address));
        functions.map(|function| function.name).collect::<Vec<_>>()
    };
    let known = |names: &Vec<String>| names.iter().any(|name| name.ends_with("known_allocation"));
    assert!(found.stacks.keys().map(names).all(|names| known(&names)));
    // A block that moves is noted where it is, if at all.
    for block in &mut blocks {
        // SAFETY: each block is of this allocator and layout.
        *block = unsafe { heap.realloc(*block, BLOCK, BLOCK.size() * 2) };
    }
    let moved = profile().unwrap();
    assert!((0.36..1.64).contains(&(bytes(&moved) / total / 2.0)), "{}", bytes(&moved));
    let larger = Layout::from_size_align(BLOCK.size() * 2, BLOCK.align()).unwrap();
    for block in blocks {
        // SAFETY: as above.
        unsafe { heap.dealloc(block, larger) };
    }
    // SAFETY: as above. It was not noted.
    unsafe { heap.dealloc(early, BLOCK) };
    assert!(profile().unwrap().stacks.is_empty());
    assert!(FILTER.iter().all(|counter| counter.load(Relaxed) == 0));
    end();
    assert!(!is_active() && matches!(profile(), Err(HeapProfileError::Inactive)));
    // The tests have the system's allocator. What `heap` showed is forgotten here.
    SEEN.store(false, Relaxed);
    assert!(matches!(activate(true), Err(HeapProfileError::Unsupported)));
    assert!(!is_active());
    assert!(NOTED.lock().is_none());
}

#[test]
fn the_distance_of_samples_is_the_period_in_the_mean() {
    let mut sampling = Sampling { left: 0, chance: 0, within: false };
    sampling.seed();
    let drawn = 100_000;
    let sum: f64 = (0..drawn).map(|_| sampling.draw() as f64).sum();
    let mean = sum / f64::from(drawn) / HEAP_PERIOD as f64;
    assert!((0.97..1.03).contains(&mean), "{mean}");
}

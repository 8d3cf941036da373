//! The counters that a bounded family keeps for one label set.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{
    declaration::{Declaration, Kind},
    sample::{Buckets, Value},
};

/// The counters of one label set.
pub(crate) trait Cell: Send + Sync + 'static {
    /// The numbers at zero, for a set of these families.
    fn new(declarations: &[&Declaration]) -> Self;

    /// The total counted so far. A set whose total stands still is idle. `None` while the set is still in use.
    fn counted(&self) -> Option<u64>;

    /// The samples of one of the family's declarations. The first argument is a label value that the cell itself knows,
    /// and its place among the declaration's labels.
    fn samples(&self, declaration: &Declaration, emit: &mut dyn FnMut(Option<(usize, &'static str)>, Value));
}

/// A counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

/// A histogram of times.
#[derive(Debug)]
pub(crate) struct Timer {
    bounds: &'static [f64],
    /// The number of times in each bucket: above the bound before it and up to its own; the last bucket has no bound.
    buckets: Box<[AtomicU64]>,
    nanos: AtomicU64,
}

// === impl Counter ===

impl Counter {
    /// Adds `by` to the counter.
    pub(crate) fn add(&self, by: u64) {
        self.0.fetch_add(by, Relaxed);
    }
}

impl Cell for Counter {
    fn new(_: &[&Declaration]) -> Self {
        Self::default()
    }

    fn counted(&self) -> Option<u64> {
        Some(self.0.load(Relaxed))
    }

    fn samples(&self, _: &Declaration, emit: &mut dyn FnMut(Option<(usize, &'static str)>, Value)) {
        emit(None, Value::Count(self.0.load(Relaxed)));
    }
}

// === impl Timer ===

impl Timer {
    /// Counts one time.
    pub(crate) fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Relaxed);
        }
        self.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

impl Cell for Timer {
    fn new(declarations: &[&Declaration]) -> Self {
        let bounds = |declaration: &&Declaration| match declaration.kind {
            Kind::Histogram(bounds) => Some(bounds),
            Kind::Counter | Kind::Gauge => None,
        };
        let bounds = declarations.iter().find_map(bounds).unwrap_or_default();
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, nanos: AtomicU64::new(0) }
    }

    fn counted(&self) -> Option<u64> {
        Some(self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum())
    }

    fn samples(&self, _: &Declaration, emit: &mut dyn FnMut(Option<(usize, &'static str)>, Value)) {
        let mut count = 0;
        let mut up_to = Vec::with_capacity(self.bounds.len());
        for (at, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Relaxed);
            up_to.extend(self.bounds.get(at).map(|bound| (*bound, count)));
        }
        let sum = Duration::from_nanos(self.nanos.load(Relaxed)).as_secs_f64();
        emit(None, Value::Histogram(Buckets { up_to, count, sum, exemplars: Vec::new() }));
    }
}

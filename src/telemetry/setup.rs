//! How long the steps take that set a connection up. Each shard counts by itself, and a scrape adds the shards up.

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use super::series::{
    Buckets, Declaration, Exemplar, Group, Labels, Sample, Sampled, SetLabels, Value,
    declared::{SETUP, SETUP_BOUNDS},
};

/// Limit: shards that count steps by themselves: 32; past it: shards share counters.
const SLOTS: usize = 32;

/// A step of setting a connection up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupStep {
    /// From the capture of the connection to its first route, the wait for the pod's workload included.
    Route,
    /// The wait for the pod's certificate, where none was held.
    Certificate,
    /// The wait for a tunnel, where none was open, or a TCP connect without a tunnel.
    Dial,
    /// From the CONNECT to its answer.
    Connect,
    /// The connect to the application, at the destination.
    Application,
}

/// The times of all steps.
#[derive(Debug)]
pub struct SetupMetrics(Arc<Slots>);

#[derive(Debug)]
struct Slots(Box<[Slot]>);

/// The counts of one shard. Slots do not share cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Slot([StepCounts; SetupStep::ALL.len()]);

#[derive(Debug, Default)]
struct StepCounts {
    /// The number of times in each bucket: above the bound before it and up to its own; the last bucket has no bound.
    buckets: [AtomicU64; SETUP_BOUNDS.len() + 1],
    nanos: AtomicU64,
    /// The last observation of each bucket whose trace is known. The lock is taken only where traces are exported.
    exemplars: Mutex<[Option<Exemplar>; SETUP_BOUNDS.len() + 1]>,
}

// === impl SetupStep ===

impl SetupStep {
    /// All steps, in the order in which they are made.
    pub const ALL: [Self; 5] = [Self::Route, Self::Certificate, Self::Dial, Self::Connect, Self::Application];

    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Certificate => "certificate",
            Self::Dial => "dial",
            Self::Connect => "connect",
            Self::Application => "application",
        }
    }
}

// === impl SetupMetrics ===

impl Default for SetupMetrics {
    fn default() -> Self {
        Self(Arc::new(Slots((0..SLOTS).map(|_| Slot::default()).collect())))
    }
}

impl SetupMetrics {
    /// Counts the time of a step on a shard, with its trace where traces are exported.
    pub fn observe(&self, shard: usize, step: SetupStep, time: Duration, trace: Option<u128>) {
        let slot = self.0.0.get(shard % SLOTS).and_then(|slot| slot.0.get(step as usize));
        let Some(counts) = slot else { return };
        let at = SETUP_BOUNDS.partition_point(|bound| *bound < time.as_secs_f64());
        if let Some(bucket) = counts.buckets.get(at) {
            bucket.fetch_add(1, Relaxed);
        }
        counts.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        if let Some(trace) = trace {
            counts.keep(at, Exemplar { trace, value: time.as_secs_f64(), at: SystemTime::now() });
        }
    }

    /// The series that are kept.
    pub(super) fn group(&self) -> Group {
        Group { declarations: &[SETUP], sets: vec![self.0.clone()] }
    }
}

impl Sampled for Slots {
    fn samples(&self, declaration: &Declaration, emit: &mut dyn FnMut(&Sample<'_>)) {
        for step in SetupStep::ALL {
            let buckets = self.buckets(step);
            if buckets.count > 0 {
                let values = step.as_str().as_bytes();
                let labels = Labels::Set(SetLabels { names: declaration.labels, values, inserted: None });
                emit(&Sample { labels, value: Value::Histogram(buckets) });
            }
        }
    }
}

impl Slots {
    /// The counts of a step on all shards.
    fn buckets(&self, step: SetupStep) -> Buckets {
        let counts = || self.0.iter().filter_map(|slot| slot.0.get(step as usize));
        let in_bucket = |at: usize| -> u64 {
            counts().filter_map(|counts| counts.buckets.get(at)).map(|bucket| bucket.load(Relaxed)).sum()
        };
        let mut count = 0;
        let mut up_to = Vec::with_capacity(SETUP_BOUNDS.len());
        for (at, bound) in SETUP_BOUNDS.into_iter().enumerate() {
            count += in_bucket(at);
            up_to.push((bound, count));
        }
        count += in_bucket(SETUP_BOUNDS.len());
        let nanos = counts().map(|counts| counts.nanos.load(Relaxed)).fold(0, u64::saturating_add);
        // Of the shards' observations of a bucket the last one is shown.
        let last = |at: usize| {
            let of = |counts: &StepCounts| counts.exemplars.lock().get(at).copied().flatten();
            counts().filter_map(of).max_by_key(|exemplar| exemplar.at)
        };
        let exemplars = (0..=SETUP_BOUNDS.len()).map(last).collect();
        Buckets { up_to, count, sum: Duration::from_nanos(nanos).as_secs_f64(), exemplars }
    }
}

// === impl StepCounts ===

impl StepCounts {
    fn keep(&self, at: usize, exemplar: Exemplar) {
        if let Some(kept) = self.exemplars.lock().get_mut(at) {
            *kept = Some(exemplar);
        }
    }
}

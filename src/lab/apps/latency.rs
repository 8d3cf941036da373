//! A histogram of answer times that takes fixed memory.

use std::{fmt, time::Duration};

/// The number of buckets for each doubling: values are kept to about 1.5 %.
const STEPS: u64 = 64;
const DOUBLINGS: u64 = 40;

/// A histogram of durations from a microsecond to days.
#[derive(Clone)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    slowest: Duration,
}

// === impl Latencies ===

impl Latencies {
    /// An empty histogram.
    pub fn new() -> Self {
        let buckets = usize::try_from(STEPS * DOUBLINGS).unwrap_or(0);
        Self { buckets: vec![0; buckets], count: 0, slowest: Duration::ZERO }
    }

    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let last = self.buckets.len().saturating_sub(1);
        let index = usize::try_from(index(micros)).unwrap_or(last).min(last);
        if let Some(bucket) = self.buckets.get_mut(index) {
            *bucket += 1;
        }
        self.count += 1;
        self.slowest = self.slowest.max(latency);
    }

    /// Adds the latencies of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.slowest = self.slowest.max(other.slowest);
    }

    /// The number of latencies.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The slowest latency, exactly.
    pub fn slowest(&self) -> Duration {
        self.slowest
    }

    /// The latency that `percent` % do not exceed, rounded up to the bucket's end; zero if the histogram is empty.
    pub fn percentile(&self, percent: f64) -> Duration {
        let wanted = (self.count as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_micros(end(index as u64)).min(self.slowest);
            }
        }
        self.slowest
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99, p999) = (self.percentile(50.0), self.percentile(99.0), self.percentile(99.9));
        write!(f, "{} (p50 {p50:?}, p99 {p99:?}, p99.9 {p999:?}, max {:?})", self.count, self.slowest)
    }
}

/// The bucket of a value. Each value below [`STEPS`] has its own bucket; above, each doubling has [`STEPS`] buckets.
fn index(micros: u64) -> u64 {
    let doublings = u64::from((micros / STEPS).checked_ilog2().map_or(0, |log| log + 1));
    if doublings == 0 { micros } else { doublings * STEPS + (micros >> (doublings - 1)) - STEPS }
}

/// The highest value of a bucket.
fn end(index: u64) -> u64 {
    let (doublings, step) = (index / STEPS, index % STEPS);
    if doublings == 0 { step } else { ((STEPS + step + 1) << (doublings - 1)) - 1 }
}

#[cfg(test)]
mod tests;

//! The longest time that each stream stood still in each of several windows of time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::lab::apps::Latencies;

/// Windows of time, such as the upgrades of a run, and calm ones to compare them with. A clone is the same windows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Windows(Arc<AtomicU64>);

/// What one stream has felt in each window.
#[derive(Debug)]
pub(super) struct Meter {
    windows: Windows,
    /// The window of `longest`.
    window: u64,
    longest: Duration,
    stalls: Latencies,
    calm: Latencies,
}

/// The beginning of a time in which a stream waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    since: Instant,
    period: u64,
}

// === impl Windows ===

impl Windows {
    /// Opens the next window.
    pub(crate) fn open(&self) {
        self.0.store(self.period() | 3, Relaxed);
    }

    /// Opens the next window in which nothing is done.
    pub(crate) fn open_calm(&self) {
        self.0.store(self.period().div_ceil(4) * 4 + 1, Relaxed);
    }

    /// Closes the window that is open.
    pub(crate) fn close(&self) {
        self.0.fetch_add(self.0.load(Relaxed) & 1, Relaxed);
    }

    /// The number of the period: even between two windows, and of the odd ones every other is calm.
    fn period(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

// === impl Meter ===

impl Meter {
    pub(super) fn new(windows: &Windows) -> Self {
        Self {
            windows: windows.clone(),
            window: 0,
            longest: Duration::ZERO,
            stalls: Latencies::new(),
            calm: Latencies::new(),
        }
    }

    /// The stream waits from now on.
    pub(super) fn begin(&self) -> Wait {
        Wait { since: Instant::now(), period: self.windows.period() }
    }

    /// The stream goes on.
    pub(super) fn end(&mut self, wait: Wait) {
        self.note(wait, self.windows.period(), wait.since.elapsed());
    }

    /// The stalls so far: the longest one of each window in which the stream has waited, and of each calm window.
    pub(super) fn finish(mut self) -> [Latencies; 2] {
        self.flush();
        [self.stalls, self.calm]
    }

    fn note(&mut self, wait: Wait, now: u64, waited: Duration) {
        // The last window that has begun.
        let window = now.saturating_sub(1) | 1;
        if window < wait.period || now == 0 {
            return;
        }
        if window != self.window {
            self.flush();
            self.window = window;
        }
        self.longest = self.longest.max(waited);
    }

    fn flush(&mut self) {
        let longest = std::mem::take(&mut self.longest);
        match std::mem::take(&mut self.window) {
            0 => {}
            calm if calm % 4 == 1 => self.calm.record(longest),
            _ => self.stalls.record(longest),
        }
    }
}

#[cfg(test)]
mod tests;

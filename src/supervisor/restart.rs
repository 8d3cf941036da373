//! Which exits of a child ask for a restart, of whom, how often and how soon. Pure: time and chance are arguments.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rand::Rng;

/// Which exits of a child ask for a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Every exit.
    Permanent,
    /// Every exit but a normal one.
    Transient,
    /// None; not even when a sibling's restart has stopped it.
    Temporary,
}

/// Which siblings are restarted with a failed child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// None.
    OneForOne,
    /// All.
    OneForAll,
    /// Those started after it, as they may build on it.
    RestForOne,
}

/// How many restarts are tolerated: one more than `restarts` in a span of `within`, and the supervisor gives up.
///
/// Intensities multiply down a tree (each level retries what the one below gave up on), so keep them low.
/// Limit: restarts of the children of a supervisor: 3 in 60 s unless the supervisor says otherwise; past it: the
/// supervisor fails, and a dynamic child goes into quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// Restarts that are fine.
    pub restarts: u32,
    /// The sliding span they are counted in. A child that stays up as long is forgiven its back-off.
    pub within: Duration,
}

/// How long to wait before a restart: doubling from `first` to `cap`, spread by `jitter`.
/// Limit: pause before a restart: 100 ms, doubled to 30 s, spread by 20 %; past it: the pause stays at 30 s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Delay after the first failure.
    pub first: Duration,
    /// No delay is longer, but for the jitter.
    pub cap: Duration,
    /// Share of the delay that chance adds or takes: 0.2 is ±20 %. Clamped to 0..=1.
    pub jitter: f64,
}

/// The failures of the recent past, held against an [`Intensity`].
#[derive(Debug, Clone)]
pub(super) struct Window {
    limit: Intensity,
    recent: VecDeque<Instant>,
}

/// The growing delays of one child.
#[derive(Debug, Clone)]
pub(super) struct Delays {
    backoff: Backoff,
    failures: u32,
}

// === impl Restart ===

impl Restart {
    /// Whether an exit asks for a restart.
    pub(super) fn applies(self, normal_exit: bool) -> bool {
        match self {
            Self::Permanent => true,
            Self::Transient => !normal_exit,
            Self::Temporary => false,
        }
    }
}

// === impl Intensity ===

impl Default for Intensity {
    /// Three restarts a minute.
    fn default() -> Self {
        Self { restarts: 3, within: Duration::from_secs(60) }
    }
}

// === impl Backoff ===

impl Default for Backoff {
    /// 100 ms, doubling to 30 s, ±20 %.
    fn default() -> Self {
        Self { first: Duration::from_millis(100), cap: Duration::from_secs(30), jitter: 0.2 }
    }
}

impl Backoff {
    /// The delay after `failures` earlier failures in a row.
    pub fn delay(&self, failures: u32, rng: &mut impl Rng) -> Duration {
        let delay = self.first.saturating_mul(2u32.saturating_pow(failures)).min(self.cap);
        let spread = if self.jitter.is_finite() { self.jitter.clamp(0.0, 1.0) } else { 0.0 };
        let factor = 1.0 + spread * (2.0 * rng.random::<f64>() - 1.0);
        Duration::try_from_secs_f64(delay.as_secs_f64() * factor).unwrap_or(delay)
    }
}

// === impl Window ===

impl Window {
    pub(super) fn new(limit: Intensity) -> Self {
        Self { limit, recent: VecDeque::new() }
    }

    /// Counts a failure. False: it is one more than the limit allows.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        let old = |at: &Instant| now.saturating_duration_since(*at) >= self.limit.within;
        while self.recent.front().is_some_and(old) {
            self.recent.pop_front();
        }
        let admitted = self.recent.len() < self.limit.restarts as usize;
        if admitted {
            self.recent.push_back(now);
        }
        admitted
    }

    pub(super) fn clear(&mut self) {
        self.recent.clear();
    }
}

// === impl Delays ===

impl Delays {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self { backoff, failures: 0 }
    }

    /// The delay to wait now; the next one is longer.
    pub(super) fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let delay = self.backoff.delay(self.failures, rng);
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Whether a delay was asked for since the last reset.
    pub(super) fn started(&self) -> bool {
        self.failures > 0
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests;

//! How often and how soon a child is started again. Pure: time and chance are arguments.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rand::Rng;

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
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_restart_past_the_limit_is_refused_until_the_oldest_is_forgotten() {
        let limit = Intensity { restarts: 2, within: 10 * SECOND };
        let start = Instant::now();
        let table =
            [(0, true), (1, true), (2, false), (9, false), (10, true), (10, false), (11, true), (12, false)];
        let mut window = Window::new(limit);
        for (at, admitted) in table {
            assert_eq!(window.admits(start + at * SECOND), admitted, "at {at} s");
        }
    }

    #[test]
    fn an_intensity_of_zero_tolerates_nothing() {
        let mut window = Window::new(Intensity { restarts: 0, within: SECOND });
        assert!(!window.admits(Instant::now()));
    }

    #[test]
    fn delays_double_up_to_the_cap_and_start_over_after_a_reset() {
        let backoff = Backoff { first: SECOND, cap: 5 * SECOND, jitter: 0.0 };
        let mut rng = SmallRng::seed_from_u64(1);
        let mut delays = Delays::new(backoff);
        let first: Vec<_> = (0..5).map(|_| delays.next(&mut rng).as_secs()).collect();
        assert_eq!(first, [1, 2, 4, 5, 5]);
        delays.reset();
        assert_eq!(delays.next(&mut rng), SECOND);
    }

    proptest! {
        #[test]
        fn no_delay_leaves_the_jitter_band(
            first in 0u64..=u64::MAX, cap in 0u64..=u64::MAX, jitter in prop::num::f64::ANY,
            failures in any::<u32>(), seed in any::<u64>(),
        ) {
            let backoff = Backoff { first: Duration::from_millis(first), cap: Duration::from_millis(cap), jitter };
            let delay = backoff.delay(failures, &mut SmallRng::seed_from_u64(seed));
            prop_assert!(delay.as_secs_f64() <= backoff.cap.as_secs_f64() * 2.0 + 1e-9);
            if jitter == 0.0 && failures == 0 {
                prop_assert!(delay.abs_diff(backoff.first.min(backoff.cap)).as_secs_f64() <= 1e-6 * delay.as_secs_f64());
            }
        }

        #[test]
        fn no_window_of_the_span_holds_more_than_the_limit(
            restarts in 0u32..5, gaps in prop::collection::vec(0u64..30, 0..60),
        ) {
            let limit = Intensity { restarts, within: 20 * SECOND };
            let mut window = Window::new(limit);
            let mut now = Instant::now();
            let mut admitted: Vec<Instant> = Vec::new();
            for gap in gaps {
                now += Duration::from_secs(gap);
                if window.admits(now) {
                    admitted.push(now);
                }
                let inside = admitted.iter().filter(|at| now.duration_since(**at) < limit.within).count();
                prop_assert!(inside <= restarts as usize);
            }
        }
    }
}

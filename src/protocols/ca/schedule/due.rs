//! The waits of the schedule, measured on two clocks.

use std::time::{Duration, Instant, SystemTime};

use rand::Rng;

/// Limit: pause after a failed request for a certificate, at first: 1 s, spread by 20 %; past it: the pause doubles.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Limit: pause after a failed request for a certificate, at most: 150 s, spread by 20 %; past it: the pause stays as
/// long.
const RETRY_CAP: Duration = Duration::from_secs(150);
/// No limit: the spread of a pause.
const RETRY_JITTER: f64 = 0.2;
/// After this time of failures, retries come at the longest pause and without jitter.
/// Limit: time of failures in which the pause still doubles: 15 min; past it: the pause is 150 s.
pub(super) const RETRY_FLAT_AFTER: Duration = Duration::from_mins(15);
/// The shortest time between two renewals, however short the certificate's life is.
/// Limit: time between two renewals of a certificate, at least: 1 s; past it: the renewal waits.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// A certificate's validity.
pub(crate) trait Lifetime: Clone {
    /// The start of the validity.
    fn not_before(&self) -> SystemTime;
    /// The end of the validity; the certificate is expired at this moment.
    fn not_after(&self) -> SystemTime;
}

/// Both clocks, read together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// The monotonic clock, for waits.
    pub mono: Instant,
    /// The wall clock, for validity.
    pub wall: SystemTime,
}

/// The times of the next request, of which the earliest counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) mono: Instant,
    pub(super) wall: Option<SystemTime>,
}

// === impl Due ===

impl Due {
    /// The due time on the monotonic clock, computed from both clocks at `now`.
    pub(super) fn at(self, now: Now) -> Instant {
        let wall = self.wall.and_then(|w| {
            let wait = w.duration_since(now.wall).unwrap_or_default();
            now.mono.checked_add(wait)
        });
        wall.map_or(self.mono, |w| w.min(self.mono))
    }

    pub(super) fn after(wait: Duration, now: Now) -> Self {
        let mono = now.mono.checked_add(wait).unwrap_or(now.mono);
        Self { mono, wall: now.wall.checked_add(wait) }
    }

    /// Due at half of a fresh certificate's life. An authority may date a certificate back so far that this moment has
    /// passed. Then half of the remaining life counts; otherwise requests would follow each other without a pause.
    pub(super) fn refresh<C: Lifetime>(cert: &C, now: Now) -> Self {
        let remaining = cert.not_after().duration_since(now.wall).unwrap_or_default();
        let wait = until_half_life(cert, now.wall).unwrap_or(remaining / 2);
        Self::after(wait.max(REFRESH_MIN), now)
    }
}

/// The time until half of the certificate's life. The result is `None` if that moment has passed or cannot be computed.
pub(super) fn until_half_life<C: Lifetime>(cert: &C, wall: SystemTime) -> Option<Duration> {
    let life = cert.not_after().duration_since(cert.not_before()).ok()?;
    cert.not_before().checked_add(life / 2)?.duration_since(wall).ok()
}

/// The wait after the `failures`-th consecutive failure, counted from 1.
pub(super) fn retry_delay(failures: u32, failing_for: Duration, rng: &mut impl Rng) -> Duration {
    if failing_for >= RETRY_FLAT_AFTER {
        return RETRY_CAP;
    }
    let doubled = RETRY_FIRST.saturating_mul(1_u32 << failures.saturating_sub(1).min(16));
    let spread = rng.random_range(1.0 - RETRY_JITTER..=1.0 + RETRY_JITTER);
    doubled.min(RETRY_CAP).mul_f64(spread).min(RETRY_CAP)
}

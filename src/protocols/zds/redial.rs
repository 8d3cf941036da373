//! When to dial istio-cni again (docs/spec/dataplane.md 6).

use std::time::{Duration, Instant};

use rand::Rng;

/// The longest wait of either kind.
/// Limit: pause before istio-cni is dialled again, at most: 15 s; past it: the pause stays as long.
const REDIAL_MAX: Duration = Duration::from_secs(15);
/// Doubled before it is first waited.
/// Limit: pause before istio-cni is dialled again, at first: 10 ms, doubled before it is used; past it: the pause
/// doubles.
const DIAL_FIRST: Duration = Duration::from_millis(10);
/// Limit: pause after a greeting that failed, at first: 5 ms, spread by 20 %; past it: the pause doubles.
const GREET_FIRST: Duration = Duration::from_millis(5);
/// Waits after a greeting that failed differ by up to this part.
/// No limit: the spread of a pause.
const GREET_JITTER: f64 = 0.2;
/// A connection that ended sooner is treated as a greeting that failed, so that an agent which hangs up at once is not
/// dialled in a loop.
/// Limit: life of a connection with istio-cni that counts as a failed greeting: 1 s; past it: the connection counts as
/// a success.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// How the last attempt at a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It could not be dialled.
    Dial,
    /// It was dialled, but the greeting could not be sent.
    Greeting,
    /// It was used from the given moment on and then lost, by whatever side.
    Lost {
        /// When the greeting had been sent.
        since: Instant,
    },
}

/// The waits before the next attempt.
#[derive(Clone, Debug)]
pub(crate) struct Redial {
    dial: Duration,
    greet: Duration,
}

// === impl Redial ===

impl Redial {
    /// As after start.
    pub(crate) fn new() -> Self {
        Self { dial: DIAL_FIRST, greet: GREET_FIRST }
    }

    /// How long to wait at `now`, after an attempt that has `ended` so.
    ///
    /// Dialling: 20 ms, doubling to 15 s; a success starts over. Greeting: 5 ms, doubling to 15 s, each varied by 20 %.
    /// Lost after at least a second of life: not at all.
    pub(crate) fn wait(&mut self, now: Instant, ended: Ended, rng: &mut impl Rng) -> Duration {
        match ended {
            Ended::Dial => {
                self.dial = (self.dial * 2).min(REDIAL_MAX);
                self.dial
            }
            Ended::Lost { since } if now.saturating_duration_since(since) >= SHORT_LIFE => {
                *self = Self::new();
                Duration::ZERO
            }
            Ended::Greeting | Ended::Lost { .. } => {
                self.dial = DIAL_FIRST;
                let wait = self.greet.mul_f64(rng.random_range(1.0 - GREET_JITTER..=1.0 + GREET_JITTER));
                self.greet = (self.greet * 2).min(REDIAL_MAX);
                wait.min(REDIAL_MAX)
            }
        }
    }
}

impl Default for Redial {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;

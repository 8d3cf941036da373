//! The delays before the proxy dials istio-cni again (docs/spec/dataplane.md 6).

use std::time::{Duration, Instant};

use rand::Rng;

/// The longest wait after a failed dial or a failed greeting.
/// Limit: pause before istio-cni is dialled again, at most: 15 s; past it: the pause stays as long.
const REDIAL_MAX: Duration = Duration::from_secs(15);
/// The base of the waits between dials; it doubles before the first wait.
/// Limit: pause before istio-cni is dialled again, at first: 10 ms, doubled before it is used; past it: the pause
/// doubles.
const DIAL_FIRST: Duration = Duration::from_millis(10);
/// Limit: pause after a greeting that failed, at first: 5 ms, spread by 20 %; past it: the pause doubles.
const GREET_FIRST: Duration = Duration::from_millis(5);
/// The jitter of waits after a failed greeting, as a fraction of the wait.
/// No limit: the spread of a pause.
const GREET_JITTER: f64 = 0.2;
/// A connection with a shorter life counts as a failed greeting. So the proxy does not dial in a loop if the agent
/// hangs up at once.
/// Limit: life of a connection with istio-cni that counts as a failed greeting: 1 s; past it: the connection counts as
/// a success.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// How the last attempt at a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The dial failed.
    Dial,
    /// The dial succeeded, but the greeting could not be sent.
    Greeting,
    /// The connection was used and later lost, whichever side ended it.
    Lost {
        /// The moment at which the greeting was sent.
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
    /// Starts with the shortest waits.
    pub(crate) fn new() -> Self {
        Self { dial: DIAL_FIRST, greet: GREET_FIRST }
    }

    /// The time to wait at `now` after an attempt that ended as `ended` says.
    ///
    /// After a failed dial the wait is 20 ms and doubles up to 15 s; a success resets the wait. After a failed greeting
    /// the wait is 5 ms and doubles up to 15 s, with a jitter of 20 %. There is no wait after a connection that lived
    /// for at least a second.
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

//! When to dial istio-cni again (docs/spec/dataplane.md 6).

use std::time::{Duration, Instant};

use rand::Rng;

/// The longest wait of either kind.
/// Limit: pause before istio-cni is dialled again, at most: 15 s; past it: the pause stays as long.
const CAP: Duration = Duration::from_secs(15);
/// Doubled before it is first waited.
/// Limit: pause before istio-cni is dialled again, at first: 10 ms, doubled before it is used; past it: the pause
/// doubles.
const DIAL_FROM: Duration = Duration::from_millis(10);
/// Limit: pause after a greeting that failed, at first: 5 ms, spread by 20 %; past it: the pause doubles.
const GREET_FROM: Duration = Duration::from_millis(5);
/// Waits after a greeting that failed differ by up to this part.
/// No limit: the spread of a pause.
const JITTER: f64 = 0.2;
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
        Self { dial: DIAL_FROM, greet: GREET_FROM }
    }

    /// How long to wait at `now`, after an attempt that has `ended` so.
    ///
    /// Dialling: 20 ms, doubling to 15 s; a success starts over. Greeting: 5 ms, doubling to 15 s, each varied by 20 %.
    /// Lost after at least a second of life: not at all.
    pub(crate) fn wait(&mut self, now: Instant, ended: Ended, rng: &mut impl Rng) -> Duration {
        match ended {
            Ended::Dial => {
                self.dial = (self.dial * 2).min(CAP);
                self.dial
            }
            Ended::Lost { since } if now.saturating_duration_since(since) >= SHORT_LIFE => {
                *self = Self::new();
                Duration::ZERO
            }
            Ended::Greeting | Ended::Lost { .. } => {
                self.dial = DIAL_FROM;
                let wait = self.greet.mul_f64(rng.random_range(1.0 - JITTER..=1.0 + JITTER));
                self.greet = (self.greet * 2).min(CAP);
                wait.min(CAP)
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
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    const SEED: u64 = 7;

    #[test]
    fn dialling_doubles_from_20_ms_to_15_s() {
        let (mut redial, mut rng, now) = (Redial::new(), SmallRng::seed_from_u64(SEED), Instant::now());
        let waits: Vec<u128> = (0..13).map(|_| redial.wait(now, Ended::Dial, &mut rng).as_millis()).collect();
        assert_eq!(
            waits,
            [20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 15000, 15000, 15000],
            "no jitter while dialling"
        );
    }

    #[test]
    fn a_dial_that_worked_starts_the_doubling_over() {
        let (mut redial, mut rng, now) = (Redial::new(), SmallRng::seed_from_u64(SEED), Instant::now());
        for _ in 0..5 {
            redial.wait(now, Ended::Dial, &mut rng);
        }
        redial.wait(now, Ended::Greeting, &mut rng);
        assert_eq!(redial.wait(now, Ended::Dial, &mut rng).as_millis(), 20);
    }

    #[test]
    fn greetings_that_fail_double_from_5_ms_with_a_fifth_of_jitter() {
        let (mut redial, mut rng, now) = (Redial::new(), SmallRng::seed_from_u64(SEED), Instant::now());
        for step in 0..20u32 {
            let base = Duration::from_millis(5 << step.min(12)).min(CAP);
            let wait = redial.wait(now, Ended::Greeting, &mut rng);
            assert!(wait >= base.mul_f64(0.8) && wait <= base.mul_f64(1.2).min(CAP), "{step}: {wait:?}");
        }
    }

    #[test]
    fn a_lost_connection_is_dialled_at_once_unless_it_was_short() {
        let (mut redial, mut rng, since) = (Redial::new(), SmallRng::seed_from_u64(SEED), Instant::now());
        let lost = Ended::Lost { since };
        for _ in 0..6 {
            assert!(redial.wait(since, lost, &mut rng) > Duration::ZERO, "hung up at once");
        }
        assert!(redial.wait(since, lost, &mut rng) > Duration::from_millis(200), "and again and again");
        assert_eq!(redial.wait(since + SHORT_LIFE, lost, &mut rng), Duration::ZERO);
        assert!(redial.wait(since, lost, &mut rng) < Duration::from_millis(7), "a good life starts over");
    }
}

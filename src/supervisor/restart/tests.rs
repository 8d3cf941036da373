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

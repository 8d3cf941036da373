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
        let base = Duration::from_millis(5 << step.min(12)).min(REDIAL_MAX);
        let wait = redial.wait(now, Ended::Greeting, &mut rng);
        assert!(wait >= base.mul_f64(0.8) && wait <= base.mul_f64(1.2).min(REDIAL_MAX), "{step}: {wait:?}");
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

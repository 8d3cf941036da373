use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn a_bucket_ends_at_most_two_percent_above_its_values(micros in 0_u64..1 << 40) {
        let end = end(index(micros));
        prop_assert!(end >= micros && end - micros <= micros / 50);
    }
}

#[test]
fn percentiles_and_the_slowest_are_found_and_survive_merging() {
    let mut all = Latencies::new();
    assert_eq!(all.percentile(99.0), Duration::ZERO);
    let mut other = Latencies::new();
    for micros in 1..=100 {
        let one = if micros % 2 == 0 { &mut all } else { &mut other };
        one.record(Duration::from_micros(micros * 10));
    }
    all.merge(&other);
    assert_eq!((all.count(), all.slowest()), (100, Duration::from_millis(1)));
    let median = all.percentile(50.0).as_micros();
    assert!((500..=510).contains(&median), "{median}");
    assert_eq!(all.percentile(100.0), Duration::from_millis(1));
}

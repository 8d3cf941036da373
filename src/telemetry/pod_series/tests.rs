//! Which pods are named, and that the rest only grows.

use super::*;

fn reading(serial: u64, received: u64) -> PodReading {
    let totals = PodTotals { connections: 1, received, busy: Duration::from_secs(1), ..PodTotals::default() };
    PodReading { serial, name: format!("ns/p{serial}"), totals }
}

#[test]
fn the_busiest_are_named_and_the_rest_only_grows() {
    let mut ranking = Ranking::default();
    let many = |extra: u64| {
        (0..MAX_NAMED as u64 + 2).map(|serial| reading(serial, serial + extra)).collect::<Vec<_>>()
    };
    let named = ranking.rank(many(1));
    assert_eq!((named.len(), named[0].serial), (MAX_NAMED, MAX_NAMED as u64 + 1));
    // Pods 0 and 1 have carried 1 and 2 bytes.
    assert_eq!((ranking.rest.received, ranking.rest.connections), (3, 2));
    assert_eq!(ranking.rest.busy, Duration::from_secs(2));
    ranking.rank(many(11));
    assert_eq!((ranking.rest.received, ranking.rest.connections), (23, 2));
    // One of them becomes busy: it is named, and the rest keeps what it had.
    let mut pods = many(11);
    pods[0].totals.received = 1_000_000;
    let named = ranking.rank(pods);
    assert_eq!(named[0].name, "ns/p0");
    assert!(ranking.rest.received >= 23);
}

#[test]
fn pods_that_fit_are_all_named() {
    let mut ranking = Ranking::default();
    assert_eq!(ranking.rank(vec![reading(7, 1), reading(3, 1)]), [reading(3, 1), reading(7, 1)]);
    assert_eq!(ranking.rest, PodTotals::default());
}

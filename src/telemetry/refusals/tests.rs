//! Which refusals of a peer are logged, with a clock of the test.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use super::{PEERS_MAX, Refusals, Sample};

const WRITTEN: Sample = Sample::Written { left_out: 0 };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_first_refusals_of_a_peer_are_written_and_then_one_a_second_with_the_count_of_the_rest() {
    let (refusals, start) = (Refusals::default(), Instant::now());
    let peer = ip("10.0.0.1");
    let flood = |now, count: u64| -> Vec<Sample> {
        let all = (0..count).map(|_| refusals.sample(peer, now));
        all.filter(|sample| *sample != Sample::LeftOut).collect()
    };
    assert_eq!(flood(start, 1_000), [WRITTEN; 10]);
    assert_eq!(refusals.sample(ip("10.0.0.2"), start), WRITTEN, "another peer has its own lines");
    assert_eq!(flood(start + Duration::from_millis(999), 5), []);
    let next = start + Duration::from_secs(1);
    assert_eq!(flood(next, 100), [Sample::Written { left_out: 995 }]);
    let later = start + Duration::from_secs(3);
    assert_eq!(flood(later, 100), [Sample::Written { left_out: 99 }, WRITTEN]);
    // A peer that was quiet has all its lines again.
    assert_eq!(flood(start + Duration::from_secs(60), 100)[1..], [WRITTEN; 9]);
}

#[test]
fn an_ipv6_peer_is_its_network_and_a_mapped_address_is_the_ipv4_one() {
    let (refusals, now) = (Refusals::default(), Instant::now());
    let written = |peers: &[String]| {
        peers.iter().filter(|peer| refusals.sample(ip(peer), now) != Sample::LeftOut).count()
    };
    assert_eq!(written(&(0..100).map(|n| format!("2001:db8:0:1:{n:x}::{n:x}")).collect::<Vec<_>>()), 10);
    assert_eq!(written(&["2001:db8:0:2::1".to_owned()]), 1);
    assert_eq!(written(&vec!["10.0.0.1".to_owned(); 9]), 9);
    assert_eq!(written(&vec!["::ffff:10.0.0.1".to_owned(); 9]), 1);
}

#[test]
fn peers_past_the_bound_share_lines_until_a_sweep_makes_room() {
    let (refusals, start) = (Refusals::default(), Instant::now());
    let peer = |n: usize| IpAddr::from(Ipv4Addr::from_bits(u32::try_from(n).unwrap()));
    let of = |range: std::ops::Range<usize>, now| {
        range.filter(|n| refusals.sample(peer(*n), now) != Sample::LeftOut).count()
    };
    assert_eq!(of(0..PEERS_MAX, start), PEERS_MAX);
    assert_eq!(of(PEERS_MAX..2 * PEERS_MAX, start), 10);
    assert_eq!(refusals.table.lock().peers.len(), PEERS_MAX);
    refusals.sweep(start + Duration::from_secs(60));
    let left = {
        let table = refusals.table.lock();
        (table.peers.len(), table.others.left_out)
    };
    assert_eq!(left, (0, 0));
    assert_eq!(of(PEERS_MAX..2 * PEERS_MAX, start + Duration::from_secs(60)), PEERS_MAX);
}

use std::{collections::BTreeSet, sync::atomic::Ordering::Relaxed};

use rand::{SeedableRng as _, rngs::SmallRng};

use super::*;
use crate::{dataplane::config::DataPlaneConfig, protocols::config::Config, sys::netns::NetNs};

/// A resolver without name servers, with this hosts file.
fn resolver(hosts: &str, ipv6: bool) -> Resolver {
    static FILES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let name = format!("warren-hosts-{}-{}", std::process::id(), FILES.fetch_add(1, Relaxed));
    let path = std::env::temp_dir().join(name);
    fs::write(&path, hosts).unwrap();
    let config = Arc::new(DataPlaneConfig::new(&Config::default(), None));
    let network = PodNetwork::home(NetNs::current().unwrap(), config);
    Resolver::new(network, Arc::default(), path, ipv6)
}

fn ips(text: &[&str]) -> Vec<IpAddr> {
    text.iter().map(|ip| ip.parse().unwrap()).collect()
}

const WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn the_hosts_file_is_asked_first_and_again_once_its_answer_has_lived() {
    let resolver = resolver("192.0.2.7 db.example # here\nfd00::7 db.example\n", true);
    let known = ips(&["192.0.2.7", "fd00::7"]);
    assert_eq!(*resolver.find("db.example", WITHIN).await, known);
    fs::write(&resolver.hosts, "192.0.2.8 db.example\n").unwrap();
    assert_eq!(*resolver.find("db.example", WITHIN).await, known, "from the cache");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(*resolver.find("db.example", WITHIN).await, ips(&["192.0.2.8"]));
    fs::remove_file(&resolver.hosts).unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_ipv6_no_address_of_it_is_found() {
    let resolver = resolver("192.0.2.7 db.example\nfd00::7 db.example\n", false);
    assert_eq!(*resolver.find("db.example", WITHIN).await, ips(&["192.0.2.7"]));
    fs::remove_file(&resolver.hosts).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_nobody_knows_has_no_address_and_an_address_is_its_own_name() {
    let resolver = resolver("", true);
    assert!(resolver.find("nowhere.example", WITHIN).await.is_empty());
    assert!(resolver.find("no..name", WITHIN).await.is_empty());
    assert_eq!(*resolver.find("10.0.0.1", WITHIN).await, ips(&["10.0.0.1"]));
    fs::remove_file(&resolver.hosts).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_is_given_up_is_taken_over_by_one_that_waits_for_it() {
    let resolver = Arc::new(resolver("192.0.2.7 db.example\n", true));
    let Step::Look(lookup) = resolver.step("db.example") else { panic!("known already") };
    let mut waiting = Box::pin(resolver.find("db.example", WITHIN));
    assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err(), "two lookups of one name");
    // The connection is cut.
    drop(lookup);
    assert_eq!(*waiting.await, ips(&["192.0.2.7"]));
    // Nobody waits for ever.
    let Step::Look(_lookup) = resolver.step("other.example") else { panic!("known already") };
    assert!(resolver.find("other.example", WITHIN).await.is_empty());
    fs::remove_file(&resolver.hosts).unwrap();
}

#[tokio::test(start_paused = true)]
async fn past_the_bound_of_lookups_a_name_has_no_address() {
    let resolver = resolver("192.0.2.7 db.example\n", true);
    let running: Vec<Step<'_>> = (0..MAX_LOOKUPS).map(|n| resolver.step(&format!("n{n}"))).collect();
    assert!(running.iter().all(|step| matches!(step, Step::Look(_))));
    assert!(resolver.find("db.example", WITHIN).await.is_empty());
    drop(running);
    assert_eq!(*resolver.find("db.example", WITHIN).await, ips(&["192.0.2.7"]));
    fs::remove_file(&resolver.hosts).unwrap();
}

#[test]
fn an_address_is_drawn_from_the_preferred_family_if_it_has_one() {
    let mut rng = SmallRng::seed_from_u64(1);
    let both = ips(&["192.0.2.1", "fd00::1", "192.0.2.2", "fd00::2"]);
    let mut drawn = |addresses: &[IpAddr], prefer_v6| -> BTreeSet<IpAddr> {
        (0..100).filter_map(|_| choose(addresses, prefer_v6, &mut rng)).collect()
    };
    assert_eq!(drawn(&both, false), ips(&["192.0.2.1", "192.0.2.2"]).into_iter().collect());
    assert_eq!(drawn(&both, true), ips(&["fd00::1", "fd00::2"]).into_iter().collect());
    assert_eq!(drawn(&both[..1], true), ips(&["192.0.2.1"]).into_iter().collect());
    assert!(drawn(&[], true).is_empty());
}

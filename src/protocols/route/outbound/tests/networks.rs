//! Decisions about destinations and waypoints on other networks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::*;
use crate::protocols::{
    mesh::fixtures::{Svc, Wl},
    pb::workload::load_balancing::Scope,
    route::{
        Finding,
        suspects::{Suspects, Tried},
    },
};

const WEB: &str = "10.1.0.1:80";

/// The identities of the endpoints on the other network, as the control plane puts them into the service.
const FAR_SANS: [&str; 1] = ["spiffe://cluster.local/ns/ns1/sa/sa-far"];

fn web() -> Svc {
    service("web", "10.1.0.1").sans(&FAR_SANS)
}

/// An endpoint on the network "n2" as the control plane announces it: without an address.
fn far(name: &str, gateway: &str) -> Wl {
    pod(name, "").hbone().network("n2").of("web", &[]).network_gateway(gateway)
}

fn near() -> Wl {
    pod("near", "10.0.0.1").of("web", &[])
}

fn gateway(name: &str, ip: &str) -> Wl {
    pod(name, ip).network("n2")
}

/// How often each route to `dst` comes up in 100 calls, none of which may lead to `excluded`.
fn routes(t: &TestMesh, dst: &str, excluded: &[&str]) -> BTreeMap<String, usize> {
    let workload = t.pod("client");
    let source = Source { workload: &workload, client: ip(CLIENT) };
    let excluded: Vec<_> = excluded.iter().map(|text| addr(text)).collect();
    let mut counts = BTreeMap::new();
    for seed in 0..100 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut pick = Pick { rng: &mut rng, excluded: &excluded, suspicion: None, recorder: () };
        let route = outbound(&t.mesh, &source, OrigDst::new(addr(dst)), &mut pick);
        *counts.entry(text(route)).or_default() += 1;
    }
    counts
}

fn all(t: &TestMesh, excluded: &[&str]) -> Vec<String> {
    routes(t, WEB, excluded).into_keys().collect()
}

const TO_NEAR: &str = "tcp 10.0.0.1:8080 to near for web";
const BY_GW: &str = "double 10.9.0.1:15008 [sa-gw] web:80 [sa-far] to gw for web";
const BY_GW2: &str = "double 10.9.0.2:15008 [sa-gw2] web:80 [sa-far] to gw2 for web";

#[test]
fn endpoints_on_both_networks_are_balanced_by_capacity() {
    let t = client()
        .with(web())
        .with(gateway("gw", "10.9.0.1"))
        .with(near())
        .with(far("far", "n2/10.9.0.1").capacity(3));
    let routes = routes(&t, WEB, &[]);
    assert_eq!(routes.keys().collect::<Vec<_>>(), [BY_GW, TO_NEAR]);
    assert!((15..35).contains(&routes[TO_NEAR]), "{routes:?}");
}

#[test]
fn an_endpoint_without_a_known_gateway_is_never_drawn_while_another_is_eligible() {
    let unknown = ["n2/10.9.0.9", "ns1/nowhere", "ns1/empty"];
    for mode in [Mode::UnspecifiedMode, Mode::Failover, Mode::Strict] {
        for gateway in unknown {
            let t = client()
                .with(web().balancing(mode, &[]))
                .with(service("empty", "10.1.0.9").ports(&[(15008, 15008)]))
                .with(far("far", gateway).capacity(1000));
            let alone = all(&t, &[]);
            assert!(alone[0].starts_with("refused: unknown network gateway"), "{alone:?}");
            assert_eq!(all(&t.with(near()), &[]), [TO_NEAR], "{gateway} {mode:?}");
        }
    }
    let t = client().with(web()).with(near()).with(pod("far", "10.0.0.7").network("n2").of("web", &[]));
    assert_eq!(all(&t, &[]), [TO_NEAR], "an endpoint with an address and without a gateway");
}

#[test]
fn a_gateway_that_has_failed_is_passed_over_with_all_endpoints_behind_it() {
    let t = client()
        .with(web())
        .with(gateway("gw", "10.9.0.1"))
        .with(gateway("gw2", "10.9.0.2"))
        .with(far("far", "n2/10.9.0.1"))
        .with(far("far2", "n2/10.9.0.2"));
    let (one, two) = ("10.9.0.1:15008", "10.9.0.2:15008");
    assert_eq!(all(&t, &[]), [BY_GW, BY_GW2]);
    assert_eq!(all(&t, &[one]), [BY_GW2]);
    assert_eq!(all(&t, &[one, two]), ["refused: no healthy upstream: 10.1.0.1:80"]);
    let t = t.with(near());
    assert_eq!(all(&t, &[one, two]), [TO_NEAR]);
    assert_eq!(all(&t, &["10.0.0.1:8080", two]), [BY_GW]);
}

#[test]
fn an_endpoint_behind_a_suspect_gateway_comes_after_the_others() {
    let t = client()
        .with(web())
        .with(gateway("gw", "10.9.0.1"))
        .with(service("gwsvc", "10.1.0.9").ports(&[(15009, 15008)]))
        .with(pod("gw2", "10.9.0.2").of("gwsvc", &[]))
        .with(far("far", "n2/10.9.0.1"))
        .with(far("far2", "ns1/gwsvc:15009"))
        .with(near());
    let all = |suspects: &[(&str, &str)]| {
        let (dst, now) = (OrigDst::new(addr(WEB)), Instant::now());
        let mut ledger = Suspects::default();
        for (name, hop) in suspects {
            let tried = Tried { workload: &t.pod(name), hop: addr(hop), asked: dst };
            ledger.learn(&tried, Finding::DestinationFailed, now);
        }
        let workload = t.pod("client");
        let source = Source { workload: &workload, client: ip(CLIENT) };
        let route = |seed| {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut pick =
                Pick { rng: &mut rng, excluded: &[], suspicion: Some(ledger.of(dst, now)), recorder: () };
            text(outbound(&t.mesh, &source, dst, &mut pick))
        };
        (0..100).map(route).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    let (one, two, near) = (("gw", "10.9.0.1:15008"), ("gw2", "10.9.0.2:15008"), ("near", "10.0.0.1:8080"));
    assert_eq!(all(&[one]), [BY_GW2, TO_NEAR]);
    assert_eq!(all(&[two]), [BY_GW, TO_NEAR]);
    assert_eq!(all(&[one, two]), [TO_NEAR]);
    assert_eq!(all(&[one, two, near]), [BY_GW, BY_GW2, TO_NEAR], "suspects are better than nothing");
}

#[test]
fn another_instance_of_a_gateway_takes_the_place_of_one_that_has_failed() {
    let t = client()
        .with(web())
        .with(service("gwsvc", "10.1.0.9").ports(&[(15009, 15008)]))
        .with(pod("gw", "10.9.0.1").of("gwsvc", &[]))
        .with(pod("gw2", "10.9.0.2").of("gwsvc", &[]))
        .with(near())
        .with(far("far", "ns1/gwsvc:15009"));
    assert_eq!(all(&t, &[]), [BY_GW, BY_GW2, TO_NEAR]);
    assert_eq!(all(&t, &["10.9.0.1:15008", "10.0.0.1:8080"]), [BY_GW2]);
    assert_eq!(all(&t, &["10.9.0.1:15008", "10.9.0.2:15008"]), [TO_NEAR]);
}

#[test]
fn a_gateway_may_have_only_a_name_and_a_port_that_the_endpoint_alone_knows() {
    let t = client()
        .with(web())
        .with(pod("gw", "").hostname("lb.example").network("n2"))
        .with(far("far", "ns1/lb.example:15443"));
    let want = "double lb.example:15443 [sa-gw] web:80 [sa-far] to gw for web";
    assert_eq!(all(&t, &[]), [want]);
    assert_eq!(all(&t, &["10.0.0.1:8080"]), [want]);
}

#[test]
fn the_own_network_goes_first_where_the_service_wants_it() {
    let t = client()
        .with(web().balancing(Mode::Failover, &[Scope::Network, Scope::Region]))
        .with(gateway("gw", "10.9.0.1"))
        .with(near().locality("elsewhere", "", ""))
        .with(far("far", "n2/10.9.0.1"));
    assert_eq!(all(&t, &[]), [TO_NEAR]);
    assert_eq!(all(&t, &["10.0.0.1:8080"]), [BY_GW]);
}

#[test]
fn a_waypoint_without_a_known_gateway_is_never_drawn_while_another_is_eligible() {
    let wp = |name, ip| pod(name, ip).hbone().of("wp-svc", &[]);
    let base = || {
        client()
            .with(web().waypoint("ns1/wp-svc"))
            .with(service("wp-svc", "10.1.0.9").ports(&[(15008, 15008)]).sans(&FAR_SANS))
            .with(gateway("gw", "10.9.0.1"))
    };
    let near = "hbone 10.8.0.1:15008 10.1.0.1:80 [sa-far sa-wp] to wp for web";
    let t =
        base().with(wp("wp", "10.8.0.1")).with(wp("wp2", "").network("n2").network_gateway("n2/10.9.0.9"));
    assert_eq!(all(&t, &[]), [near]);
    let t =
        base().with(wp("wp", "10.8.0.1")).with(wp("wp2", "").network("n2").network_gateway("n2/10.9.0.1"));
    assert_eq!(all(&t, &[]), [BY_GW, near]);
    assert_eq!(all(&t, &["10.8.0.1:15008"]), [BY_GW]);
    assert_eq!(all(&t, &["10.9.0.1:15008"]), [near]);
}

#[test]
fn a_workload_on_another_network_is_reached_through_its_services_only() {
    let t = TestMesh::new()
        .with(pod("client", CLIENT).hbone().local())
        .with(pod("wp", "10.9.0.5").network("n2").hostname("wp.example"))
        .with(pod("a", "10.0.0.1").hbone().waypoint("ns1/wp.example"));
    let refused = "refused: workload on another network can only be reached through a service: ";
    check(&t, "10.0.0.1:80", &format!("{refused}Kubernetes//Pod/ns1/wp"));
}

#[test]
fn another_network_is_reached_through_its_gateway() {
    let far_sans = ["spiffe://cluster.local/ns/ns1/sa/sa-far"];
    let base = || {
        client()
            .with(service("web", "10.1.0.1").sans(&far_sans))
            .with(pod("gw", "10.9.0.1").hbone().network("n2"))
            .with(pod("gwsvc-pod", "10.9.0.2").hbone().of("gwsvc", &[]))
            .with(service("gwsvc", "10.1.0.9").ports(&[(15009, 15008)]))
    };
    let far = |gateway: &str| pod("far", "").hbone().network("n2").of("web", &[]).network_gateway(gateway);
    let inner = "web:80 [sa-far]";
    let t = base().with(far("n2/10.9.0.1"));
    check(&t, "10.1.0.1:80", &format!("double 10.9.0.1:15008 [sa-gw] {inner} to gw for web"));
    let t = base().with(far("ns1/gwsvc:15009"));
    check(&t, "10.1.0.1:80", &format!("double 10.9.0.2:15008 [sa-gwsvc-pod] {inner} to gwsvc-pod for web"));
    let t = base().with(far("n2/10.9.0.8"));
    check(&t, "10.1.0.1:80", "refused: unknown network gateway: n2/10.9.0.8:15008");
    let t = base().with(pod("far", "10.0.0.7").network("n2").of("web", &[]));
    check(&t, "10.1.0.1:80", "refused: no network gateway to reach workload: Kubernetes//Pod/ns1/far");
    let local = base().with(far("n2/10.9.0.1")).with(pod("near", "10.0.0.1").of("web", &[]).capacity(0));
    check(&local, "10.1.0.1:80", &format!("double 10.9.0.1:15008 [sa-gw] {inner} to gw for web"));
    let sick = base()
        .with(service("web", "10.1.0.1").sans(&far_sans).balancing(Mode::Failover, &[Scope::Network]))
        .with(far("n2/10.9.0.1"));
    let mut sick = sick.with(pod("near", "10.0.0.1").of("web", &[]));
    check(&sick, "10.1.0.1:80", "tcp 10.0.0.1:8080 to near for web");
    sick.put(pod("near", "10.0.0.1").of("web", &[]).unhealthy());
    check(&sick, "10.1.0.1:80", &format!("double 10.9.0.1:15008 [sa-gw] {inner} to gw for web"));
}

#[test]
fn a_gateway_is_itself_dialled_whatever_network_it_is_on() {
    let t = client()
        .with(service("web", "10.1.0.1"))
        .with(service("gwsvc", "10.1.0.9").ports(&[(15008, 15008)]))
        .with(pod("far", "").network("n2").of("web", &[]).network_gateway("ns1/gwsvc"))
        .with(pod("gw0", "").network("n2").of("gwsvc", &[]).network_gateway("n2/10.9.0.1"));
    check(&t, "10.1.0.1:80", "refused: unknown network gateway: ns1/gwsvc:15008");
    let t = t.with(pod("gw", "10.9.0.1").network("n2").of("gwsvc", &[]));
    let want = "double 10.9.0.1:15008 [sa-gw] web:80 [] to gw for web";
    (0..20).for_each(|_| check(&t, "10.1.0.1:80", want));
    let t = t.with(pod("gw2", "10.9.0.2").network("n2").of("gwsvc", &[]));
    let workload = t.pod("client");
    let source = Source { workload: &workload, client: ip(CLIENT) };
    for seed in 0..20 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let excluded = [addr("10.9.0.1:15008")];
        let mut pick = Pick { rng: &mut rng, excluded: &excluded, suspicion: None, recorder: () };
        let route = outbound(&t.mesh, &source, OrigDst::new(addr("10.1.0.1:80")), &mut pick);
        assert_eq!(text(route), "double 10.9.0.2:15008 [sa-gw2] web:80 [] to gw2 for web");
    }
}

#[test]
fn a_waypoint_on_another_network_is_reached_through_its_gateway() {
    let t = client()
        .with(service("web", "10.1.0.1").waypoint("ns1/wp-svc"))
        .with(
            service("wp-svc", "10.1.0.9")
                .ports(&[(15008, 15008)])
                .sans(&["spiffe://cluster.local/ns/ns1/sa/sa-wp"]),
        )
        .with(pod("gw", "10.9.0.1").hbone().network("n2"))
        .with(pod("wp", "").hbone().network("n2").of("wp-svc", &[]).network_gateway("n2/10.9.0.1"));
    check(&t, "10.1.0.1:80", "double 10.9.0.1:15008 [sa-gw] web:80 [sa-wp] to gw for web");
}

#[test]
fn the_sources_network_counts() {
    let t = TestMesh::new()
        .with(pod("client", CLIENT).network("n2"))
        .with(pod("here", "10.0.0.1").network("n2"))
        .with(pod("there", "10.0.0.2"));
    check(&t, "10.0.0.1:80", "tcp 10.0.0.1:80 to here for -");
    check(&t, "10.0.0.2:80", "tcp 10.0.0.2:80 to - for -");
}

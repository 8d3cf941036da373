//! Ports, ranks, weights, addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use rand::{SeedableRng, rngs::SmallRng};

use crate::protocols::route::{
    Finding, Hop, Pick, Route, RouteError, Source, Upstream, outbound,
    suspects::{Suspects, Tried},
};
use crate::protocols::{
    addr::{HboneAddr, OrigDst},
    mesh::fixtures::{Svc, TestMesh, Wl, addr, ip, pod, service},
    pb::workload::load_balancing::{Mode, Scope},
};

const CLIENT: &str = "10.0.0.99";
const VIP: &str = "10.1.0.1:80";

/// What happens when the pod `client` calls `dst`, its first address being [`CLIENT`] unless it says otherwise.
fn call(t: &TestMesh, dst: &str, seed: u64, excluded: &[SocketAddr]) -> Result<Route, RouteError> {
    let workload = t.pod("client");
    let source = Source { workload: &workload, client: ip(CLIENT) };
    let mut rng = SmallRng::seed_from_u64(seed);
    outbound(
        &t.mesh,
        &source,
        OrigDst::new(addr(dst)),
        &mut Pick { rng: &mut rng, excluded, suspicion: None, recorder: () },
    )
}

/// How often each of the next hops comes up in 400 calls.
fn spread(t: &TestMesh, dst: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for seed in 0..400 {
        let text = match call(t, dst, seed, &[]) {
            Ok(Route { hop, .. }) => match hop.upstream() {
                Upstream::Ip(addr) => addr.to_string(),
                Upstream::Host { host, port, .. } => format!("{host}:{port}"),
            },
            Err(error) => error.to_string(),
        };
        *counts.entry(text).or_default() += 1;
    }
    counts
}

fn hops(t: &TestMesh, dst: &str) -> Vec<String> {
    spread(t, dst).into_keys().collect()
}

fn web(name: &str, ip: &str) -> Wl {
    pod(name, ip).of("web", &[])
}

fn mesh(client: Wl, service: Svc, endpoints: impl IntoIterator<Item = Wl>) -> TestMesh {
    endpoints.into_iter().fold(TestMesh::new().with(client).with(service), TestMesh::with)
}

#[test]
fn a_port_is_the_endpoints_own_then_the_services_then_that_of_an_application_tunnel() {
    let base = || service("web", "10.1.0.1");
    let none = "no healthy upstream: 10.1.0.1:80";
    let cases = [
        (base(), web("a", "10.0.0.1"), "10.0.0.1:8080"),
        (base(), pod("a", "10.0.0.1").of("web", &[(80, 9090)]), "10.0.0.1:9090"),
        (base(), pod("a", "10.0.0.1").of("web", &[(81, 9090)]), "10.0.0.1:8080"),
        (base(), pod("a", "10.0.0.1").of("web", &[(80, 0)]), "10.0.0.1:8080"),
        (base().ports(&[(80, 0)]), web("a", "10.0.0.1"), none),
        (base().ports(&[(80, 0)]), pod("a", "10.0.0.1").of("web", &[(80, 9090)]), "10.0.0.1:9090"),
        (base().ports(&[(81, 8080)]), pod("a", "10.0.0.1").of("web", &[(80, 9090)]), none),
        (base().ports(&[]), web("a", "10.0.0.1").tunnel(true, 15088), none),
    ];
    for (service, endpoint, want) in cases {
        let text = format!("{service:?} {endpoint:?}");
        let t = mesh(pod("client", CLIENT), service, [endpoint]);
        assert_eq!(hops(&t, VIP), [want], "{text}");
    }
}

#[test]
fn a_named_port_leads_only_to_the_endpoint_that_has_it() {
    let t = mesh(
        pod("client", CLIENT),
        service("web", "10.1.0.1").ports(&[(80, 0)]),
        [web("a", "10.0.0.1"), pod("b", "10.0.0.2").of("web", &[(80, 8081)]), web("c", "10.0.0.3")],
    );
    assert_eq!(hops(&t, VIP), ["10.0.0.2:8081"]);
}

#[test]
fn endpoints_are_drawn_by_their_capacity() {
    let t = mesh(
        pod("client", CLIENT),
        service("web", "10.1.0.1"),
        [
            web("a", "10.0.0.1").capacity(3),
            web("b", "10.0.0.2"),
            web("c", "10.0.0.3").capacity(0),
            web("d", "10.0.0.4").capacity(4).unhealthy(),
        ],
    );
    let spread = spread(&t, VIP);
    assert_eq!(spread.keys().collect::<Vec<_>>(), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert!((260..340).contains(&spread["10.0.0.1:8080"]), "{spread:?}");
}

#[test]
fn nearest_endpoints_are_weighed_by_capacity_too() {
    let service = service("web", "10.1.0.1").balancing(Mode::Failover, &[Scope::Node]);
    let t = mesh(
        pod("client", CLIENT).local(),
        service,
        [
            web("a", "10.0.0.1").local().capacity(3),
            web("b", "10.0.0.2").local(),
            web("c", "10.0.0.3").capacity(100),
            web("d", "10.0.0.4").local().capacity(0),
        ],
    );
    let spread = spread(&t, VIP);
    assert_eq!(spread.keys().collect::<Vec<_>>(), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert!((260..340).contains(&spread["10.0.0.1:8080"]), "{spread:?}");
}

#[test]
fn one_usable_endpoint_among_many_is_found() {
    let sick = (0..250).map(|n| web(&format!("w{n}"), &format!("10.0.2.{n}")).unhealthy());
    let t = mesh(
        pod("client", CLIENT),
        service("web", "10.1.0.1"),
        sick.chain([web("good", "10.0.0.1").capacity(1)]).chain([web("big", "10.0.3.1").capacity(0)]),
    );
    assert_eq!(hops(&t, VIP), ["10.0.0.1:8080"]);
    let zero = mesh(pod("client", CLIENT), service("web", "10.1.0.1"), [web("a", "10.0.0.1").capacity(0)]);
    assert_eq!(hops(&zero, VIP), ["no healthy upstream: 10.1.0.1:80"]);
}

#[test]
fn strict_balancing_takes_only_endpoints_that_match_all() {
    let service = || service("web", "10.1.0.1").balancing(Mode::Strict, &[Scope::Node, Scope::Zone]);
    let client = || pod("client", CLIENT).local().locality("r", "z", "");
    let other_zone = web("a", "10.0.0.1").local().locality("r", "z2", "");
    let t = mesh(client(), service(), [other_zone.clone()]);
    assert_eq!(hops(&t, VIP), ["no healthy upstream: 10.1.0.1:80"]);
    let t = mesh(client(), service(), [other_zone, web("b", "10.0.0.2").local().locality("r", "z", "s")]);
    assert_eq!(hops(&t, VIP), ["10.0.0.2:8080"]);
}

#[test]
fn strict_network_is_required_even_as_the_first_preference() {
    let gateway = "n2/10.9.0.1";
    let service = service("web", "10.1.0.1").balancing(Mode::Strict, &[Scope::Network, Scope::Region]);
    let far = web("a", "10.0.0.1").network("n2").locality("r", "", "").network_gateway(gateway);
    let t = mesh(pod("client", CLIENT).locality("r", "", ""), service, [far]);
    assert_eq!(hops(&t, VIP), ["no healthy upstream: 10.1.0.1:80"]);
}

#[test]
fn failover_degrades_level_by_level() {
    let preferences = [Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node];
    let service = service("web", "10.1.0.1").balancing(Mode::Failover, &preferences);
    let gateway = pod("gateway", "10.9.0.1").network("n2");
    let client = pod("client", CLIENT).local().locality("r", "z", "s");
    // Best first: what is known of each level is taken away again after it has been seen.
    let levels = [
        ("all", "10.0.0.1", web("all", "10.0.0.1").local().locality("r", "z", "s")),
        ("subzone", "10.0.0.2", web("subzone", "10.0.0.2").locality("r", "z", "s")),
        ("zone", "10.0.0.3", web("zone", "10.0.0.3").locality("r", "z", "s2")),
        ("region", "10.0.0.4", web("region", "10.0.0.4").locality("r", "z2", "s")),
        ("network", "10.0.0.5", web("network", "10.0.0.5").locality("r2", "z", "s")),
        (
            "far-zone",
            "n2",
            web("far-zone", "10.0.0.6").network("n2").locality("r", "z", "s2").network_gateway("n2/10.9.0.1"),
        ),
        (
            "far",
            "n2",
            web("far", "10.0.0.7").network("n2").locality("r2", "z", "s").network_gateway("n2/10.9.0.1"),
        ),
    ];
    let mut t = mesh(client, service, levels.iter().map(|(_, _, workload)| workload.clone())).with(gateway);
    for (name, ip, _) in &levels {
        let want = if *ip == "n2" { "10.9.0.1:15008".into() } else { format!("{ip}:8080") };
        assert_eq!(hops(&t, VIP), [want], "{name}");
        t.remove(&format!("Kubernetes//Pod/ns1/{name}"));
    }
    assert_eq!(hops(&t, VIP), ["no healthy upstream: 10.1.0.1:80"]);
}

#[test]
fn in_another_network_region_and_zone_still_count() {
    let service = service("web", "10.1.0.1")
        .sans(&["spiffe://cluster.local/ns/ns1/sa/sa-a"])
        .balancing(Mode::Failover, &[Scope::Network, Scope::Region, Scope::Zone]);
    let far = |name: &str, zone: &str, gateway: &str| {
        web(name, "").network("n2").locality("r", zone, "").network_gateway(gateway)
    };
    let t = mesh(
        pod("client", CLIENT).locality("r", "z", ""),
        service,
        [far("near", "z", "n2/10.9.0.1"), far("far", "z2", "n2/10.9.0.2")],
    )
    .with(pod("gw1", "10.9.0.1").network("n2"))
    .with(pod("gw2", "10.9.0.2").network("n2"));
    assert_eq!(hops(&t, VIP), ["10.9.0.1:15008"]);
}

#[test]
fn a_scope_that_matches_behind_a_mismatch_does_not_count() {
    let service = service("web", "10.1.0.1").balancing(Mode::Failover, &[Scope::Region, Scope::Cluster]);
    let t = mesh(
        pod("client", CLIENT).locality("r", "", ""),
        service,
        [
            web("a", "10.0.0.1").locality("r2", "", ""),
            web("b", "10.0.0.2").locality("r3", "", "").edit(|pb| pb.cluster_id = "other".into()),
        ],
    );
    assert_eq!(hops(&t, VIP), ["10.0.0.1:8080", "10.0.0.2:8080"]);
}

#[test]
fn endpoints_already_tried_are_not_returned_again() {
    let endpoints = [web("a", "10.0.0.1").hbone(), web("b", "10.0.0.2"), web("c", "10.0.0.3").local()];
    for mode in [Mode::UnspecifiedMode, Mode::Failover] {
        let service = service("web", "10.1.0.1").balancing(mode, &[Scope::Node]);
        let t = mesh(pod("client", CLIENT).local(), service, endpoints.clone());
        for seed in 0..50 {
            let mut tried = Vec::new();
            let error = loop {
                match call(&t, VIP, seed, &tried) {
                    Ok(Route { hop, .. }) => match hop.upstream() {
                        Upstream::Ip(addr) => tried.push(*addr),
                        Upstream::Host { .. } => unreachable!(),
                    },
                    Err(error) => break error,
                }
            };
            assert_eq!(error.to_string(), "no healthy upstream: 10.1.0.1:80");
            if mode == Mode::Failover {
                assert_eq!(tried[0], addr("10.0.0.3:8080"));
            }
            tried.sort();
            assert_eq!(tried, [addr("10.0.0.1:15008"), addr("10.0.0.2:8080"), addr("10.0.0.3:8080")]);
        }
    }
    let t = TestMesh::new().with(pod("client", CLIENT)).with(pod("a", "10.0.0.1"));
    for dst in ["10.0.0.1:80", "10.7.7.7:80"] {
        assert!(call(&t, dst, 0, &[]).is_ok());
        assert!(matches!(call(&t, dst, 0, &[addr(dst)]), Err(RouteError::NoHealthyUpstream(_))));
    }
}

#[test]
fn an_endpoint_without_address_is_reached_by_name_or_through_its_network_or_not_at_all() {
    let service = || service("web", "10.1.0.1 fd00::1:1");
    let t = mesh(pod("client", CLIENT), service(), [web("a", "")]);
    assert_eq!(hops(&t, VIP), ["no healthy upstream: 10.1.0.1:80"]);
    let t = mesh(pod("client", CLIENT), service(), [web("a", "").network_gateway("n2/10.9.0.1")]);
    assert_eq!(hops(&t, VIP), ["no healthy upstream: 10.1.0.1:80"], "same network");
    let t = mesh(pod("client", CLIENT), service(), [web("a", "").hostname("a.example")]);
    assert_eq!(hops(&t, VIP), ["a.example:8080"]);
    for (dst, v6) in [(VIP, false), ("[fd00::1:1]:80", true)] {
        let Ok(Route { hop: Hop::Tcp { to: Upstream::Host { prefer_v6, .. } }, .. }) = call(&t, dst, 0, &[])
        else {
            panic!("{dst} is not routed by name")
        };
        assert_eq!(prefer_v6, v6);
    }
    let t = mesh(pod("client", CLIENT), service(), [web("a", "").hostname("a.example").hbone()]);
    let hop = call(&t, VIP, 0, &[]).unwrap().hop;
    let Hop::Hbone { authority: HboneAddr::Host(host, 8080), .. } = &hop else { panic!("{hop:?}") };
    assert_eq!(&**host, "a.example");
    let Hop::Hbone { to, authority, .. } = hop.resolved(ip("10.4.4.4")) else { panic!() };
    assert_eq!(to, Upstream::Ip(addr("10.4.4.4:15008")));
    assert_eq!(authority, HboneAddr::Ip(addr("10.4.4.4:8080")));
}

#[test]
fn a_dual_stack_endpoint_keeps_the_family_unless_its_service_says_otherwise() {
    use crate::protocols::pb::workload::IpFamilies;
    let (v4, v6) = ("10.1.0.1:80", "[fd00::1:1]:80");
    let cases = [
        (IpFamilies::Automatic, v4, "10.0.0.1:8080"),
        (IpFamilies::Automatic, v6, "[fd00::1]:8080"),
        (IpFamilies::Dual, v4, "10.0.0.1:8080"),
        (IpFamilies::Dual, v6, "[fd00::1]:8080"),
        (IpFamilies::Ipv4Only, v6, "10.0.0.1:8080"),
        (IpFamilies::Ipv6Only, v4, "[fd00::1]:8080"),
    ];
    for (families, dst, want) in cases {
        let service = service("web", "10.1.0.1 fd00::1:1").families(families);
        let t = mesh(pod("client", CLIENT), service, [web("a", "10.0.0.1 fd00::1 10.0.0.2")]);
        assert_eq!(hops(&t, dst), [want], "{families:?} {dst}");
    }
    let service = service("web", "10.1.0.1").families(IpFamilies::Ipv6Only);
    let t = mesh(pod("client", CLIENT), service, [web("a", "10.0.0.1"), web("b", "fd00::2")]);
    assert_eq!(hops(&t, VIP), ["[fd00::2]:8080"], "an endpoint without an allowed address is not taken");
}

#[test]
fn waypoints_are_chosen_by_weight_with_the_single_one_as_fallback() {
    let (first, second) = ("10.9.0.1:15008", "10.9.0.2:15008");
    let both = |one, two| vec![("10.9.0.1", one), ("10.9.0.2", two)];
    for (weighted, fallback, want) in [
        (vec![], true, vec!["10.9.0.3:15008"]),
        (vec![], false, vec!["10.0.0.1:8080"]),
        (both(100, 0), true, vec![first]),
        (both(0, 100), true, vec![second]),
        (both(0, 0), true, vec!["10.9.0.3:15008"]),
        (both(75, 25), true, vec![first, second]),
    ] {
        let mut service = service("web", "10.1.0.1").weighted(&weighted);
        if fallback {
            service = service.waypoint("10.9.0.3");
        }
        let waypoints = (1..4).map(|n| pod(&format!("wp{n}"), &format!("10.9.0.{n}")));
        let t = mesh(pod("client", CLIENT), service, waypoints.chain([web("a", "10.0.0.1")]));
        let spread = spread(&t, VIP);
        assert_eq!(spread.keys().collect::<Vec<_>>(), want, "{weighted:?}");
        if want.len() == 2 {
            assert!((260..340).contains(&spread[first]), "{spread:?}");
        }
    }
}

#[test]
fn a_suspect_is_chosen_only_if_its_rank_has_no_other_endpoint() {
    let near = |name, ip| web(name, ip).local();
    let endpoints = [near("a", "10.0.0.1"), near("b", "10.0.0.2"), web("c", "10.0.0.3")];
    let standard = || service("web", "10.1.0.1");
    let nearest = || standard().balancing(Mode::Failover, &[Scope::Node]);
    let (a, b, c) = ("10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080");
    type Row<'a> = (&'a str, Svc, &'a [&'a str], &'a [&'a str]);
    let table: [Row<'_>; 6] = [
        ("all are equal", standard(), &["a"], &[b, c]),
        ("one is left", standard(), &["a", "b"], &[c]),
        ("suspects are better than nothing", standard(), &["a", "b", "c"], &[a, b, c]),
        ("another one is as near", nearest(), &["a"], &[b]),
        ("a suspect that is near is better than an endpoint that is far", nearest(), &["a", "b"], &[a, b]),
        ("one that is far is no choice anyway", nearest(), &["c"], &[a, b]),
    ];
    for (why, service, suspects, want) in table {
        let t = mesh(pod("client", CLIENT).local(), service, endpoints.clone());
        let (dst, now) = (OrigDst::new(addr(VIP)), Instant::now());
        let mut ledger = Suspects::default();
        for name in suspects {
            let workload = t.pod(name);
            let hop = SocketAddr::new(workload.addresses()[0], 8080);
            ledger.learn(&Tried { workload: &workload, hop, asked: dst }, Finding::HopFailed, now);
        }
        let workload = t.pod("client");
        let source = Source { workload: &workload, client: ip(CLIENT) };
        let mut got = BTreeSet::new();
        for seed in 0..100 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let suspicion = Some(ledger.of(dst, now));
            let mut pick = Pick { rng: &mut rng, excluded: &[], suspicion, recorder: () };
            let route = outbound(&t.mesh, &source, dst, &mut pick).unwrap();
            got.insert(format!("{:?}", route.hop.upstream()));
        }
        let want: BTreeSet<_> = want.iter().map(|to| format!("{:?}", Upstream::Ip(addr(to)))).collect();
        assert_eq!(got, want, "{why}");
    }
}

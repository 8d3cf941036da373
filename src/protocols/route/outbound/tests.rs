//! Outbound decisions, one case a line.

mod networks;

use rand::{SeedableRng, rngs::SmallRng};

use crate::protocols::route::{Hop, Pick, Route, RouteError, Source, Upstream, check_outbound, outbound};
use crate::protocols::{
    addr::OrigDst,
    config::{DnsAddr, ListenConfig, Ports},
    mesh::fixtures::{TestMesh, addr, ip, pod, service},
    pb::workload::load_balancing::Mode,
};

const CLIENT: &str = "10.0.0.99";

fn route_from(t: &TestMesh, source: &str, client: &str, dst: &str) -> Result<Route, RouteError> {
    let workload = t.pod(source);
    let source = Source { workload: &workload, client: ip(client) };
    let mut rng = SmallRng::seed_from_u64(1);
    outbound(
        &t.mesh,
        &source,
        OrigDst::new(addr(dst)),
        &mut Pick { rng: &mut rng, excluded: &[], suspicion: None, recorder: () },
    )
}

fn route(t: &TestMesh, dst: &str) -> Result<Route, RouteError> {
    route_from(t, "client", CLIENT, dst)
}

/// A route in one line: hop, SANs by service account, who is dialled, service asked for.
fn text(route: Result<Route, RouteError>) -> String {
    let Route { hop, destination, service } = match route {
        Ok(route) => route,
        Err(error) => return format!("refused: {error}"),
    };
    let upstream = |to: &Upstream| match to {
        Upstream::Ip(addr) => addr.to_string(),
        Upstream::Host { host, port, .. } => format!("{host}:{port}"),
    };
    let names = |sans: &crate::protocols::route::Sans| {
        let names: Vec<&str> = sans.iter().map(|san| san.service_account()).collect();
        format!("[{}]", names.join(" "))
    };
    let hop = match &hop {
        Hop::Tcp { to } => format!("tcp {}", upstream(to)),
        Hop::Hbone { to, authority, sans } => format!("hbone {} {authority} {}", upstream(to), names(sans)),
        Hop::DoubleHbone { to, gateway_sans, authority, sans } => {
            let (to, gateway) = (upstream(to), names(gateway_sans));
            format!("double {to} {gateway} {authority} {}", names(sans))
        }
    };
    let destination = destination.map_or("-".into(), |workload| workload.name().to_owned());
    let service = service.map_or("-".into(), |service| service.hostname().to_owned());
    format!("{hop} to {destination} for {service}")
}

fn check(t: &TestMesh, dst: &str, want: &str) {
    assert_eq!(text(route(t, dst)), want, "{dst}");
}

fn client() -> TestMesh {
    TestMesh::new().with(pod("client", CLIENT).hbone().local())
}

#[test]
fn what_nobody_knows_is_passed_through() {
    let t = client().with(service("hidden", "10.1.0.9").namespace("ns2").private());
    check(&t, "10.7.7.7:80", "tcp 10.7.7.7:80 to - for -");
    check(&t, "[fd00::7]:80", "tcp [fd00::7]:80 to - for -");
    check(&t, "10.1.0.9:80", "tcp 10.1.0.9:80 to - for -");
}

#[test]
fn known_workloads_are_dialled_by_their_protocol_wherever_they_run() {
    let t = client()
        .with(pod("t-local", "10.0.0.1").local())
        .with(pod("t-remote", "10.0.0.2"))
        .with(pod("h-local", "10.0.0.3").hbone().local())
        .with(pod("h-remote", "10.0.0.4 fd00::4").hbone());
    check(&t, "10.0.0.1:80", "tcp 10.0.0.1:80 to t-local for -");
    check(&t, "10.0.0.2:80", "tcp 10.0.0.2:80 to t-remote for -");
    check(&t, "10.0.0.3:80", "hbone 10.0.0.3:15008 10.0.0.3:80 [sa-h-local] to h-local for -");
    check(&t, "10.0.0.4:80", "hbone 10.0.0.4:15008 10.0.0.4:80 [sa-h-remote] to h-remote for -");
    check(&t, "[fd00::4]:80", "hbone [fd00::4]:15008 [fd00::4]:80 [sa-h-remote] to h-remote for -");
    check(&t, "[::ffff:10.0.0.2]:80", "tcp 10.0.0.2:80 to t-remote for -");
}

#[test]
fn a_service_leads_to_an_endpoint_with_the_sans_of_both() {
    let sans = ["spiffe://cluster.local/ns/ns1/sa/extra", "junk"];
    let t = client()
        .with(service("web", "10.1.0.1").sans(&sans))
        .with(service("plain", "10.1.0.2"))
        .with(service("empty", "10.1.0.3"))
        .with(pod("a", "10.0.0.1").hbone().of("web", &[(80, 8081)]))
        .with(pod("b", "10.0.0.2").of("plain", &[]));
    check(&t, "10.1.0.1:80", "hbone 10.0.0.1:15008 10.0.0.1:8081 [extra sa-a] to a for web");
    check(&t, "10.1.0.1:81", "refused: no healthy upstream: 10.1.0.1:81");
    check(&t, "10.1.0.2:80", "tcp 10.0.0.2:8080 to b for plain");
    check(&t, "10.1.0.3:80", "refused: no healthy upstream: 10.1.0.3:80");
}

#[test]
fn a_passthrough_service_is_left_alone_unless_it_has_a_waypoint() {
    let t = client()
        .with(service("web", "10.1.0.1").balancing(Mode::Passthrough, &[]))
        .with(service("way", "10.1.0.2").balancing(Mode::Passthrough, &[]).waypoint("10.9.0.1"))
        .with(pod("wp", "10.9.0.1").hbone())
        .with(pod("a", "10.0.0.1").of("web", &[]).of("way", &[]));
    check(&t, "10.1.0.1:80", "tcp 10.1.0.1:80 to - for -");
    check(&t, "10.1.0.2:80", "hbone 10.9.0.1:15008 10.1.0.2:80 [sa-wp] to wp for way");
}

#[test]
fn host_network_pods_are_reached_as_endpoints_only() {
    let t = client()
        .with(service("web", "10.1.0.1"))
        .with(pod("host", "10.0.5.1").hbone().host_network().of("web", &[]))
        .with(pod("host2", "10.0.5.1").host_network().of("other", &[]));
    check(&t, "10.1.0.1:80", "hbone 10.0.5.1:15008 10.0.5.1:8080 [sa-host] to host for web");
    check(&t, "10.0.5.1:80", "tcp 10.0.5.1:80 to - for -");
}

#[test]
fn a_workloads_waypoint_goes_first_but_the_sources_does_not() {
    let t = TestMesh::new()
        .with(pod("client", CLIENT).hbone().waypoint("10.9.0.9"))
        .with(pod("a", "10.0.0.1").hbone().waypoint("10.9.0.1"))
        .with(pod("v6", "fd00::1").waypoint("10.9.0.1"))
        .with(pod("named", "10.0.0.2").waypoint("ns1/wp-svc"))
        .with(pod("bywl", "10.0.0.3").waypoint("ns1/wp.example"))
        .with(pod("lost", "10.0.0.4").waypoint("10.9.0.7"))
        .with(pod("lost2", "10.0.0.5").waypoint("ns1/nowhere"))
        .with(pod("plain", "10.0.0.6"))
        .with(pod("wp", "10.9.0.1").hbone())
        .with(pod("wp2", "10.9.0.2 fd00::92").hbone().of("wp-svc", &[]))
        .with(pod("wp3", "10.9.0.3").hostname("wp.example"))
        .with(service("wp-svc", "10.1.0.9").ports(&[(15008, 15008)]));
    check(&t, "10.0.0.1:80", "hbone 10.9.0.1:15008 10.0.0.1:80 [sa-wp] to wp for -");
    check(&t, "[fd00::1]:80", "hbone 10.9.0.1:15008 [fd00::1]:80 [sa-wp] to wp for -");
    check(&t, "10.0.0.2:80", "hbone 10.9.0.2:15008 10.0.0.2:80 [sa-wp2] to wp2 for -");
    check(&t, "10.0.0.3:80", "hbone 10.9.0.3:15008 10.0.0.3:80 [sa-wp3] to wp3 for -");
    check(&t, "10.0.0.4:80", "refused: unknown waypoint: /10.9.0.7:15008");
    check(&t, "10.0.0.5:80", "refused: unknown waypoint: ns1/nowhere:15008");
    check(&t, "10.0.0.6:80", "tcp 10.0.0.6:80 to plain for -");
}

#[test]
fn a_service_waypoint_is_used_for_the_service_only_and_by_everyone() {
    let t = client()
        .with(service("web", "10.1.0.1").waypoint("ns1/wp-svc"))
        .with(service("vip", "10.1.0.2").waypoint("10.1.0.9"))
        .with(service("lost", "10.1.0.3").waypoint("10.1.0.8"))
        .with(
            service("wp-svc", "10.1.0.9")
                .ports(&[(15008, 15018)])
                .sans(&["spiffe://cluster.local/ns/ns1/sa/extra"]),
        )
        .with(pod("wp", "10.9.0.1").hbone().of("wp-svc", &[]))
        .with(pod("a", "10.0.0.1").hbone().of("web", &[]));
    check(&t, "10.1.0.1:80", "hbone 10.9.0.1:15018 10.1.0.1:80 [extra sa-wp] to wp for web");
    check(&t, "10.1.0.2:80", "hbone 10.9.0.1:15018 10.1.0.2:80 [extra sa-wp] to wp for vip");
    check(&t, "10.1.0.3:80", "refused: unknown waypoint: /10.1.0.8:15008");
    check(&t, "10.0.0.1:80", "hbone 10.0.0.1:15008 10.0.0.1:80 [sa-a] to a for -");
    let own = route_from(&t, "wp", "10.9.0.1", "10.1.0.1:80");
    assert_eq!(text(own), "hbone 10.9.0.1:15018 10.1.0.1:80 [extra sa-wp] to wp for web");
}

#[test]
fn a_workloads_waypoint_does_not_stand_before_its_services() {
    let t = client()
        .with(service("web", "10.1.0.1"))
        .with(pod("wp", "10.9.0.1").hbone())
        .with(pod("a", "10.0.0.1").hbone().of("web", &[]).waypoint("10.9.0.1"));
    check(&t, "10.1.0.1:80", "hbone 10.0.0.1:15008 10.0.0.1:8080 [sa-a] to a for web");
    check(&t, "10.0.0.1:80", "hbone 10.9.0.1:15008 10.0.0.1:80 [sa-wp] to wp for -");
}

#[test]
fn a_waypoint_is_not_sent_to_itself() {
    let t = TestMesh::new()
        .with(pod("wp", "10.9.0.1").hbone().of("wp-svc", &[]))
        .with(pod("other", "10.9.0.2").hbone())
        .with(service("wp-svc", "10.1.0.9").ports(&[(15008, 15008)]))
        .with(pod("by-ip", "10.0.0.1").waypoint("10.9.0.1"))
        .with(pod("by-vip", "10.0.0.2").waypoint("10.1.0.9"))
        .with(pod("by-name", "10.0.0.3").waypoint("ns1/wp-svc"));
    for (dst, name) in [("10.0.0.1:80", "by-ip"), ("10.0.0.2:80", "by-vip"), ("10.0.0.3:80", "by-name")] {
        assert_eq!(text(route_from(&t, "wp", "10.9.0.1", dst)), format!("tcp {dst} to {name} for -"));
        let through = format!("hbone 10.9.0.1:15008 {dst} [sa-wp] to wp for -");
        assert_eq!(text(route_from(&t, "other", "10.9.0.2", dst)), through);
        let spoofed = route_from(&t, "wp", "10.9.0.77", dst);
        assert_eq!(text(spoofed), through, "the client address must be the waypoint's own");
    }
}

#[test]
fn a_waypoint_with_an_application_tunnel_needs_no_port_in_its_service() {
    let waypoint = |tunnel: bool| {
        let waypoint = pod("wp", "10.9.0.1").hbone().of("wp-svc", &[]);
        let waypoint = if tunnel { waypoint.tunnel(true, 15088) } else { waypoint };
        client()
            .with(service("web", "10.1.0.1").waypoint("10.1.0.9"))
            .with(service("wp-svc", "10.1.0.9").ports(&[]))
            .with(waypoint)
    };
    check(&waypoint(true), "10.1.0.1:80", "hbone 10.9.0.1:15008 10.1.0.1:80 [sa-wp] to wp for web");
    check(&waypoint(false), "10.1.0.1:80", "refused: unknown waypoint: /10.1.0.9:15008");
}

#[test]
fn a_known_pod_inside_a_range_is_called_itself() {
    let t = client()
        .with(service("range", "10.0.0.0/16"))
        .with(pod("elsewhere", "10.5.0.1").of("range", &[]))
        .with(pod("a", "10.0.0.1"));
    check(&t, "10.0.0.1:80", "tcp 10.0.0.1:80 to a for -");
    check(&t, "10.0.0.2:80", "tcp 10.5.0.1:8080 to elsewhere for range");
}

#[test]
fn a_pod_whose_address_is_also_a_service_is_never_dialled_past_the_service() {
    let t = client().with(service("web", "10.0.0.1")).with(pod("a", "10.0.0.1").hbone());
    check(&t, "10.0.0.1:80", "refused: no healthy upstream: 10.0.0.1:80");
    let t = t.with(pod("b", "10.0.0.2").of("web", &[]));
    check(&t, "10.0.0.1:80", "tcp 10.0.0.2:8080 to b for web");
}

#[test]
fn calls_to_the_proxys_own_ports_are_refused_on_loopback_and_on_own_addresses() {
    let t = TestMesh::new().with(pod("client", "10.0.0.99 fd00::99"));
    let localhost = Ports { dns: Some(DnsAddr::Localhost(15053)), ..ListenConfig::default().ports };
    let elsewhere = Ports { dns: Some(DnsAddr::Ip(addr("169.254.20.10:53"))), ..localhost };
    let workload = t.pod("client");
    let source = Source { workload: &workload, client: ip(CLIENT) };
    for (dst, refused) in [("169.254.20.10:53", true), ("10.0.0.99:53", false), ("10.0.0.99:15053", false)] {
        let verdict = check_outbound(&elsewhere, &source, OrigDst::new(addr(dst)));
        assert_eq!(verdict.is_err(), refused, "{dst}");
    }
    let ports = localhost;
    for (dst, refused) in [
        ("127.0.0.1:15053", true),
        ("[::1]:15053", true),
        ("10.0.0.99:15053", true),
        ("10.0.0.1:15053", false),
        ("127.0.0.1:15001", true),
        ("127.0.0.9:15006", true),
        ("[::1]:15008", true),
        ("[::ffff:127.0.0.1]:15001", true),
        ("10.0.0.99:15001", true),
        ("[fd00::99]:15008", true),
        ("127.0.0.1:15002", false),
        ("10.0.0.1:15008", false),
        ("10.0.0.99:80", false),
    ] {
        let verdict = check_outbound(&ports, &source, OrigDst::new(addr(dst)));
        assert_eq!(verdict, if refused { Err(RouteError::Recursive) } else { Ok(()) }, "{dst}");
    }
    assert_eq!(RouteError::Recursive.to_string(), "attempted recursive call to ourselves");
}

/// The data path hands out no more than before there were recorders.
#[test]
fn a_recorder_that_hears_nothing_takes_no_room() {
    type Bare<'a> =
        (&'a mut dyn rand::RngCore, &'a [std::net::SocketAddr], Option<super::super::Suspicion<'a>>);
    assert_eq!(size_of::<Pick<'_>>(), size_of::<Bare<'_>>());
}

//! Inbound decisions, one case a line.

use crate::protocols::route::{
    Inbound, InboundError, InboundHbone, inbound_hbone, inbound_plaintext, inbound_service,
};
use crate::protocols::{
    addr::OrigDst,
    config::{DnsAddr, ListenConfig, Ports},
    mesh::fixtures::{TestMesh, addr, pod, service},
};

fn ports() -> Ports {
    Ports { dns: Some(DnsAddr::Localhost(15053)), ..ListenConfig::default().ports }
}

fn ask(t: &TestMesh, pod: &str, dst: &str, authority: &str) -> Result<Inbound, InboundError> {
    let local = t.pod(pod);
    let authority = authority.parse().unwrap();
    let request =
        InboundHbone { local: &local, dst: addr(dst), authority: &authority, localhost_app_tunnel: true };
    inbound_hbone(&t.mesh, &request, &ports())
}

/// target, what is dialled if it is something else, PROXY destination, service; or status and error.
fn text(inbound: Result<Inbound, InboundError>) -> String {
    let inbound = match inbound {
        Ok(inbound) => inbound,
        Err(error) => return format!("{} {error}", error.status()),
    };
    let mut text = inbound.target.to_string();
    if inbound.dial != inbound.target {
        text += &format!(" at {}", inbound.dial);
    }
    if let Some(dst) = inbound.proxy_header_dst {
        text += &format!(" proxy {dst}");
    }
    if let Some(service) = inbound.service {
        text += &format!(" for {}", service.hostname());
    }
    text
}

#[track_caller]
fn check(t: &TestMesh, pod: &str, dst: &str, authority: &str, want: &str) {
    assert_eq!(text(ask(t, pod, dst, authority)), want);
}

#[test]
fn a_request_for_the_own_address_goes_to_its_port() {
    let t = TestMesh::new().with(pod("a", "10.0.0.1 fd00::1").local());
    check(&t, "a", "10.0.0.1:15008", "10.0.0.1:80", "10.0.0.1:80");
    check(&t, "a", "[fd00::1]:15008", "[fd00::1]:80", "[fd00::1]:80");
    check(&t, "a", "[::ffff:10.0.0.1]:15008", "10.0.0.1:80", "10.0.0.1:80");
    let mismatch = "400 ip mismatch: 10.0.0.2 is not served at 10.0.0.1";
    check(&t, "a", "10.0.0.1:15008", "10.0.0.2:80", mismatch);
    let other_family = "400 ip mismatch: fd00::1 is not served at 10.0.0.1";
    check(&t, "a", "10.0.0.1:15008", "[fd00::1]:80", other_family);
}

#[test]
fn a_hostname_is_a_service_the_pod_may_see_and_its_port_the_pods_own_first() {
    let t = TestMesh::new()
        .with(pod("a", "10.0.0.1").local().of("web", &[(80, 8081)]).of("named", &[]))
        .with(service("web", "10.1.0.1").ports(&[(80, 8080), (81, 8082)]))
        .with(service("named", "10.1.0.2").ports(&[(80, 0)]))
        .with(service("hidden", "10.1.0.3").namespace("ns2").private());
    check(&t, "a", "10.0.0.1:15008", "web:80", "10.0.0.1:8081 for web");
    check(&t, "a", "10.0.0.1:15008", "web:81", "10.0.0.1:8082 for web");
    check(&t, "a", "10.0.0.1:15008", "web:82", "503 no port 82 of service web at this workload");
    check(&t, "a", "10.0.0.1:15008", "named:80", "503 no port 80 of service named at this workload");
    check(&t, "a", "10.0.0.1:15008", "hidden:80", "503 unknown service: hidden");
    check(&t, "a", "10.0.0.1:15008", "nowhere:80", "503 unknown service: nowhere");
    let t = t.with(pod("a", "10.0.0.1").local().of("named", &[(80, 9090)]));
    check(&t, "a", "10.0.0.1:15008", "named:80", "10.0.0.1:9090 for named");
}

#[test]
fn a_hostname_of_several_namespaces_is_the_pods_own_then_the_canonical_one() {
    let t = TestMesh::new()
        .with(pod("a", "10.0.0.1").local())
        .with(service("web", "").namespace("ns2").ports(&[(80, 2)]))
        .with(service("web", "").namespace("ns3").ports(&[(80, 3)]).canonical());
    check(&t, "a", "10.0.0.1:15008", "web:80", "10.0.0.1:3 for web");
    let t = t.with(service("web", "").ports(&[(80, 1)]));
    check(&t, "a", "10.0.0.1:15008", "web:80", "10.0.0.1:1 for web");
}

#[test]
fn a_waypoint_takes_requests_for_what_refers_to_it() {
    let t = TestMesh::new()
        .with(pod("wp", "10.9.0.1").local().of("wp-svc", &[]))
        .with(pod("lone", "10.9.0.2").local())
        .with(service("wp-svc", "10.1.0.9").ports(&[(15008, 15008)]))
        .with(pod("by-ip", "10.0.0.1").waypoint("10.9.0.1"))
        .with(pod("by-vip", "10.0.0.2").waypoint("10.1.0.9"))
        .with(pod("by-name", "10.0.0.3").waypoint("ns1/wp-svc"))
        .with(pod("without", "10.0.0.4"))
        .with(pod("unknown", "10.0.0.5").waypoint("ns1/nowhere"))
        .with(service("s-ip", "10.1.0.1").waypoint("10.9.0.1"))
        .with(service("s-vip", "10.1.0.2").waypoint("10.1.0.9"))
        .with(service("s-name", "10.1.0.3").namespace("ns2").private().waypoint("ns1/wp-svc"))
        .with(service("s-without", "10.1.0.4"))
        .with(service("s-weighted", "10.1.0.5").weighted(&[("10.9.0.9", 1), ("ns1/wp-svc", 1)]));
    for asked in ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.5"] {
        check(&t, "wp", "10.9.0.1:15008", &format!("{asked}:80"), "10.9.0.1:80");
        let refused = format!("400 ip mismatch: {asked} is not served at 10.9.0.2");
        check(&t, "lone", "10.9.0.2:15008", &format!("{asked}:80"), &refused);
    }
    for asked in ["10.0.0.4", "10.0.0.5", "10.1.0.4", "10.7.7.7"] {
        let refused = format!("400 ip mismatch: {asked} is not served at 10.9.0.1");
        check(&t, "wp", "10.9.0.1:15008", &format!("{asked}:80"), &refused);
    }
}

#[test]
fn what_is_attached_to_a_service_is_not_attached_to_its_workloads_nor_the_other_way_round() {
    let t = TestMesh::new()
        .with(pod("wp", "10.9.0.1").local())
        .with(service("web", "10.1.0.1").waypoint("10.9.0.1"))
        .with(pod("a", "10.0.0.1").of("web", &[]))
        .with(service("other", "10.1.0.2"))
        .with(pod("b", "10.0.0.2").of("other", &[]).waypoint("10.9.0.1"));
    check(&t, "wp", "10.9.0.1:15008", "10.1.0.1:80", "10.9.0.1:80");
    check(&t, "wp", "10.9.0.1:15008", "10.0.0.2:80", "10.9.0.1:80");
    for asked in ["10.0.0.1", "10.1.0.2"] {
        let refused = format!("400 ip mismatch: {asked} is not served at 10.9.0.1");
        check(&t, "wp", "10.9.0.1:15008", &format!("{asked}:80"), &refused);
    }
}

#[test]
fn an_application_tunnel_takes_any_address_and_may_change_the_port() {
    let plain = |port| TestMesh::new().with(pod("wp", "10.9.0.1").local().tunnel(false, port));
    check(&plain(0), "wp", "10.9.0.1:15008", "10.1.0.1:80", "10.9.0.1:80");
    check(&plain(15088), "wp", "10.9.0.1:15008", "10.1.0.1:80", "10.9.0.1:15088");
    let proxy = TestMesh::new().with(pod("wp", "10.9.0.1 fd00::1").local().tunnel(true, 15088));
    let at = |ip: &str| format!("{ip}:15088 at ");
    check(
        &proxy,
        "wp",
        "10.9.0.1:15008",
        "10.1.0.1:80",
        &(at("10.9.0.1") + "127.0.0.1:15088 proxy 10.1.0.1:80"),
    );
    check(
        &proxy,
        "wp",
        "[fd00::1]:15008",
        "10.1.0.1:80",
        &(at("[fd00::1]") + "[::1]:15088 proxy 10.1.0.1:80"),
    );
    let local = proxy.pod("wp");
    let authority = "10.1.0.1:80".parse().unwrap();
    let request = InboundHbone {
        local: &local,
        dst: addr("10.9.0.1:15008"),
        authority: &authority,
        localhost_app_tunnel: false,
    };
    let inbound = inbound_hbone(&proxy.mesh, &request, &ports()).unwrap();
    assert_eq!((inbound.dial, inbound.proxy_protocol()), (addr("10.9.0.1:15088"), true));
}

#[test]
fn a_proxy_header_names_an_address_of_the_service_asked_for_by_hostname() {
    let t = |vips: &str| {
        TestMesh::new()
            .with(pod("wp", "10.9.0.1").local().tunnel(true, 15088).of("web", &[]))
            .with(service("web", vips))
    };
    let want = |vip: &str| format!("10.9.0.1:15088 at 127.0.0.1:15088 proxy {vip}:80 for web");
    check(&t("10.1.0.1"), "wp", "10.9.0.1:15008", "web:80", &want("10.1.0.1"));
    let best = t("n2/10.1.0.2 fd00::9 10.1.0.1");
    check(&best, "wp", "10.9.0.1:15008", "web:80", &want("10.1.0.1"));
    check(&t("n2/10.1.0.2 fd00::9"), "wp", "10.9.0.1:15008", "web:80", &want("[fd00::9]"));
    let none = "503 service web has no address for a PROXY header";
    check(&t(""), "wp", "10.9.0.1:15008", "web:80", none);
}

#[test]
fn own_ports_are_refused_wherever_they_come_from() {
    let t = TestMesh::new()
        .with(pod("a", "10.0.0.1").local().of("web", &[]))
        .with(pod("tunnel", "10.0.0.2").local().tunnel(false, 15006))
        .with(pod("to-dns", "10.0.0.3").local().tunnel(true, 15053))
        .with(service("web", "").ports(&[(80, 15001), (53, 15053)]));
    let refused = "503 attempted recursive call to ourselves";
    check(&t, "a", "10.0.0.1:15008", "10.0.0.1:15008", refused);
    check(&t, "a", "10.0.0.1:15008", "10.0.0.1:15053", refused);
    check(&t, "a", "10.0.0.1:15008", "web:80", refused);
    check(&t, "a", "10.0.0.1:15008", "web:53", refused);
    check(&t, "tunnel", "10.0.0.2:15008", "10.0.0.2:80", refused);
    check(&t, "to-dns", "10.0.0.3:15008", "10.0.0.3:80", refused);
    let plain = |dst| inbound_plaintext(OrigDst::new(addr(dst)), &ports());
    assert_eq!(plain("10.0.0.1:15006"), Err(InboundError::Recursive));
    assert_eq!(plain("10.0.0.1:15053"), Err(InboundError::Recursive));
    assert_eq!(text(plain("10.0.0.1:80")), "10.0.0.1:80");
}

#[test]
fn a_connection_counts_for_the_service_named_or_the_first_with_its_port() {
    let t = TestMesh::new()
        .with(pod("a", "10.0.0.1").local().of("one", &[]).of("two", &[]).of("unknown", &[]))
        .with(service("one", "").ports(&[(80, 8080)]))
        .with(service("two", "").ports(&[(80, 8080), (81, 8081)]))
        .with(service("three", "").ports(&[(80, 8080)]));
    let local = t.pod("a");
    let found = |named, port| {
        inbound_service(&t.mesh, &local, named, port).map(|service| service.hostname().to_owned())
    };
    assert_eq!(found(None, 8080).as_deref(), Some("one"));
    assert_eq!(found(None, 8081).as_deref(), Some("two"));
    assert_eq!(found(None, 9999), None);
    assert_eq!(found(Some("two"), 8080).as_deref(), Some("two"));
    assert_eq!(found(Some("three"), 8080).as_deref(), Some("one"), "it is no endpoint of what is named");
}

//! Envoy as an east-west gateway of double HBONE, and as a client of one (docs/spec/dataplane.md 3.4).

use crate::{
    bootstrap::{Action, Bootstrap, Connect, Virtual},
    envoy::{Envoy, id},
    logs::line,
    metrics::metrics_show,
    support::{Lab, addr, ask, is_turned_away, open, raise},
    traffic::{end_first, move_bytes},
};

/// Services with endpoints on the network of node two, of which one has a waypoint there. GATEWAY stands for the
/// reference to its gateway.
const MESH: &str = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
networks: [{name: west, nodes: [one]}, {name: east, nodes: [two], gateway: GATEWAY}]
pods:
  - {name: client, serviceAccount: client, node: one, ip: 10.77.1.1}
  - {name: near, serviceAccount: near, node: one, ip: 10.77.1.2, run: echo 9000}
  - {name: envoy, serviceAccount: envoy, node: one, ip: 10.77.1.8, captured: false}
  - {name: server, serviceAccount: server, node: two, ip: 10.77.2.1, app: web, run: [echo 9000, http 8080, bulk 7001]}
  - {name: waypoint, serviceAccount: waypoint, node: two, ip: 10.77.2.8, captured: false, protocol: HBONE}
  - {name: gateway, serviceAccount: gateway, node: two, ip: 10.77.2.9, captured: false}
services:
  - {name: web, vips: 10.96.0.1, ports: {70: 7001, 80: 8080, 90: 9000}, app: web}
  - {name: behind, vips: 10.96.0.3, ports: {90: 9000}, endpoints: [server], waypoint: default/wp.default.svc.cluster.local}
  - {name: wp, ports: {15008: 15008}, endpoints: [waypoint]}
  - {name: both, vips: 10.96.0.6, ports: {90: 9000}, endpoints: [near, server]}
  - {name: gws, ports: {15009: 15008}, endpoints: [gateway]}
  - {name: dead, vips: 10.96.0.4, ports: {90: 9000}, endpoints: [server]}
  - {name: unknown, vips: 10.96.0.5, ports: {90: 9000}, endpoints: [server]}
";
const WEB_HTTP_NAME: &str = "web.default.svc.cluster.local:80";
const BULK: &str = "10.96.0.1:70";
const BULK_NAME: &str = "web.default.svc.cluster.local:70";
const WEB: &str = "10.96.0.1:90";
const WEB_NAME: &str = "web.default.svc.cluster.local:90";
const BEHIND: &str = "10.96.0.3:90";
const BEHIND_NAME: &str = "behind.default.svc.cluster.local:90";
const BOTH: &str = "10.96.0.6:90";
const BOTH_NAME: &str = "both.default.svc.cluster.local:90";
const DEAD: &str = "10.96.0.4:90";
const DEAD_NAME: &str = "dead.default.svc.cluster.local:90";
const UNKNOWN: &str = "10.96.0.5:90";
const BY_ADDRESS: &str = "east/10.77.2.9";
const BY_NAME: &str = "default/gws.default.svc.cluster.local:15009";

pub(crate) fn raise_networks(policies: &str) -> Lab {
    raise(&format!("{MESH}{policies}").replace("GATEWAY", BY_ADDRESS))
}

/// The gateway: it passes on, unread, to the proxy of the server or of the waypoint.
pub(crate) fn gateway(lab: &Lab) -> Bootstrap {
    let to = |authority, cluster| Connect { authority, action: Action::To(cluster) };
    let routes = [
        to(BULK_NAME, "server"),
        to(WEB_HTTP_NAME, "server"),
        to(WEB_NAME, "server"),
        to(BOTH_NAME, "server"),
        to(BEHIND_NAME, "waypoint"),
        to(DEAD_NAME, "dead"),
    ];
    Bootstrap::new(lab.directory(), "gateway")
        .plain("server", &[("10.77.2.1", 15008)])
        .plain("waypoint", &[("10.77.2.8", 15008)])
        .plain("dead", &[("10.77.2.8", 15999)])
        .ends_tunnels(&[], &routes)
}

pub(crate) fn a_gateway_passes_tunnels_on_to_applications_and_waypoints() {
    let mut lab = raise_networks("");
    let bootstrap = gateway(&lab);
    let gateway = Envoy::start(&mut lab, "gateway", &bootstrap);
    let served = [Virtual { ip: "10.96.0.3", port: 90, endpoint: "10.77.2.1:9000", is_http: false }];
    let bootstrap =
        Bootstrap::new(lab.directory(), "waypoint").waypoint(&[(BEHIND_NAME, "10.96.0.3:90")], &served);
    let waypoint = Envoy::start(&mut lab, "waypoint", &bootstrap);
    for to in [WEB, BEHIND] {
        open(&lab, "client", to).unwrap();
        end_first(&lab, "client", to);
    }
    move_bytes(&lab, "client", BULK, 8 << 20, 8 << 20);
    let client = id("client");
    for (authority, peer) in [(WEB_NAME, "server"), (BEHIND_NAME, "waypoint")] {
        let outer = gateway.line(&[
            ("listener", "hbone"),
            ("authority", authority),
            ("peer", &client),
            ("status", "200"),
        ]);
        // Only the inner tunnel tells of the client's network.
        assert_eq!(outer.field("network"), "", "{outer:?}");
        assert!(outer.field("baggage").contains("k8s.pod.name=client"), "{outer:?}");
        let told = [
            ("direction", "outbound"),
            ("dst.addr", "10.77.2.9:15008"),
            ("dst.hbone_addr", authority),
            ("dst.identity", &id(peer)),
            ("error", ""),
        ];
        line(&lab, "one", &told);
    }
    waypoint.line(&[
        ("listener", "hbone"),
        ("authority", BEHIND_NAME),
        ("peer", &client),
        ("network", "west"),
    ]);
    for (client, authority) in [("client", WEB_NAME), ("waypoint", "10.77.2.1:9000")] {
        let told = [
            ("direction", "inbound"),
            ("dst.workload", "server"),
            ("dst.hbone_addr", authority),
            ("src.identity", &id(client)),
            ("src.workload", client),
            ("error", ""),
        ];
        line(&lab, "two", &told);
    }
}

pub(crate) fn a_service_with_an_endpoint_behind_a_gateway_loses_no_connection() {
    for reference in [BY_ADDRESS, BY_NAME] {
        let mut lab = raise(&MESH.replace("GATEWAY", reference));
        let bootstrap = gateway(&lab);
        let gateway = Envoy::start(&mut lab, "gateway", &bootstrap);
        for turn in 0..60 {
            let opened = open(&lab, "client", BOTH);
            assert!(opened.is_ok(), "connection {turn} by {reference}: {opened:?}");
        }
        let far = gateway.stat("http.hbone.downstream_rq_total");
        assert!((10..=50).contains(&far), "{far} connections by the gateway");
    }
}

pub(crate) fn what_a_gateway_or_its_destination_refuses_ends_the_connection() {
    let mut lab = raise_networks(
        "
policies:
  - {name: not-client, action: DENY, app: web, rules: [{from: {serviceAccounts: [default/client]}, to: {ports: [9000]}}]}
",
    );
    let bootstrap = gateway(&lab);
    let gateway = Envoy::start(&mut lab, "gateway", &bootstrap);
    // The policy at the destination, nobody behind the gateway, and no route.
    for (to, outer, inner) in [(WEB, "200", "401"), (DEAD, "503", "503"), (UNKNOWN, "404", "404")] {
        let end = ask(lab.pod("client").unwrap(), addr(to));
        assert!(is_turned_away(&end), "{to}: {end:?}");
        gateway.line(&[("listener", "hbone"), ("status", outer)]);
        let name = match to {
            WEB => WEB_NAME,
            DEAD => DEAD_NAME,
            _ => "unknown.default.svc.cluster.local:90",
        };
        let ours = line(&lab, "one", &[("direction", "outbound"), ("dst.hbone_addr", name)]);
        assert!(ours.field("error").contains(inner), "{ours:?}");
    }
    metrics_show(&lab, "one", "refused connections", |metrics| {
        metrics.sum("istio_tcp_connections_closed_total", &[("response_flags", "CONNECT")]) == 3.0
    });
    metrics_show(&lab, "two", "denied connection", |metrics| {
        metrics.sum("istio_tcp_connections_closed_total", &[("response_flags", "DENY")]) == 1.0
    });
}

pub(crate) fn an_envoy_of_another_network_is_known_by_its_inner_identity_and_its_baggage() {
    let mut lab = raise_networks("");
    let bootstrap = gateway(&lab);
    let _gateway = Envoy::start(&mut lab, "gateway", &bootstrap);
    let headers = [
        ("x-forwarded-network", "west"),
        (
            "baggage",
            "k8s.cluster.name=far,k8s.namespace.name=there,k8s.deployment.name=told,service.name=told",
        ),
    ];
    let bootstrap = Bootstrap::new(lab.directory(), "envoy")
        .hbone("gateway", ("10.77.2.9", 15008), "gateway")
        .double_hbone("inner", ("gateway", WEB_NAME), "server")
        .tunnels(7000, "inner", WEB_NAME, &headers);
    let envoy = Envoy::start(&mut lab, "envoy", &bootstrap);
    open(&lab, "envoy", "127.0.0.1:7000").unwrap();
    envoy.line(&[("listener", &format!("to-{WEB_NAME}")), ("upstream", &id("server"))]);
    let told = [
        ("direction", "inbound"),
        ("src.identity", &id("envoy")),
        ("src.workload", "told"),
        ("src.namespace", "there"),
        ("dst.hbone_addr", WEB_NAME),
        ("error", ""),
    ];
    let ours = line(&lab, "two", &told);
    assert!(ours.field("src.addr").starts_with("10.77.2.9:"), "{ours:?}");
}

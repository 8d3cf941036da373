//! Destinations on another network, behind a gateway (docs/spec/dataplane.md 3.2 to 3.4).

use std::time::Instant;

use warren::lab::control::ca::CaOptions;

use crate::{
    logs::line,
    metrics::{all_closed, metrics, metrics_show},
    support::{
        LIMIT, Lab, addr, ask, change, echo, is_turned_away, launch, open, open_at_last, raise, raise_as,
    },
};

/// A service with an endpoint on each network, one with an endpoint on the other network only, and one whose waypoint is
/// on the other network. GATEWAY stands for the reference to the gateway of node two's network.
const MESH: &str = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
networks: [{name: east, nodes: [two], gateway: GATEWAY}]
pods:
  - {name: client, serviceAccount: client, node: one, ip: 10.77.1.1}
  - {name: near, serviceAccount: near, node: one, ip: 10.77.1.2, app: web, run: echo 9000}
  - {name: far, serviceAccount: far, node: two, ip: 10.77.2.1, app: web, run: echo 9000}
  - {name: waypoint, serviceAccount: waypoint, node: two, ip: 10.77.2.8, run: echo 9000}
  - {name: gateway, serviceAccount: gateway, node: two, ip: 10.77.2.9, captured: false, run: gateway 15008}
services:
  - {name: web, vips: 10.96.0.1, ports: {80: 9000}, app: web}
  - {name: remote, vips: 10.96.0.2, ports: {80: 9000}, endpoints: [far]}
  - {name: behind, vips: 10.96.0.3, ports: {80: 9000}, endpoints: [near], waypoint: default/wp.default.svc.cluster.local}
  - {name: wp, ports: {15008: 15008}, endpoints: [waypoint]}
  - {name: gws, ports: {15009: 15008}, endpoints: [gateway]}
";
const BY_ADDRESS: &str = "east/10.77.2.9";
const BY_NAME: &str = "default/gws.default.svc.cluster.local:15009";
const NOBODY: &str = "east/10.77.9.9";
const WEB: &str = "10.96.0.1:80";
const REMOTE: &str = "10.96.0.2:80";
const BEHIND: &str = "10.96.0.3:80";

fn mesh(gateway: &str) -> String {
    MESH.replace("GATEWAY", gateway)
}

/// The connections that the client's proxy has opened to a workload.
fn opened(lab: &Lab, workload: &str) -> f64 {
    let labels = [("reporter", "source"), ("destination_workload", workload)];
    metrics(lab, "one").sum("istio_tcp_connections_opened_total", &labels)
}

pub(crate) fn a_service_on_two_networks_loses_no_connection_by_address_or_name_of_its_gateway() {
    for gateway in [BY_ADDRESS, BY_NAME] {
        let lab = raise(&mesh(gateway));
        for turn in 0..60 {
            let opened = open(&lab, "client", WEB);
            assert!(opened.is_ok(), "connection {turn} by {gateway}: {opened:?}");
        }
        all_closed(&lab, "one");
        let (near, far) = (opened(&lab, "near"), opened(&lab, "far"));
        assert!(near + far == 60.0 && near > 10.0 && far > 10.0, "{near} near and {far} far by {gateway}");
        let told = [
            ("direction", "outbound"),
            ("dst.addr", "10.77.2.9:15008"),
            ("dst.hbone_addr", "web.default.svc.cluster.local:80"),
            ("dst.service", "web.default.svc.cluster.local"),
            ("dst.workload", "far"),
            ("dst.namespace", "default"),
            ("dst.identity", "spiffe://cluster.local/ns/default/sa/far"),
            ("src.identity", "spiffe://cluster.local/ns/default/sa/client"),
            ("error", ""),
        ];
        line(&lab, "one", &told);
        // The destination knows the client by its identity and baggage, though the gateway has connected.
        let told = [
            ("direction", "inbound"),
            ("src.workload", "client"),
            ("src.identity", "spiffe://cluster.local/ns/default/sa/client"),
            ("dst.workload", "far"),
            ("dst.hbone_addr", "web.default.svc.cluster.local:80"),
        ];
        let line = line(&lab, "two", &told);
        assert!(line.field("src.addr").starts_with("10.77.2.9:"), "{line:?}");
    }
}

pub(crate) fn a_waypoint_on_another_network_serves() {
    let lab = raise(&mesh(BY_ADDRESS));
    for _ in 0..5 {
        open(&lab, "client", BEHIND).unwrap();
    }
    all_closed(&lab, "one");
    assert_eq!((opened(&lab, "waypoint"), opened(&lab, "near")), (5.0, 0.0));
}

pub(crate) fn an_endpoint_whose_gateway_nobody_knows_is_left_alone() {
    let text = mesh(BY_ADDRESS).replace(
        "ip: 10.77.2.1, app: web,",
        &format!("ip: 10.77.2.1, app: web, announce: {{networkGateway: {NOBODY}}},"),
    );
    let mut lab = raise(&text);
    for turn in 0..60 {
        let opened = open(&lab, "client", WEB);
        assert!(opened.is_ok(), "connection {turn}: {opened:?}");
    }
    let end = ask(lab.pod("client").unwrap(), addr(REMOTE));
    assert!(is_turned_away(&end), "{end:?}");
    let error = format!("no healthy upstream: unknown network gateway: {NOBODY}:15008");
    line(&lab, "one", &[("dst.addr", REMOTE), ("error", &error)]);
    // The gateway comes to be known.
    change(&mut lab, &mesh(BY_ADDRESS));
    open_at_last(&lab, "client", REMOTE);
}

pub(crate) fn a_frozen_gateway_hangs_nobody_and_the_near_endpoint_serves() {
    let launch =
        launch().env("WARREN_TLS_HANDSHAKE_TIMEOUT", "2s").env("WARREN_CONNECT_RESPONSE_TIMEOUT", "4s");
    let mut lab = raise_as(&mesh(BY_ADDRESS), Some(launch), CaOptions::default());
    let mut kept = open(&lab, "client", REMOTE).unwrap();
    lab.services().freeze_gateways(true);
    for turn in 0..20 {
        let opened = open(&lab, "client", WEB);
        assert!(opened.is_ok(), "connection {turn} past a frozen gateway: {opened:?}");
    }
    // Without another endpoint the client is told.
    let since = Instant::now();
    let end = ask(lab.pod("client").unwrap(), addr(REMOTE));
    assert!(is_turned_away(&end) && since.elapsed() < LIMIT, "{end:?}");
    lab.services().freeze_gateways(false);
    open_at_last(&lab, "client", REMOTE);
    // What was open goes on, unless a PING was missed.
    echo(&mut kept, b"still there").unwrap();
}

pub(crate) fn a_policy_at_the_destination_sees_the_client_behind_the_gateway() {
    let policy = "
policies:
  - {name: only-client, action: ALLOW, app: web, rules: [{from: {serviceAccounts: [default/client]}}]}
";
    let mut lab = raise(&format!("{}{policy}", mesh(BY_ADDRESS)));
    let _live = open(&lab, "client", REMOTE).unwrap();
    change(&mut lab, &format!("{}{}", mesh(BY_ADDRESS), policy.replace("default/client", "default/near")));
    // The client is now refused by its own identity, which the gateway has not seen.
    let end = ask(lab.pod("client").unwrap(), addr(REMOTE));
    assert!(is_turned_away(&end), "{end:?}");
    metrics_show(&lab, "one", "refused connection", |metrics| {
        metrics.sum("istio_tcp_connections_closed_total", &[("response_flags", "CONNECT")]) > 0.0
    });
}

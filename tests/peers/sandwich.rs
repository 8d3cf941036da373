//! Envoy as a waypoint between two connections of the node's proxy, which ends and opens its tunnels
//! (docs/spec/dataplane.md 2.5, 4.1).

use crate::{
    bootstrap::{Bootstrap, Virtual},
    envoy::{Envoy, id},
    logs::line,
    support::{open, raise},
};

/// A service behind a captured waypoint, which is referenced by an address whose service lists no ports.
const MESH: &str = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
pods:
  - {name: client, serviceAccount: client, node: one, ip: 10.77.1.1}
  - {name: server, serviceAccount: server, node: two, ip: 10.77.2.1, app: web, run: [echo 9000], waypoint: 10.96.0.8}
  - {name: waypoint, serviceAccount: waypoint, node: one, ip: 10.77.1.8, ANNOUNCE}
services:
  - {name: web, vips: 10.96.0.1, ports: {90: 9000}, app: web, waypoint: 10.96.0.8}
  - {name: wp, vips: 10.96.0.8, ports: {PORTS}, endpoints: [waypoint]}
";
const WEB: &str = "10.96.0.1:90";
const SERVER: &str = "10.77.2.1:9000";

pub(crate) fn a_sandwiched_waypoint_hears_of_its_clients_by_proxy_protocol() {
    let mesh = MESH.replace("PORTS", "").replace("ANNOUNCE", "announce: {proxyProtocolPort: 15088}");
    let mut lab = raise(&mesh);
    let served = [Virtual { ip: "10.96.0.1", port: 90, endpoint: SERVER, is_http: false }];
    let bootstrap = Bootstrap::new(lab.directory(), "waypoint").sandwiched_waypoint(15088, &served);
    let envoy = Envoy::start(&mut lab, "waypoint", &bootstrap);
    let (client, waypoint, server) = (id("client"), id("waypoint"), id("server"));
    for (asked, listener) in [(WEB, WEB), (SERVER, "sandwich")] {
        open(&lab, "client", asked).unwrap_or_else(|error| panic!("{asked}: {error}"));
        let theirs = envoy.line(&[("listener", listener), ("to", asked), ("principal", &client)]);
        assert!(theirs.field("from").starts_with("10.77.1.1:"), "{theirs:?}");
        // By a tunnel to the waypoint's pod, on whose node it ends.
        let told = [
            ("direction", "inbound"),
            ("src.identity", &client),
            ("dst.identity", &waypoint),
            ("dst.hbone_addr", asked),
            ("error", ""),
        ];
        line(&lab, "one", &told);
        // And by a tunnel of the waypoint's to the server.
        let told = [
            ("direction", "outbound"),
            ("src.identity", &waypoint),
            ("dst.identity", &server),
            ("dst.hbone_addr", SERVER),
            ("error", ""),
        ];
        line(&lab, "one", &told);
    }
    line(&lab, "two", &[("direction", "inbound"), ("src.identity", &waypoint), ("dst.identity", &server)]);
}

pub(crate) fn a_sandwiched_waypoint_without_a_tunnel_of_its_own_gets_plain_connections() {
    let mesh = MESH.replace("PORTS", "15008: 15008").replace("ANNOUNCE", "");
    let mut lab = raise(&mesh);
    let bootstrap = Bootstrap::new(lab.directory(), "waypoint")
        .plain("server", &[("10.77.2.1", 9000)])
        .passes_on(90, "server");
    let envoy = Envoy::start(&mut lab, "waypoint", &bootstrap);
    open(&lab, "client", WEB).unwrap();
    // The source of the connection is still the client.
    let theirs = envoy.line(&[("listener", "plain"), ("to", "10.77.1.8:90")]);
    assert!(theirs.field("from").starts_with("10.77.1.1:"), "{theirs:?}");
    line(&lab, "two", &[("direction", "inbound"), ("src.identity", &id("waypoint")), ("error", "")]);
}

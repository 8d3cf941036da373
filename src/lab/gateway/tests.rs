use super::*;

const MESH: &str = "
nodes: {one: , two: }
networks: [{name: n2, nodes: [two], gateway: n2/10.77.2.9}]
pods:
  - {name: near, node: one, ip: 10.77.1.1, app: web}
  - {name: far, node: two, ip: 10.77.2.1, app: web}
  - {name: far2, node: two, ip: 10.77.2.2, app: web}
  - {name: ill, node: two, ip: 10.77.2.3, app: web, announce: {status: unhealthy}}
  - {name: waypoint, node: two, ip: 10.77.2.4}
  - {name: gateway, node: two, ip: 10.77.2.9, captured: false, run: gateway 15008}
services:
  - {name: web, ports: {80: 9000}, app: web}
  - {name: behind, ports: {80: 9000}, app: web, waypoint: default/wp.default.svc.cluster.local}
  - {name: wp, ports: {15008: 15008}, endpoints: [waypoint]}
  - {name: local, ports: {80: 9000}, endpoints: [near]}
";

#[test]
fn a_stream_goes_to_a_ready_endpoint_or_waypoint_of_the_gateways_network() {
    let mesh = Mesh::parse(MESH).unwrap_or_else(|error| panic!("{error}"));
    let at = |ip: &str| Ok(SocketAddr::new(ip.parse().unwrap(), HBONE_PORT));
    for (service, turn, want) in [
        ("web", 0, at("10.77.2.1")),
        ("web", 1, at("10.77.2.2")),
        ("web", 2, at("10.77.2.1")),
        ("behind", 0, at("10.77.2.4")),
        ("behind", 1, at("10.77.2.4")),
        ("local", 0, Err(StatusCode::SERVICE_UNAVAILABLE)),
        ("nobody", 0, Err(StatusCode::NOT_FOUND)),
    ] {
        let host = format!("{service}.default.svc.cluster.local");
        assert_eq!(next_hop(&mesh, "default/gateway", &host, turn), want, "{service} {turn}");
    }
}

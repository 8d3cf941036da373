//! Envoy as a waypoint that ends and opens tunnels itself (docs/spec/dataplane.md 2.8, 3.2).

use warren::lab::apps::{Route, http};

use crate::{
    bootstrap::{Bootstrap, Virtual},
    envoy::{Envoy, id},
    logs::line,
    support::{LIMIT, Lab, addr, ask, is_turned_away, open, raise},
    traffic::end_first,
};

/// A service and a workload behind a waypoint, for which WAYPOINT stands.
const MESH: &str = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
pods:
  - {name: client, serviceAccount: client, node: one, ip: 10.77.1.1}
  - {name: server, serviceAccount: server, node: two, ip: 10.77.2.1, app: web, run: [echo 9000, http 8080], waypoint: WAYPOINT}
  - {name: waypoint, serviceAccount: waypoint, node: two, ip: 10.77.2.8, captured: false, protocol: HBONE,
     announce: {nativeTunnel: true}}
services:
  - {name: web, vips: 10.96.0.1, ports: {80: 8080, 90: 9000}, app: web, waypoint: WAYPOINT}
  - {name: wp, vips: 10.96.0.8, ports: {15008: 15008}, endpoints: [waypoint]}
";
const WEB: &str = "10.96.0.1:80";
const WEB_ECHO: &str = "10.96.0.1:90";
const SERVER_ECHO: &str = "10.77.2.1:9000";
const BY_NAME: &str = "default/wp.default.svc.cluster.local";

/// What the waypoints of these tests serve.
pub(crate) const SERVED: [Virtual<'_>; 2] = [
    Virtual { ip: "10.96.0.1", port: 80, endpoint: "10.77.2.1:8080", is_http: true },
    Virtual { ip: "10.96.0.1", port: 90, endpoint: SERVER_ECHO, is_http: false },
];

/// The answer of the web server: whose it is, and who it takes for its client.
fn answer(lab: &Lab) -> String {
    let route = Route::new(lab.pod("client").unwrap(), addr(WEB));
    http::get(&route, "web", LIMIT).unwrap().body
}

pub(crate) fn a_waypoint_serves_by_address_and_by_hostname() {
    // The pod's, its service's, and its service's name.
    for reference in ["10.77.2.8", "10.96.0.8", BY_NAME] {
        let mut lab = raise(&MESH.replace("WAYPOINT", reference));
        let bootstrap = Bootstrap::new(lab.directory(), "waypoint").waypoint(&[], &SERVED);
        let envoy = Envoy::start(&mut lab, "waypoint", &bootstrap);
        let body = answer(&lab);
        assert!(body.starts_with("pod=server client=10.77.2.8:"), "{body} by {reference}");
        for to in [WEB_ECHO, SERVER_ECHO] {
            end_first(&lab, "client", to);
        }
        let (client, waypoint, server) = (id("client"), id("waypoint"), id("server"));
        for asked in [WEB, WEB_ECHO, SERVER_ECHO] {
            // An Envoy resets the stream when the web server closes, and our log calls that an error.
            let told = [
                ("direction", "outbound"),
                ("dst.addr", "10.77.2.8:15008"),
                ("dst.hbone_addr", asked),
                ("dst.identity", &waypoint),
            ];
            line(&lab, "one", &told);
            envoy.line(&[("listener", "hbone"), ("authority", asked), ("peer", &client), ("status", "200")]);
        }
        envoy.line(&[("listener", "leaves"), ("to", SERVER_ECHO), ("upstream", &server)]);
        let told = [
            ("direction", "inbound"),
            ("src.identity", &waypoint),
            ("src.workload", "waypoint"),
            ("dst.hbone_addr", SERVER_ECHO),
            ("error", ""),
        ];
        line(&lab, "two", &told);
    }
}

pub(crate) fn a_policy_lets_only_the_waypoint_in() {
    let policy = "
policies:
  - {name: through-waypoint, action: ALLOW, app: web, rules: [{from: {serviceAccounts: [default/waypoint]}}]}
";
    // The workload has no waypoint, so that its address leads around that of the service.
    let mesh = MESH.replace(", waypoint: WAYPOINT}\n  - {name: waypoint", "}\n  - {name: waypoint");
    let mut lab = raise(&format!("{}{policy}", mesh.replace("WAYPOINT", BY_NAME)));
    let bootstrap = Bootstrap::new(lab.directory(), "waypoint").waypoint(&[], &SERVED);
    let _envoy = Envoy::start(&mut lab, "waypoint", &bootstrap);
    open(&lab, "client", WEB_ECHO).unwrap();
    let end = ask(lab.pod("client").unwrap(), addr(SERVER_ECHO));
    assert!(is_turned_away(&end), "{end:?}");
    let ours = line(&lab, "one", &[("direction", "outbound"), ("dst.addr", "10.77.2.1:15008")]);
    assert!(ours.field("error").contains("401"), "{ours:?}");
}

pub(crate) fn waypoints_share_connections_by_their_weights() {
    const CONNECTIONS: usize = 80;
    let mesh = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
pods:
  - {name: client, serviceAccount: client, node: one, ip: 10.77.1.1}
  - {name: server, serviceAccount: server, node: two, ip: 10.77.2.1, app: web, run: [echo 9000]}
  - {name: heavy, serviceAccount: heavy, node: two, ip: 10.77.2.8, captured: false, protocol: HBONE}
  - {name: light, serviceAccount: light, node: one, ip: 10.77.1.8, captured: false, protocol: HBONE}
services:
  - {name: web, vips: 10.96.0.1, ports: {90: 9000}, app: web,
     weightedWaypoints: {default/heavy.default.svc.cluster.local: 3, 10.77.1.8: 1, 10.77.9.9: 0}}
  - {name: heavy, ports: {15008: 15008}, endpoints: [heavy]}
";
    let mut lab = raise(mesh);
    let envoys = ["heavy", "light"].map(|pod| {
        let bootstrap = Bootstrap::new(lab.directory(), pod).waypoint(&[], &SERVED[1..]);
        Envoy::start(&mut lab, pod, &bootstrap)
    });
    for turn in 0..CONNECTIONS {
        open(&lab, "client", WEB_ECHO).unwrap_or_else(|error| panic!("connection {turn}: {error}"));
    }
    let [heavy, light] = envoys.map(|envoy| envoy.stat("http.hbone.downstream_rq_total"));
    assert_eq!(heavy + light, CONNECTIONS as u64);
    assert!(heavy > light && light > 4, "{heavy} by the heavy one and {light} by the light one");
}

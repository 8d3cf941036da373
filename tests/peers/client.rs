//! Envoy as a client of our inbound (docs/spec/dataplane.md 2.3, 2.4, 4.1).

use std::time::Duration;

use warren::lab::{
    apps::{Route, echo, load},
    testbed::Launch,
};

use crate::{
    bootstrap::Bootstrap,
    envoy::{Envoy, id},
    logs::line,
    metrics::{metrics, metrics_show},
    support::{LIMIT, Lab, addr, ask, echo as echo_back, eventually, is_turned_away, launch, open, raise},
    traffic::{end_first, move_bytes},
};

/// An Envoy that is not captured, and a captured server.
const MESH: &str = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
pods:
  - {name: envoy, serviceAccount: envoy, node: one, ip: 10.77.1.8, captured: false}
  - {name: server, serviceAccount: server, node: two, ip: 10.77.2.1, app: web, run: [echo 9000, bulk 7001]}
services:
  - {name: web, vips: 10.96.0.1, ports: {90: 9000, 91: 15001}, app: web}
";
const WEB: &str = "web.default.svc.cluster.local";
const BAGGAGE: &str = "k8s.cluster.name=far,k8s.namespace.name=other,k8s.pod.name=told,service.name=told";
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// An Envoy that tunnels each connection to a local port, from 7000 on, to the authority of that place.
fn envoy(lab: &mut Lab, authorities: &[&str], headers: &[(&str, &str)]) -> Envoy {
    let bootstrap = Bootstrap::new(lab.directory(), "envoy").hbone("server", ("10.77.2.1", 15008), "server");
    let tunnels = authorities.iter().zip(7000..);
    let bootstrap = tunnels.fold(bootstrap, |bootstrap, (authority, port)| {
        bootstrap.tunnels(port, "server", authority, headers)
    });
    Envoy::start(lab, "envoy", &bootstrap)
}

pub(crate) fn an_envoy_reaches_applications_by_address_and_by_name_of_their_service() {
    let by_name = format!("{WEB}:90");
    let authorities = ["10.77.2.1:9000", &by_name, "10.77.2.1:7001"];
    let forwarded = format!("for=\"10.77.1.8:4242\";host={WEB}");
    let headers = [
        ("baggage", BAGGAGE),
        ("forwarded", &forwarded),
        ("traceparent", TRACE),
        ("x-istio-source", "waypoint"),
        ("x-request-id", "nobody asked for this"),
    ];
    // All headers are optional.
    for headers in [&headers[..], &[]] {
        let mut lab = raise(MESH);
        let envoy = envoy(&mut lab, &authorities, headers);
        for port in ["7000", "7001"] {
            open(&lab, "envoy", &format!("127.0.0.1:{port}")).unwrap();
        }
        end_first(&lab, "envoy", "127.0.0.1:7000");
        move_bytes(&lab, "envoy", "127.0.0.1:7002", 12 << 20, 12 << 20);
        for authority in authorities {
            let (client, server) = (id("envoy"), id("server"));
            let told = [
                ("direction", "inbound"),
                ("dst.hbone_addr", authority),
                ("dst.workload", "server"),
                // It is known by its address and needs no baggage.
                ("src.workload", "envoy"),
                ("src.identity", &client),
                ("error", ""),
            ];
            let line = line(&lab, "two", &told);
            assert_eq!(line.field("dst.service"), WEB, "{line:?}");
            assert!(line.field("src.addr").starts_with("10.77.1.8:"), "{line:?}");
            envoy.line(&[("listener", &format!("to-{authority}")), ("upstream", &server)]);
        }
    }
}

pub(crate) fn an_envoy_is_answered_by_the_table_of_statuses() {
    let mut lab = raise(&format!(
        "{MESH}
policies:
  - {{name: not-envoy, action: DENY, app: web, rules: [{{from: {{serviceAccounts: [default/envoy]}}, to: {{ports: [7001]}}}}]}}
"
    ));
    let (by_name, illegal, unknown) =
        (format!("{WEB}:90"), format!("{WEB}:91"), "other.default.svc.cluster.local:80");
    let statuses = [
        ("10.77.2.1:9000", 200),
        (&by_name, 200),
        // Another pod's, nobody's, and no address at all.
        ("10.77.1.8:9000", 400),
        ("10.77.77.77:9000", 400),
        ("nonsense", 400),
        ("10.77.2.1:7001", 401),
        // Nobody listens there.
        ("10.77.2.1:9999", 503),
        ("10.77.2.1:15008", 503),
        (&illegal, 503),
        (unknown, 503),
    ];
    let envoy = envoy(&mut lab, &statuses.map(|(authority, _)| authority), &[]);
    for ((authority, status), port) in statuses.into_iter().zip(7000..) {
        let to = format!("127.0.0.1:{port}");
        if status == 200 {
            open(&lab, "envoy", &to).unwrap();
        } else {
            let end = ask(lab.pod("envoy").unwrap(), addr(&to));
            assert!(is_turned_away(&end), "{authority}: {end:?}");
        }
        let line = envoy.line(&[("listener", &format!("to-{authority}"))]);
        assert!(line.field("answer").contains(&format!("\"{status}\"")), "{authority}: {line:?}");
    }
    metrics_show(&lab, "two", "denied connection", |metrics| {
        let labels = [("reporter", "destination"), ("response_flags", "DENY")];
        metrics.sum("istio_tcp_connections_closed_total", &labels) == 1.0
    });
    // A refused stream costs its tunnel nothing.
    open(&lab, "envoy", "127.0.0.1:7000").unwrap();
}

pub(crate) fn an_envoy_opens_as_many_tunnels_as_its_connections_need() {
    const CONNECTIONS: usize = 500;
    let mut lab = raise(MESH);
    let envoy = envoy(&mut lab, &["10.77.2.1:9000"], &[]);
    let route = Route::new(lab.pod("envoy").unwrap(), addr("127.0.0.1:7000"));
    let plan = echo::Plan {
        connections: CONNECTIONS,
        interval: Duration::from_millis(100),
        time: LIMIT,
        limit: LIMIT,
    };
    let mut pacing = echo::pace(&route, plan).unwrap();
    pacing.wait_until_open();
    // Our server takes 200 streams a tunnel.
    let tunnels = envoy.stat("cluster.server.upstream_cx_active");
    let report = pacing.finish().unwrap();
    assert!(report.is_clean() && report.opened == CONNECTIONS as u64, "{report:?}");
    assert!((3..=8).contains(&tunnels), "{tunnels} tunnels");
}

pub(crate) fn an_envoy_goes_over_to_the_successor_of_our_proxy_without_an_error() {
    // The successor has a network of its own, as a pod of its own would.
    let mesh = MESH.replace("[echo 9000,", "[http 8080, echo 9000,");
    let mesh = mesh.replace("two: 10.77.0.2}", "two: 10.77.0.2, next: 10.77.0.3}");
    let mut lab = raise(&mesh);
    let envoy = envoy(&mut lab, &["10.77.2.1:8080"], &[]);
    let route = Route::new(lab.pod("envoy").unwrap(), addr("127.0.0.1:7000"));
    let plan = load::Plan {
        host: "web".to_owned(),
        clients: 8,
        keep_alive: false,
        requests: u64::MAX,
        time: LIMIT,
        limit: LIMIT,
        interval: Duration::from_millis(20),
    };
    let clients = load::start(&route, plan).unwrap();
    let more = |what: &str| {
        let connections = || envoy.stat("cluster.server.upstream_rq_total");
        let before = connections();
        eventually(what, || (connections() > before + 100).then_some(()));
    };
    more("hundred connections before");
    // As in a rollout of the node's proxies: the new one is ready before the old one is told to stop.
    drop(lab.take_proxy("next").unwrap());
    let uds = lab.directory().join("zds-two.sock");
    let successor = launch().env("NODE_NAME", "two").env("INPOD_UDS", uds.to_string_lossy());
    let successor = Launch { log: Some("successor".to_owned()), ..successor };
    let mut new = lab.launch("next", &successor).unwrap();
    lab.wait_ready_of("next", &mut new).unwrap();
    let mut old = lab.take_proxy("two").unwrap();
    old.signal(libc::SIGTERM).unwrap();
    old.wait(LIMIT).unwrap();
    more("hundred connections after");
    let report = clients.finish().unwrap();
    assert_eq!(report.failures, 0, "{report:?}");
}

pub(crate) fn an_envoy_keeps_its_tunnels_when_our_proxy_goes_over_to_its_successor() {
    let mesh = MESH.replace("two: 10.77.0.2}", "two: 10.77.0.2, next: 10.77.0.3}");
    let mut lab = raise(&mesh);
    let envoy = envoy(&mut lab, &["10.77.2.1:9000"], &[]);
    let mut kept: Vec<_> = (0..20).map(|_| open(&lab, "envoy", "127.0.0.1:7000").unwrap()).collect();
    let lost = || envoy.stat("cluster.server.upstream_cx_destroy_with_active_rq");
    drop(lab.take_proxy("next").unwrap());
    let of_two = |name: &str| lab.directory().join(format!("{name}-two.sock")).to_string_lossy().into_owned();
    let successor = launch()
        .env("NODE_NAME", "two")
        .env("INPOD_UDS", of_two("zds"))
        .env("WARREN_HANDOVER_UDS", of_two("handover"));
    let successor = Launch { log: Some("successor".to_owned()), ..successor };
    let mut new = lab.launch("next", &successor).unwrap();
    lab.wait_ready_of("next", &mut new).unwrap();
    let mut old = lab.take_proxy("two").unwrap();
    old.signal(libc::SIGTERM).unwrap();
    old.wait(LIMIT).unwrap();
    for (number, stream) in kept.iter_mut().enumerate() {
        let echoed = echo_back(stream, &vec![7; 200_000]);
        echoed.unwrap_or_else(|error| panic!("connection {number}: {error}\n{}", new.log_text()));
    }
    assert_eq!(lost(), 0);
    // New ones get new tunnels.
    open(&lab, "envoy", "127.0.0.1:7000").unwrap();
    let taken = metrics(&lab, "next")
        .sum("warren_handover_connections_total", &[("result", "taken"), ("kind", "inbound_tunnel")]);
    assert_eq!(taken, 20.0, "{}", new.log_text());
}

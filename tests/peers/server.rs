//! Envoy as a server of our outbound (docs/spec/dataplane.md 2.3, 2.4, 2.8).

use std::time::Duration;

use serde_json::{Value, json};
use warren::lab::apps::{
    Route,
    echo::{Plan, pace},
    load,
};

use crate::{
    bootstrap::{Action, Bootstrap, Connect},
    envoy::{Envoy, id},
    logs::{access, line},
    metrics::metrics_show,
    support::{LIMIT, Lab, addr, ask, echo, eventually, is_turned_away, open, raise},
    traffic::{end_first, move_bytes},
};

/// A captured client, and a pod that speaks HBONE by an Envoy of its own.
const MESH: &str = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
pods:
  - {name: client, serviceAccount: client, node: one, ip: 10.77.1.1}
  - {name: envoy, serviceAccount: envoy, node: two, ip: 10.77.2.8, captured: false, protocol: HBONE,
     announce: {nativeTunnel: true}, run: [echo 9000, bulk 7001]}
";
const ECHO: &str = "10.77.2.8:9000";
const BULK: &str = "10.77.2.8:7001";
const WEB: &str = "10.77.2.8:8080";
const BAGGAGE: &str = "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.pod.name=client,\
                       service.name=client,service.version=v1";

fn to<'a>(authority: &'a str, cluster: &'a str) -> Connect<'a> {
    Connect { authority, action: Action::To(cluster) }
}

pub(crate) fn applications_behind_an_envoy_are_reached_and_told_who_asks() {
    let mut lab = raise(MESH);
    let bootstrap = Bootstrap::new(lab.directory(), "envoy")
        .plain("echo", &[("127.0.0.1", 9000)])
        .plain("bulk", &[("127.0.0.1", 7001)])
        .ends_tunnels_telling("k8s.namespace.name=told", &[to(ECHO, "echo"), to(BULK, "bulk")]);
    let envoy = Envoy::start(&mut lab, "envoy", &bootstrap);
    open(&lab, "client", ECHO).unwrap();
    end_first(&lab, "client", ECHO);
    // An Envoy resets the stream of an application that ends first, and drops what the window of 4 MiB has not let
    // through by then (envoyproxy/envoy pull request 47378).
    move_bytes(&lab, "client", BULK, 12 << 20, 3 << 20);
    let (client, server) = (id("client"), id("envoy"));
    for authority in [ECHO, BULK] {
        let told = [
            ("direction", "outbound"),
            ("dst.addr", "10.77.2.8:15008"),
            ("dst.hbone_addr", authority),
            ("dst.workload", "envoy"),
            // The mesh knows the workload; what the answer says of it is another matter.
            ("dst.namespace", "default"),
            ("dst.identity", &server),
            ("src.workload", "client"),
            ("src.identity", &client),
            ("error", ""),
        ];
        let ours = line(&lab, "one", &told);
        let told = [
            ("listener", "hbone"),
            ("authority", authority),
            ("status", "200"),
            ("peer", &client),
            ("own", &server),
            ("baggage", BAGGAGE),
            ("network", ""),
        ];
        let theirs = envoy.line(&told);
        let from = format!("for=\"{}\"", ours.field("src.addr"));
        if authority == ECHO {
            assert_eq!(theirs.field("forwarded"), from);
        }
        assert_eq!(theirs.field("traceparent").len(), 55, "{theirs:?}");
    }
}

pub(crate) fn what_an_envoy_refuses_ends_the_connection_with_its_flag() {
    const REFUSALS: [(&str, u16); 5] = [
        ("10.77.2.8:9001", 401),
        ("10.77.2.8:9002", 403),
        ("10.77.2.8:9003", 404),
        ("10.77.2.8:9004", 503),
        // Nobody listens there.
        ("10.77.2.8:9999", 503),
    ];
    let mut lab = raise(MESH);
    let mut routes: Vec<Connect<'_>> = vec![to(ECHO, "echo"), to(REFUSALS[4].0, "nobody")];
    let answer =
        |(authority, status): &(&'static str, u16)| Connect { authority, action: Action::Answer(*status) };
    routes.extend(REFUSALS[..4].iter().map(answer));
    let bootstrap = |lab: &Lab| {
        Bootstrap::new(lab.directory(), "envoy")
            .plain("echo", &[("127.0.0.1", 9000)])
            .plain("nobody", &[("127.0.0.1", 9999)])
    };
    let of_all = bootstrap(&lab).ends_tunnels(&[], &routes);
    let envoy = Envoy::start(&mut lab, "envoy", &of_all);
    let mut kept = open(&lab, "client", ECHO).unwrap();
    for (authority, status) in REFUSALS {
        let end = ask(lab.pod("client").unwrap(), addr(authority));
        assert!(is_turned_away(&end), "{authority}: {end:?}");
        let ours = line(&lab, "one", &[("dst.hbone_addr", authority)]);
        assert!(ours.field("error").contains(&status.to_string()), "{ours:?}");
        envoy.line(&[("authority", authority), ("status", &status.to_string())]);
        let asked = envoy.access().iter().filter(|line| line.field("authority") == authority).count();
        assert_eq!(asked, 1, "{authority} is asked for once where there is no other endpoint");
    }
    // Streams that are refused cost the others of their tunnel nothing.
    echo(&mut kept, b"still there").unwrap();
    drop(kept);
    let closed = |flag: &'static str, count: f64| {
        metrics_show(&lab, "one", &format!("{count} connections closed with {flag}"), |metrics| {
            let labels = [("reporter", "source"), ("response_flags", flag)];
            metrics.sum("istio_tcp_connections_closed_total", &labels) == count
        });
    };
    closed("CONNECT", REFUSALS.len() as f64);
    // An Envoy that lets in others alone ends the handshake.
    drop(envoy);
    let of_others = bootstrap(&lab).ends_tunnels(&["somebody-else"], &[to(ECHO, "echo")]);
    let _envoy = Envoy::start(&mut lab, "envoy", &of_others);
    let end = ask(lab.pod("client").unwrap(), addr(ECHO));
    assert!(is_turned_away(&end), "{end:?}");
    eventually("line of the connection whose handshake was ended", || {
        let told = [("dst.hbone_addr", ECHO), ("dst.workload", "envoy")];
        access(&lab, "one").into_iter().find(|line| line.has(&told) && !line.field("error").is_empty())
    });
}

pub(crate) fn more_connections_than_a_tunnel_of_an_envoy_takes_are_all_served() {
    const CONNECTIONS: usize = 350;
    let mut lab = raise(MESH);
    let bootstrap = Bootstrap::new(lab.directory(), "envoy")
        .plain("echo", &[("127.0.0.1", 9000)])
        .ends_tunnels(&[], &[to(ECHO, "echo")]);
    let envoy = Envoy::start(&mut lab, "envoy", &bootstrap);
    let route = Route::new(lab.pod("client").unwrap(), addr(ECHO));
    let plan =
        Plan { connections: CONNECTIONS, interval: Duration::from_millis(100), time: LIMIT, limit: LIMIT };
    let mut pacing = pace(&route, plan).unwrap();
    pacing.wait_until_open();
    // The Envoy takes 100 streams a tunnel.
    let tunnels = envoy.stat("http.hbone.downstream_cx_active");
    let report = pacing.finish().unwrap();
    assert!(report.is_clean() && report.opened == CONNECTIONS as u64, "{report:?}");
    assert!(tunnels >= 4, "{tunnels} tunnels");
}

/// Short connections to an Envoy that ends its tunnels by `limits`. None may fail. Returns the number of tunnels.
fn short_connections(limits: &[(&str, Value)], plan: load::Plan) -> u64 {
    let mut lab = raise(&MESH.replace("[echo 9000,", "[echo 9000, http 8080,"));
    let bootstrap = Bootstrap::new(lab.directory(), "envoy")
        .limited(limits)
        .plain("web", &[("127.0.0.1", 8080)])
        .ends_tunnels(&[], &[to(WEB, "web")]);
    let envoy = Envoy::start(&mut lab, "envoy", &bootstrap);
    let report = load::run(&Route::new(lab.pod("client").unwrap(), addr(WEB)), plan).unwrap();
    assert!(report.failures == 0 && report.requests > 20, "{report:?}");
    envoy.stat("http.hbone.downstream_cx_total")
}

fn plan(clients: usize, interval: Duration) -> load::Plan {
    let (requests, time) = (u64::MAX, Duration::from_secs(3));
    load::Plan { host: "web".to_owned(), clients, keep_alive: false, requests, time, limit: LIMIT, interval }
}

pub(crate) fn an_envoy_that_ends_its_tunnels_after_a_few_streams_loses_no_connection() {
    let limits = [("common_http_protocol_options", json!({"max_requests_per_connection": 7}))];
    let tunnels = short_connections(&limits, plan(16, Duration::from_millis(20)));
    assert!(tunnels > 20, "{tunnels} tunnels");
}

pub(crate) fn an_envoy_that_ends_idle_tunnels_at_once_loses_no_connection() {
    // The next connection comes about when the tunnel goes.
    let limits = [
        ("common_http_protocol_options", json!({"idle_timeout": "0.05s"})),
        ("drain_timeout", json!("0.05s")),
    ];
    let tunnels = short_connections(&limits, plan(2, Duration::from_millis(100)));
    assert!(tunnels > 10, "{tunnels} tunnels");
}

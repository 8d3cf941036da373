//! Envoys that drain and restart under clients that keep their connections alive (docs/spec/dataplane.md 2.6).

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use warren::lab::{
    apps::{
        Background, Route,
        load::{self, Plan, Report},
    },
    control::ca::CaOptions,
    testbed::Launch,
};

use crate::{
    bootstrap::Bootstrap,
    envoy::Envoy,
    gateway::{gateway, raise_networks},
    support::{LIMIT, Lab, addr, change, echo, eventually, launch, open, raise, raise_as},
    waypoint::SERVED,
};

/// A service behind the waypoint WAYPOINT, of which there are two.
const MESH: &str = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
pods:
  - {name: client, serviceAccount: client, node: one, ip: 10.77.1.1}
  - {name: server, serviceAccount: server, node: two, ip: 10.77.2.1, app: web, run: [echo 9000, http 8080]}
  - {name: old, serviceAccount: old, node: two, ip: 10.77.2.8, captured: false, protocol: HBONE}
  - {name: new, serviceAccount: new, node: two, ip: 10.77.2.9, captured: false, protocol: HBONE}
services:
  - {name: web, vips: 10.96.0.1, ports: {80: 8080, 90: 9000}, app: web, waypoint: default/wp.default.svc.cluster.local}
  - {name: wp, ports: {15008: 15008}, endpoints: [WAYPOINT]}
";
const WEB: &str = "10.96.0.1:80";
const WEB_ECHO: &str = "10.96.0.1:90";
const CLIENTS: usize = 8;

/// Clients that each send a request every 20 ms over a connection that they keep.
fn clients(lab: &Lab, time: Duration) -> Background<Report> {
    requests(lab, time, true)
}

fn requests(lab: &Lab, time: Duration, keep_alive: bool) -> Background<Report> {
    let plan = Plan {
        host: "web".to_owned(),
        clients: CLIENTS,
        keep_alive,
        requests: u64::MAX,
        time,
        limit: LIMIT,
        interval: Duration::from_millis(20),
    };
    load::start(&Route::new(lab.pod("client").unwrap(), addr(WEB)), plan).unwrap()
}

/// Waits until `envoy` has carried another hundred requests, so that clients are known to use it.
fn served(envoy: &Envoy) {
    let requests = || envoy.stat("http.10.96.0.1_80.downstream_rq_total");
    let before = requests();
    eventually("another hundred requests", || (requests() > before + 100).then_some(()));
}

/// Clients that come, keep their connections for a while, and go.
fn spell(lab: &Lab) {
    let report = clients(lab, Duration::from_millis(600)).wait().unwrap();
    assert!(report.failures == 0 && report.connections == CLIENTS as u64, "{report:?}");
}

/// Waits until `envoy` gets another connection of a client.
fn served_by(lab: &Lab, envoy: &Envoy) {
    let connections = || envoy.stat("http.hbone.downstream_rq_total");
    let before = connections();
    eventually("connection by this waypoint", || {
        open(lab, "client", WEB_ECHO).unwrap();
        (connections() > before).then_some(())
    });
}

fn unharmed(clients: Background<Report>) -> Report {
    let report = clients.finish().unwrap();
    assert_eq!(report.failures, 0, "{report:?}");
    report
}

pub(crate) fn a_waypoint_that_is_replaced_costs_no_client_an_error() {
    let mut lab = raise(&MESH.replace("WAYPOINT", "old"));
    let bootstrap = Bootstrap::new(lab.directory(), "old").waypoint(&[], &SERVED);
    let mut old = Envoy::start(&mut lab, "old", &bootstrap);
    let clients = clients(&lab, LIMIT);
    served(&old);
    let mut kept = open(&lab, "client", WEB_ECHO).unwrap();
    // As in a rollout: the new one is ready, the endpoints change, the old one drains and then ends.
    let bootstrap = Bootstrap::new(lab.directory(), "new").waypoint(&[], &SERVED);
    let new = Envoy::start(&mut lab, "new", &bootstrap);
    change(&mut lab, &MESH.replace("WAYPOINT", "new"));
    old.admin("POST", "/drain_listeners?graceful");
    // What no answer can tell to come again goes on for a while.
    echo(&mut kept, b"still there").unwrap();
    drop(kept);
    eventually("end of the old one's connections", || {
        (old.stat("http.10.96.0.1_80.downstream_cx_active") == 0).then_some(())
    });
    eventually("end of the old one's streams", || {
        (old.stat("http.hbone.downstream_rq_active") == 0).then_some(())
    });
    old.process().signal(libc::SIGTERM).unwrap();
    old.process().wait(LIMIT).unwrap();
    served(&new);
    let report = unharmed(clients);
    assert!(report.connections >= 2 * CLIENTS as u64, "{report:?}");
}

pub(crate) fn a_waypoint_that_is_restarted_in_place_costs_no_client_an_error() {
    let mut lab = raise(&MESH.replace("WAYPOINT", "old"));
    let bootstrap = Bootstrap::new(lab.directory(), "old").waypoint(&[], &SERVED);
    let mut old = Envoy::start_restartable(&mut lab, "old", &bootstrap);
    let clients = clients(&lab, LIMIT);
    // And clients that open a connection for each request.
    let others = requests(&lab, LIMIT, false);
    served(&old);
    let new = old.restart(&mut lab, &bootstrap);
    old.process().wait(LIMIT).unwrap();
    served(&new);
    unharmed(others);
    let report = unharmed(clients);
    assert!(report.connections >= 2 * CLIENTS as u64, "{report:?}");
}

pub(crate) fn a_waypoint_that_is_killed_costs_only_the_connections_that_it_had() {
    let mut lab = raise(&MESH.replace("WAYPOINT", "old, new"));
    let [mut old, new] = ["old", "new"].map(|pod| {
        let bootstrap = Bootstrap::new(lab.directory(), pod).waypoint(&[], &SERVED);
        Envoy::start(&mut lab, pod, &bootstrap)
    });
    let mut kept: Vec<TcpStream> = (0..20).map(|_| open(&lab, "client", WEB_ECHO).unwrap()).collect();
    let (of_old, of_new) =
        (old.stat("http.hbone.downstream_rq_active"), new.stat("http.hbone.downstream_rq_active"));
    assert!(of_old > 0 && of_new > 0 && of_old + of_new == 20, "{of_old} and {of_new}");
    old.process().kill().unwrap();
    for turn in 0..40 {
        let opened = open(&lab, "client", WEB_ECHO);
        assert!(opened.is_ok(), "connection {turn} past a dead waypoint: {opened:?}");
    }
    let alive = kept.iter_mut().filter_map(|stream| echo(stream, b"still there").ok()).count();
    assert_eq!(alive as u64, of_new);
}

pub(crate) fn a_frozen_waypoint_hangs_nobody_and_the_other_one_serves() {
    let launch =
        launch().env("WARREN_TLS_HANDSHAKE_TIMEOUT", "2s").env("WARREN_CONNECT_RESPONSE_TIMEOUT", "2s");
    let mut lab = raise_as(&MESH.replace("WAYPOINT", "old, new"), Some(launch), CaOptions::default());
    let [mut old, _new] = ["old", "new"].map(|pod| {
        let bootstrap = Bootstrap::new(lab.directory(), pod).waypoint(&[], &SERVED);
        Envoy::start(&mut lab, pod, &bootstrap)
    });
    let mut kept: Vec<TcpStream> = (0..10).map(|_| open(&lab, "client", WEB_ECHO).unwrap()).collect();
    old.process().signal(libc::SIGSTOP).unwrap();
    let failed = (0..30).filter(|_| open(&lab, "client", WEB_ECHO).is_err()).count();
    // What a mute waypoint may have taken up is not said again elsewhere. What is learned from it spares the others.
    assert!(failed <= 6, "{failed} of 30 connections failed beside a frozen waypoint");
    old.process().signal(libc::SIGCONT).unwrap();
    for stream in &mut kept {
        echo(stream, b"still there").unwrap();
    }
    served_by(&lab, &old);
}

pub(crate) fn a_gateway_that_is_restarted_in_place_costs_no_client_an_error() {
    let mut lab = raise_networks("");
    let bootstrap = gateway(&lab);
    let mut old = Envoy::start_restartable(&mut lab, "gateway", &bootstrap);
    let mut kept = open(&lab, "client", WEB_ECHO).unwrap();
    // A gateway cannot tell the clients inside its tunnels to come again. They do so by themselves.
    spell(&lab);
    let new = old.restart(&mut lab, &bootstrap);
    echo(&mut kept, b"still there").unwrap();
    drop(kept);
    let deadline = Instant::now() + LIMIT;
    while old.process().status().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the old gateway does not end");
        spell(&lab);
    }
    spell(&lab);
    assert!(new.stat("http.hbone.downstream_rq_total") > 0);
}

pub(crate) fn a_waypoint_keeps_its_clients_when_their_proxy_goes_over_to_its_successor() {
    let mesh = MESH.replace("two: 10.77.0.2}", "two: 10.77.0.2, next: 10.77.0.3}");
    let mut lab = raise(&mesh.replace("WAYPOINT", "old"));
    let bootstrap = Bootstrap::new(lab.directory(), "old").waypoint(&[], &SERVED);
    let envoy = Envoy::start(&mut lab, "old", &bootstrap);
    let mut kept: Vec<TcpStream> = (0..20).map(|_| open(&lab, "client", WEB_ECHO).unwrap()).collect();
    let streams = || envoy.stat("http.hbone.downstream_rq_active");
    assert_eq!(streams(), 20);
    drop(lab.take_proxy("next").unwrap());
    let of_one = |name: &str| lab.directory().join(format!("{name}-one.sock")).to_string_lossy().into_owned();
    let successor = launch()
        .env("NODE_NAME", "one")
        .env("INPOD_UDS", of_one("zds"))
        .env("WARREN_HANDOVER_UDS", of_one("handover"));
    let successor = Launch { log: Some("successor".to_owned()), ..successor };
    let mut new = lab.launch("next", &successor).unwrap();
    lab.wait_ready_of("next", &mut new).unwrap();
    let mut gone = lab.take_proxy("one").unwrap();
    gone.signal(libc::SIGTERM).unwrap();
    gone.wait(LIMIT).unwrap();
    for (number, stream) in kept.iter_mut().enumerate() {
        let echoed = echo(stream, &vec![7; 200_000]);
        echoed.unwrap_or_else(|error| panic!("connection {number}: {error}\n{}", new.log_text()));
    }
    assert_eq!(streams(), 20);
    open(&lab, "client", WEB_ECHO).unwrap();
}

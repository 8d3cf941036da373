use std::{net::SocketAddr, time::Duration};

use warren::lab::{
    apps::{
        AppError, Route,
        capture::Capture,
        http::{self, Answer},
        load,
    },
    control::mesh_file::Mesh,
    embedded::Embedded,
    hosts::Role,
    testbed::{Launch, Options, Testbed, readiness},
    testing::{program, scratch},
};

use crate::support::*;

const MESH: &str = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
pods:
  - {name: client, node: one, ip: 10.77.1.1}
  - {name: web, node: two, ip: 10.77.2.1, run: http 8080 secret-word}
  - {name: bare, node: two, ip: 10.77.2.9, captured: false, protocol: TCP}
outside:
  - {name: db, ip: 203.0.113.5, run: http 80}
services:
  - {name: web, vips: 10.96.0.80, ports: {80: 8080}, app: web}
";
const MORE: &str = "
  - {name: web-2, node: two, ip: 10.77.2.2, app: web, run: http 8080}
outside:
";

fn testbed() -> Testbed<Embedded> {
    let options = Options {
        id: "t".to_owned(),
        directory: scratch(),
        proxy: Some(Launch::new(program("warren").unwrap())),
        ready_limit: 4 * LIMIT,
    };
    Testbed::up(Mesh::parse(MESH).unwrap(), false, options).unwrap_or_else(|error| panic!("{error}"))
}

fn get(testbed: &Testbed<Embedded>, pod: &str, to: SocketAddr) -> Result<Answer, AppError> {
    http::get(&Route::new(testbed.pod(pod).unwrap(), to), "web", 2 * LIMIT)
}

/// No answer comes, whether that is said at once or not at all.
fn is_silent(testbed: &Testbed<Embedded>, to: SocketAddr) -> bool {
    http::get(&Route::new(testbed.pod("client").unwrap(), to), "web", SHORT).is_err()
}

pub(crate) fn a_world_carries_the_pods_traffic_encrypted_between_nodes() {
    let testbed = testbed();
    let capture = Capture::start(testbed.pod("web").unwrap(), b"secret-word").unwrap();
    for to in [at("10.77.2.1", 8080), at("10.96.0.80", 80)] {
        let answer = get(&testbed, "client", to).unwrap();
        assert!(answer.body.starts_with("pod=web text=\"secret-word\" client=10.77.1.1:"), "{}", answer.body);
    }
    let captured = capture.finish().unwrap();
    assert!(captured.is_complete() && !captured.has_marker(), "{captured:?}");
    let flows: Vec<_> = captured.between(at("10.77.1.1", 0).ip(), at("10.77.2.1", 0).ip()).collect();
    assert!(flows.len() >= 2 && flows.iter().all(|flow| flow.is_tls), "{flows:?}");
    assert!(flows.iter().all(|flow| flow.from.port() == 15008 || flow.to.port() == 15008), "{flows:?}");

    let capture = Capture::start(testbed.pod("web").unwrap(), b"secret-word").unwrap();
    get(&testbed, "bare", at("10.77.2.1", 8080)).unwrap();
    assert!(capture.finish().unwrap().has_marker());
    let outside = get(&testbed, "client", at("203.0.113.5", 80)).unwrap();
    assert!(outside.body.starts_with("pod=db client=10.77.1.1:"), "{}", outside.body);
}

pub(crate) fn an_edited_mesh_takes_effect_while_it_runs() {
    let mut testbed = testbed();
    let more = Mesh::parse(&MESH.replace("\noutside:\n", MORE)).unwrap();
    assert_eq!(testbed.update(more, false).unwrap(), ["+pod:default/web-2"]);
    testbed.services().settle(LIMIT).unwrap();
    let answer = get(&testbed, "client", at("10.77.2.2", 8080)).unwrap();
    assert!(answer.body.starts_with("pod=web-2 client=10.77.1.1:"), "{}", answer.body);
    assert_eq!(testbed.update(Mesh::parse(MESH).unwrap(), false).unwrap(), ["-pod:default/web-2"]);
    testbed.services().settle(LIMIT).unwrap();
    assert!(is_silent(&testbed, at("10.77.2.2", 8080)));
    assert!(testbed.pod("web-2").is_err());
    assert!(get(&testbed, "client", at("10.96.0.80", 80)).unwrap().body.starts_with("pod=web "));
}

pub(crate) fn a_dead_proxy_is_noticed_and_another_takes_its_place() {
    let mut testbed = testbed();
    assert!(testbed.ended_proxies().unwrap().is_empty());
    testbed.proxy("one").unwrap().kill().unwrap();
    assert!(readiness(testbed.node("one").unwrap()).is_err());
    assert!(is_silent(&testbed, at("10.77.2.1", 8080)));
    let ended = testbed.ended_proxies().unwrap();
    assert_eq!(ended.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>(), ["one"]);
    testbed.start_proxies().unwrap();
    assert!(get(&testbed, "client", at("10.77.2.1", 8080)).is_ok());
    testbed.restart_proxy("two").unwrap();
    assert!(get(&testbed, "client", at("10.77.2.1", 8080)).is_ok());
    assert!(testbed.proxy("two").unwrap().usage().unwrap().threads > 1);
    let (log, two) = (testbed.directory().join("proxy-two.log"), testbed.proxy("two").unwrap().outer_pid());
    testbed.lower().unwrap();
    assert!(std::fs::read_to_string(log).unwrap().contains("SIGTERM"));
    assert!(!std::path::Path::new(&format!("/proc/{}", two.unwrap())).exists());
}

pub(crate) fn load_flows_through_both_proxies() {
    let testbed = testbed();
    let plan = load::Plan {
        host: "web".to_owned(),
        clients: 8,
        keep_alive: true,
        requests: 400,
        time: 4 * LIMIT,
        limit: LIMIT,
        interval: Duration::ZERO,
    };
    for keep_alive in [true, false] {
        let route = Route::new(testbed.pod("client").unwrap(), at("10.96.0.80", 80));
        let report = load::run(&route, load::Plan { keep_alive, ..plan.clone() }).unwrap();
        assert_eq!((report.requests, report.failures), (400, 0), "{report:?}");
    }
}

pub(crate) fn a_proxy_that_cannot_start_is_reported_with_its_log() {
    let launch = Launch::new(program("warren").unwrap()).env("INPOD_PORT_REUSE", "perhaps");
    let options = Options {
        id: "t".to_owned(),
        directory: scratch(),
        proxy: Some(launch),
        ready_limit: Duration::from_secs(10),
    };
    let error = Testbed::up(Mesh::parse(MESH).unwrap(), false, options).unwrap_err().to_string();
    assert!(error.contains("proxy-one has ended") && error.contains("INPOD_PORT_REUSE"), "{error}");
}

pub(crate) fn a_host_cut_off_from_the_fabric_comes_back() {
    let mut testbed = testbed();
    testbed.hosts_mut().set_connected(Role::Pod, "default/web", false).unwrap();
    let route = Route::new(testbed.outside("db").unwrap(), at("10.77.2.1", 8080));
    assert!(http::get(&route, "web", SHORT).is_err());
    testbed.hosts_mut().set_connected(Role::Pod, "default/web", true).unwrap();
    assert!(get(&testbed, "client", at("10.77.2.1", 8080)).is_ok());
}

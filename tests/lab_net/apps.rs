use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use warren::lab::{
    apps::{Route, bulk, capture::Capture, echo, http, load},
    hosts::Role,
};

use crate::support::*;

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

pub(crate) fn the_web_server_names_the_pod_and_the_client() {
    let pair = Pair::new();
    let server = http::serve(&pair.b, ANY_V6, 8080, "b").unwrap();
    for (source, ip) in [(A[0], B[0]), (A[1], B[1])] {
        let answer = http::get(&Route::new(&pair.a, at(ip, 8080)), "web", LIMIT).unwrap();
        assert_eq!((answer.status, answer.local.ip()), (200, at(source, 0).ip()));
        assert_eq!(answer.body, format!("pod=b client={}\n", answer.local));
    }
    assert_eq!(server.finish().unwrap(), 2);
    let refused = http::get(&Route::new(&pair.a, at(B[0], 8080)), "web", LIMIT).unwrap_err();
    assert!(
        refused.to_string().starts_with("warren-t-pod-a to 10.77.2.1:8080: cannot connect: "),
        "{refused}"
    );
}

pub(crate) fn load_counts_requests_failures_and_connections() {
    let pair = Pair::new();
    let plan = load::Plan {
        host: "web".to_owned(),
        clients: 4,
        keep_alive: true,
        requests: 100,
        time: LIMIT,
        limit: LIMIT,
        interval: Duration::ZERO,
    };
    let route = Route::new(&pair.a, at(B[0], 8080));
    let server = http::serve(&pair.b, ANY, 8080, "b").unwrap();
    for (keep_alive, connections) in [(true, 4), (false, 100)] {
        let report = load::run(&route, load::Plan { keep_alive, ..plan.clone() }).unwrap();
        assert_eq!((report.requests, report.failures), (100, 0), "{report:?}");
        assert_eq!((report.connections, report.latencies.count()), (connections, 100));
        assert!(report.rate() > 0.0);
    }
    assert_eq!(server.finish().unwrap(), 104);
    let report = load::run(&route, load::Plan { requests: 8, ..plan }).unwrap();
    assert_eq!((report.failures, report.latencies.count()), (8, 0));
    assert!(report.first_failure.unwrap().contains("refused"));
}

pub(crate) fn paced_echo_notices_a_stall_and_a_broken_connection() {
    let pair = Pair::new();
    let server = echo::serve(&pair.b, ANY, 7).unwrap();
    let route = Route::new(&pair.a, at(B[0], 7));
    let plan =
        echo::Plan { connections: 3, interval: Duration::from_millis(2), time: 4 * LIMIT, limit: LIMIT };

    let mut pacing = echo::pace(&route, plan.clone()).unwrap();
    pacing.wait_until_open();
    pair.hosts.set_connected(Role::Pod, "b", false).unwrap();
    pause(SHORT);
    pair.hosts.set_connected(Role::Pod, "b", true).unwrap();
    pause(3 * SHORT);
    let report = pacing.finish().unwrap();
    assert!(report.is_clean() && report.opened == 3, "{report:?}");
    assert!(report.latencies.slowest() >= SHORT / 2, "{report:?}");

    let mut pacing = echo::pace(&route, plan).unwrap();
    pacing.wait_until_open();
    drop(server);
    let report = pacing.wait().unwrap();
    assert!(!report.is_clean() && report.broken == 3, "{report:?}");
    assert!(report.first_problem.is_some());
}

pub(crate) fn bulk_transfers_are_checked_both_ways() {
    let pair = Pair::new();
    let _server = bulk::serve(&pair.b, ANY, 9).unwrap();
    let route = Route::new(&pair.a, at(B[0], 9));
    for direction in [bulk::Direction::Up, bulk::Direction::Down] {
        let plan = bulk::Plan { direction, bytes: 3_000_001, streams: 2, limit: 4 * LIMIT };
        assert_eq!(bulk::run(&route, plan).unwrap().bytes, 6_000_002);
    }
    let stalled = bulk::stall(&route, 5, 100 << 20, LIMIT).unwrap();
    let plan = bulk::Plan { direction: bulk::Direction::Down, bytes: 1 << 20, streams: 1, limit: LIMIT };
    assert_eq!(bulk::run(&route, plan).unwrap().bytes, 1 << 20);
    assert_eq!(stalled.finish().unwrap(), 5);
}

pub(crate) fn a_capture_finds_plaintext() {
    let pair = Pair::new();
    let capture = Capture::start(&pair.a, b"client=10.77.1.1").unwrap();
    let _server = http::serve(&pair.b, ANY, 8080, "b").unwrap();
    http::get(&Route::new(&pair.a, at(B[0], 8080)), "web", LIMIT).unwrap();
    let captured = capture.finish().unwrap();
    assert!(captured.has_marker() && captured.is_complete(), "{captured:?}");
    let flows: Vec<_> = captured.between(at(A[0], 0).ip(), at(B[0], 0).ip()).collect();
    assert_eq!(flows.len(), 2);
    assert!(flows.iter().all(|flow| !flow.is_tls));
    let marked: Vec<_> = flows.iter().filter(|flow| flow.has_marker).map(|flow| flow.from).collect();
    assert_eq!(marked, [at(B[0], 8080)]);
}

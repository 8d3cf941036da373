//! What becomes of connections whose endpoint fails, and whom that concerns.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

use warren::lab::net::redirect::mute_towards;

use crate::{metrics::metrics_show, support::*};

const WEB: &str = "10.96.0.80:80";
const BACKENDS: [&str; 3] = ["b0", "b1", "b2"];

/// `client` and `neighbour` on node one, and three backends of one service on node two.
fn mesh() -> String {
    let pod = |(at, name): (usize, &&str)| {
        format!(
            "  - {{name: {name}, serviceAccount: {name}, node: two, ip: 10.77.2.1{at}, run: http 8080}}\n"
        )
    };
    let backends: String = BACKENDS.iter().enumerate().map(pod).collect();
    format!(
        "
nodes: {{one: 10.77.0.1, two: 10.77.0.2}}
pods:
  - {{name: client, serviceAccount: client, node: one, ip: 10.77.1.1}}
  - {{name: neighbour, serviceAccount: neighbour, node: one, ip: 10.77.1.2}}
{backends}
services:
  - {{name: web, vips: 10.96.0.80, ports: {{80: 8080}}, endpoints: [b0, b1, b2]}}
"
    )
}

/// Makes `count` requests of `pod` to the service, each on a connection of its own. Returns the answers by backend.
fn spread(lab: &Lab, pod: &str, count: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        let mut stream = dial(lab, pod, WEB).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let backend = answer.split("pod=").nth(1).unwrap_or_else(|| panic!("no backend in {answer:?}"));
        *answers.entry(backend.split(' ').next().unwrap().to_owned()).or_default() += 1;
    }
    answers
}

pub(crate) fn a_pod_whose_own_rules_drop_what_it_sends_moves_no_connection_of_another() {
    let lab = raise(&mesh());
    let dropped = ["10.77.2.10".parse().unwrap(), "10.77.2.11".parse().unwrap()];
    mute_towards(lab.pod("client").unwrap(), &dropped).unwrap();
    let mut own = spread(&lab, "client", 12);
    assert_eq!(own, BTreeMap::from([("b2".to_owned(), 12)]), "the others cannot be reached");
    let neighbours = spread(&lab, "neighbour", 60);
    println!("{neighbours:?} of 60 connections of the neighbour");
    for backend in BACKENDS {
        assert!(neighbours.get(backend).is_some_and(|answers| *answers >= 6), "{neighbours:?}");
    }
    own = spread(&lab, "client", 12);
    assert_eq!(own, BTreeMap::from([("b2".to_owned(), 12)]), "the others cannot be reached");
}

pub(crate) fn tunnels_of_one_stream_that_are_released_at_once_serve_a_burst_of_connections() {
    let settings = [("POOL_MAX_STREAMS_PER_CONNECTION", "1"), ("POOL_UNUSED_RELEASE_TIMEOUT", "0")];
    let lab = raise_with(MESH, &settings, Default::default());
    // All are dialled before one is asked anything.
    let mut burst: Vec<_> = (0..100).map(|_| dial(&lab, "client", SERVER).unwrap()).collect();
    for stream in &mut burst {
        echo(stream, b"one of a hundred").unwrap();
    }
    let tunnels = |want: f64| move |now: &crate::metrics::Metrics| now.sum("warren_tunnels", &[]) == want;
    metrics_show(&lab, "one", "a tunnel for each connection", tunnels(100.0));
    drop(burst);
    metrics_show(&lab, "one", "tunnels that ended with their streams", tunnels(0.0));
    open(&lab, "client", SERVER).unwrap();
}

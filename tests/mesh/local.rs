//! Pods of one node, joined inside their proxy: as between any two pods, with no tunnel.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::Shutdown,
};

use tokio::runtime::Runtime;

use crate::{
    load::carry,
    logs::{Line, access, line},
    metrics::{all_closed, metrics, metrics_show},
    support::*,
    tunnel::id,
    zds::{cni, cni_pod},
};

/// As `MESH`, with a third captured pod on node one that nobody but `near` may call, and a service.
const HOME: &str = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
pods:
  - {name: client, serviceAccount: client, node: one, ip: 10.77.1.1}
  - {name: near, serviceAccount: near, node: one, ip: 10.77.1.2, run: [echo 9000]}
  - {name: shut, serviceAccount: shut, node: one, ip: 10.77.1.3, run: [echo 9000]}
  - {name: bare, serviceAccount: bare, node: two, ip: 10.77.2.9, captured: false}
services:
  - {name: web, vips: 10.96.0.80, ports: {80: 9000}, endpoints: [near]}
policies:
  - {name: no-client, action: DENY, pods: [shut], rules: [{from: {serviceAccounts: [default/client]}}]}
";
const SHUT: &str = "10.77.1.3:9000";
const WEB: &str = "10.96.0.80:80";
/// Nobody listens there.
const MARK: &str = "10.77.1.2:9998";

/// Raises a mesh whose pods have their certificates: until then a connection waits for them in a tunnel, which is given
/// up soon after.
fn raise_warm(mesh: &str, more: &[(&str, &str)]) -> Lab {
    let mut settings = vec![("POOL_UNUSED_RELEASE_TIMEOUT", "1s")];
    settings.extend(more);
    let lab = raise_with(mesh, &settings, Default::default());
    for (pod, to) in [("client", NEAR), ("near", SHUT)].iter().take(mesh.matches("{name: shut").count() + 1) {
        end(open(&lab, pod, to).unwrap());
    }
    metrics_show(&lab, "one", "end of the tunnels", |metrics| metrics.sum("warren_tunnels", &[]) == 0.0);
    lab
}

/// Tunnels the proxy of node one has dialled.
fn tunnels(lab: &Lab) -> f64 {
    metrics(lab, "one").sum("warren_tunnels", &[])
}

/// What a line says whenever the same happens.
fn lasting(mut line: Line) -> Line {
    line.fields.remove("duration");
    if let Some(src) = line.fields.get_mut("src.addr") {
        *src = src.rsplit_once(':').unwrap().0.to_owned();
    }
    line
}

/// The lines of node one after the first `before`, sorted.
fn told(lab: &Lab, before: usize) -> Vec<String> {
    let lines = access(lab, "one").into_iter().skip(before);
    let mut lines: Vec<String> = lines.map(|line| format!("{:?}", lasting(line))).collect();
    lines.sort();
    lines
}

/// The series of connections at node one.
fn counted(lab: &Lab) -> BTreeMap<String, f64> {
    let now = metrics(lab, "one");
    let families =
        ["connections_opened", "connections_closed", "connections_failed", "received_bytes", "sent_bytes"];
    let series = families.iter().flat_map(|family| {
        let name = format!("istio_tcp_{family}_total");
        now.find(&name, &[])
            .map(|sample| (format!("{name} {:?}", sample.labels), sample.value))
            .collect::<Vec<_>>()
    });
    series.collect()
}

/// Everything that is said of a connection, happening once: lines and series.
fn everything(joined: bool) -> (Vec<String>, BTreeMap<String, f64>) {
    let mut lab = raise_warm(HOME, &[("WARREN_LOCAL_JOIN", if joined { "true" } else { "false" })]);
    all_closed(&lab, "one");
    // Lines are written in order, and a little later: once those of one more connection are there, so are all before.
    let marks = || access(&lab, "one").iter().filter(|line| line.field("dst.hbone_addr") == MARK).count();
    let marked = marks();
    assert!(is_turned_away(&ask(lab.pod("client").unwrap(), addr(MARK))));
    eventually("lines of the mark", || (marks() == marked + 2).then_some(()));
    // Also of another proxy, whose log this one goes on with.
    let before = access(&lab, "one").len();
    for to in [NEAR, WEB] {
        end(open(&lab, "client", to).unwrap());
    }
    // Denied by policy; nobody listens; a port of the proxy.
    for to in [SHUT, "10.77.1.2:9999", "10.77.1.2:15006"] {
        let end = ask(lab.pod("client").unwrap(), addr(to));
        assert!(is_turned_away(&end), "{to}: {end:?}");
    }
    // Mutual TLS is what strict asks for, and identities are what it counts.
    let mut kept = open(&lab, "near", SHUT).unwrap();
    change(&mut lab, &format!("{HOME}strict: [default]\n"));
    assert!(is_turned_away(&ask(lab.pod("bare").unwrap(), addr(NEAR))));
    let mut cut = open(&lab, "client", NEAR).unwrap();
    assert_eq!(tunnels(&lab) == 0.0, joined, "tunnels at node one, joined: {joined}");
    let deny =
        "{name: not-near, action: DENY, pods: [near], rules: [{from: {serviceAccounts: [default/client]}}]}";
    change(&mut lab, &format!("{HOME}  - {deny}\nstrict: [default]\n"));
    assert!(is_turned_away(&end_of(&mut cut)));
    echo(&mut kept, b"still here").unwrap();
    end(kept);
    all_closed(&lab, "one");
    // Of seven two each, and one of the plaintext connection.
    eventually("last line", || (told(&lab, before).len() >= 15).then_some(()));
    (told(&lab, before), counted(&lab))
}

/// Ends a connection whose server ends when it does.
fn end(mut stream: std::net::TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut stream), End::Closed(Vec::new()));
}

pub(crate) fn joined_pods_are_told_of_as_if_there_was_a_tunnel() {
    let (lines, series) = everything(true);
    let (their_lines, their_series) = everything(false);
    for (ours, theirs) in lines.iter().zip(&their_lines) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(lines.len(), their_lines.len());
    assert_eq!(series, their_series);
    // The two could agree on nothing.
    let (client, near, shut) = (id("client"), id("near"), id("shut"));
    for wanted in [
        format!("\"dst.hbone_addr\": \"10.77.1.2:9000\", \"dst.identity\": {near:?}"),
        "\"dst.service\": \"web.default.svc.cluster.local\"".to_owned(),
        "\"error\": \"http status: 401\"".to_owned(),
        "\"error\": \"http status: 503\"".to_owned(),
        "explicitly denied by: default/no-client".to_owned(),
        "connection closed due to policy change".to_owned(),
        format!("\"dst.identity\": {shut:?}"),
    ] {
        assert!(lines.iter().any(|line| line.contains(&wanted)), "no line with {wanted}:\n{lines:#?}");
    }
    let mutual = |series: &&String| series.contains("mutual_tls") && series.contains(&client);
    assert!(series.keys().filter(mutual).count() >= 10, "{series:#?}");
}

/// A connection of `client` to a listener in `near`, and its other end.
fn live(lab: &Lab) -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = listen(lab.pod("near").unwrap(), 7000);
    let mut client = dial(lab, "client", "10.77.1.2:7000").unwrap();
    client.write_all(b"x").unwrap();
    let mut server = accept(&listener);
    server.read_exact(&mut [0]).unwrap();
    assert_eq!(server.peer_addr().unwrap().ip().to_string(), "::ffff:10.77.1.1");
    (client, server)
}

pub(crate) fn a_joined_connection_ends_with_either_of_its_pods() {
    for gone in ["client", "near"] {
        let mut lab = raise_warm(MESH, &[]);
        let (mut client, mut server) = live(&lab);
        assert_eq!(tunnels(&lab), 0.0);
        let (pod, cni) = (cni_pod(&lab, gone), cni(&mut lab, "one"));
        let runtime = Runtime::new().unwrap();
        runtime.block_on(cni.del(&pod.uid)).unwrap();
        for stream in [&mut client, &mut server] {
            assert!(is_turned_away(&end_of(stream)), "{gone}");
        }
        let drained = "connection closed due to connection drain";
        let near_says = if gone == "near" { drained } else { "" };
        let client_says = if gone == "client" { drained } else { "" };
        let to = ("dst.hbone_addr", "10.77.1.2:7000");
        line(&lab, "one", &[to, ("direction", "inbound"), ("error", near_says)]);
        line(&lab, "one", &[to, ("direction", "outbound"), ("error", client_says)]);
        if gone == "near" {
            // Nobody takes its place until it is back.
            let mut late = dial(&lab, "client", NEAR).unwrap();
            assert!(echo(&mut late, b"anybody there?").is_err());
        }
        runtime.block_on(cni.add(pod)).unwrap();
        drop(open_at_last(&lab, "client", NEAR));
    }
}

pub(crate) fn a_joined_connection_outlives_the_order_to_stop_until_its_end_or_the_deadline() {
    for (deadline, cut) in [("60s", false), ("1s", true)] {
        let settings = [("CONNECTION_TERMINATION_DEADLINE", deadline)];
        let mut lab = raise_warm(MESH, &settings);
        let mut live = open(&lab, "client", NEAR).unwrap();
        assert_eq!(tunnels(&lab), 0.0);
        let mut process = lab.take_proxy("one").unwrap();
        process.signal(libc::SIGTERM).unwrap();
        eventually("end of new connections", || open(&lab, "client", NEAR).is_err().then_some(()));
        if !cut {
            echo(&mut live, &vec![7; 100_000]).unwrap();
            live.shutdown(Shutdown::Write).unwrap();
        }
        assert!(is_turned_away(&end_of(&mut live)));
        assert_eq!(process.wait(LIMIT).unwrap().code(), Some(0), "{}", process.log_text());
        let drains = process.log_text().matches("connection closed due to connection drain").count();
        assert_eq!(drains, if cut { 2 } else { 0 }, "{}", process.log_text());
    }
}

pub(crate) fn a_thousand_joined_connections_carry_every_byte_and_leave_nothing_behind() {
    warren::sys::limits::raise_open_files().unwrap();
    const MANY: (usize, usize) = (1000, 1 << 18);
    const LONG: (usize, usize) = (2, 1 << 26);
    let lab = raise_warm(MESH, &[]);
    let files = metrics(&lab, "one").sum("process_open_fds", &[]);
    for (count, bytes) in [MANY, LONG] {
        carry(&lab, NEAR, (count, bytes));
    }
    all_closed(&lab, "one");
    let after = metrics(&lab, "one");
    assert_eq!(after.sum("warren_tunnels", &[]), 0.0);
    assert_eq!(after.sum("istio_tcp_connections_failed_total", &[]), 0.0);
    // With what warmed it up.
    let carried = [(1, 4), MANY, LONG].iter().map(|(count, bytes)| count * (bytes + 1)).sum::<usize>() as f64;
    for reporter in ["source", "destination"] {
        let labels = [("reporter", reporter), ("connection_security_policy", "mutual_tls")];
        assert_eq!(after.sum("istio_tcp_connections_opened_total", &labels), (1 + MANY.0 + LONG.0) as f64);
        assert_eq!(after.sum("istio_tcp_received_bytes_total", &labels), carried, "{reporter}");
        assert_eq!(after.sum("istio_tcp_sent_bytes_total", &labels), carried, "{reporter}");
    }
    metrics_show(&lab, "one", &format!("no socket and no more than {files} open files"), |metrics| {
        metrics.sum("istio_tcp_sockets_open", &[]) == 0.0
            && metrics.sum("process_open_fds", &[]) <= files + 20.0
    });
}

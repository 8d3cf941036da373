//! Tests of captured outbound connections, as the client, the next hop and the operator see the connections.

mod cut;
mod early;
mod failover;
mod networks;
mod on_demand;
mod suspicion;
mod tunnel;

use std::time::Duration;

use super::*;
use crate::{
    dataplane::testing::{
        TestBed, TestPod,
        network::{Made, Plan},
        run,
        stream::End,
    },
    protocols::{
        mesh::fixtures::{TestMesh, addr, pod, service},
        pb::workload::load_balancing::{Mode, Scope},
    },
    sys::probe,
};

/// The pod "client", and an application's address there.
const CLIENT_IP: &str = "10.0.0.1";
const CLIENT: &str = "10.0.0.1:40000";
/// A service of the HBONE pods "one", which is tried first, and "two".
const SERVICE: &str = "10.1.0.1:80";
const ONE: &str = "10.0.0.11:15008";
const TWO: &str = "10.0.0.12:15008";
/// A service of the pods "three", which is tried first, and "four", without HBONE.
const PLAIN_SERVICE: &str = "10.1.0.2:80";
const THREE: &str = "10.0.0.13:8080";
const FOUR: &str = "10.0.0.14:8080";

const HOST: &str = "web.ns1.svc.cluster.local";
const PLAIN_HOST: &str = "plain.ns1.svc.cluster.local";

fn mesh() -> TestMesh {
    let nearest_first = |host, vip| service(host, vip).balancing(Mode::Failover, &[Scope::Node]);
    TestMesh::new()
        .with(pod("client", CLIENT_IP).hbone().local())
        .with(pod("server", "10.0.0.2").hbone())
        .with(pod("plain", "10.0.0.3"))
        .with(nearest_first(HOST, "10.1.0.1"))
        .with(pod("one", "10.0.0.11").hbone().local().of(HOST, &[]))
        .with(pod("two", "10.0.0.12").hbone().of(HOST, &[]))
        .with(nearest_first(PLAIN_HOST, "10.1.0.2"))
        .with(pod("three", "10.0.0.13").local().of(PLAIN_HOST, &[]))
        .with(pod("four", "10.0.0.14").of(PLAIN_HOST, &[]))
        .with(service("none.ns1.svc.cluster.local", "10.1.0.3"))
}

fn client(bed: &TestBed) -> TestPod {
    bed.pod("client", CLIENT_IP)
}

fn text(text: &str, end: End) -> (String, End) {
    (text.to_owned(), end)
}

#[test]
fn a_pod_without_hbone_is_dialled_and_bytes_go_both_ways() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.network.plan("10.0.0.3:8080", Plan::Accept);
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.3:8080");
        conn.app.say("hello").await;
        let mut server = pod.network.accepted("10.0.0.3:8080").await;
        server.hears("hello").await;
        server.say("welcome").await;
        conn.app.hears("welcome").await;
        assert_eq!(bed.count("istio_tcp_sockets_open", "source"), 1);
        conn.app.finish().await;
        assert_eq!(server.end().await, text("", End::Finished));
        server.finish().await;
        assert_eq!(conn.app.end().await, text("", End::Finished));
        conn.done().await;
        let made = Made { to: addr("10.0.0.3:8080"), source: None, scope: PathScope::Network };
        assert_eq!(pod.network.made(), [made]);
        assert!(pod.peers.dialled().is_empty());
        assert_eq!(bed.lines(), ["outbound 10.0.0.3:8080: complete, 5 sent, 7 received"]);
        assert_eq!(bed.closed("source"), [("-", 1)]);
        assert_eq!(bed.count("istio_tcp_received_bytes_total", "source"), 5);
        assert_eq!(bed.count("istio_tcp_sent_bytes_total", "source"), 7);
        assert_eq!(bed.count("istio_tcp_sockets_open", "source"), 0);
        assert!(pod.conns.live.is_empty() && !pod.conns.has_arriving());
    });
}

#[test]
fn an_unknown_destination_is_passed_through() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.network.plan("192.0.2.7:443", Plan::Accept);
        let mut conn = bed.connect(&pod, CLIENT, "192.0.2.7:443");
        let mut server = pod.network.accepted("192.0.2.7:443").await;
        server.say("welcome").await;
        drop(server);
        assert_eq!(conn.app.end().await, text("welcome", End::Finished));
        conn.app.finish().await;
        conn.done().await;
        assert_eq!(bed.lines(), ["outbound 192.0.2.7:443: complete, 0 sent, 7 received"]);
    });
}

#[test]
fn a_half_closed_connection_goes_on_in_the_other_direction() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.network.plan("10.0.0.3:8080", Plan::Accept);
        for client_first in [true, false] {
            let mut conn = bed.connect(&pod, CLIENT, "10.0.0.3:8080");
            let mut server = pod.network.accepted("10.0.0.3:8080").await;
            let (first, second) =
                if client_first { (&mut conn.app, &mut server) } else { (&mut server, &mut conn.app) };
            first.say("last words").await;
            first.finish().await;
            assert_eq!(second.end().await, text("last words", End::Finished));
            second.say("go on").await;
            first.hears("go on").await;
            assert_eq!(pod.conns.live.len(), 1, "the connection has not ended");
            second.finish().await;
            assert_eq!(first.end().await, text("", End::Finished));
            conn.done().await;
        }
        assert_eq!(bed.closed("source"), [("-", 2)]);
    });
}

#[test]
fn an_unknown_own_workload_is_waited_for_and_then_refused() {
    run(mesh(), async |bed| {
        let pod = bed.pod("ghost", "10.0.0.66");
        let since = tokio::time::Instant::now();
        let mut conn = bed.connect(&pod, "10.0.0.66:1000", "10.0.0.3:8080");
        conn.app.say("hello").await;
        // Unread bytes of the client make the close a reset.
        assert_eq!(conn.app.end().await, text("", End::Reset));
        conn.done().await;
        assert_eq!(since.elapsed(), bed.config.timeouts.workload);
        let why = "failed to fetch information about local workload: sa-ghost.ns1 (ghost)";
        assert_eq!(bed.lines(), [format!("outbound 10.0.0.3:8080 refused: {why}")]);
        assert!(pod.network.made().is_empty());
        assert!(bed.closed("source").is_empty(), "no connection was opened");
    });
}

#[test]
fn an_own_workload_that_comes_late_is_served() {
    run(mesh(), async |bed| {
        let late = bed.pod("late", "10.0.0.67");
        late.network.plan("10.0.0.3:8080", Plan::Accept);
        let conn = bed.connect(&late, "10.0.0.67:1000", "10.0.0.3:8080");
        // A push of another workload does not end the wait.
        bed.push(pod("other", "10.0.0.68"));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(late.network.made().is_empty() && !conn.is_done());
        bed.push(pod("late", "10.0.0.67").hbone().local());
        late.network.accepted("10.0.0.3:8080").await;
    });
}

#[test]
fn the_proxys_own_ports_are_refused() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        for dst in ["127.0.0.1:15001", "127.0.0.1:15006", "10.0.0.1:15008"] {
            let mut conn = bed.connect(&pod, CLIENT, dst);
            assert_eq!(conn.app.end().await, text("", End::Finished));
            conn.done().await;
            let line = format!("outbound {dst} refused: attempted recursive call to ourselves");
            assert_eq!(bed.lines(), [line]);
        }
        assert!(pod.network.made().is_empty());
    });
}

#[test]
fn a_service_without_endpoints_is_refused() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, "10.1.0.3:80");
        assert_eq!(conn.app.end().await, text("", End::Finished));
        conn.done().await;
        assert_eq!(bed.lines(), ["outbound 10.1.0.3:80 refused: no healthy upstream: 10.1.0.3:80"]);
        assert!(pod.network.made().is_empty());
    });
}

#[test]
fn a_connection_without_a_route_is_counted_and_logged_with_its_source_and_service() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, "10.1.0.3:80");
        conn.done().await;
        let labels = [
            "reporter=\"source\"",
            "source_workload=\"client\"",
            "source_workload_namespace=\"ns1\"",
            "destination_service=\"none.ns1.svc.cluster.local\"",
            "destination_workload=\"unknown\"",
            "response_flags=\"CONNECT\"",
        ];
        assert_eq!(bed.sum("istio_tcp_connections_failed_total", &labels), 1);
        assert_eq!(bed.sum("istio_tcp_connections_closed_total", &labels), 1);
        assert_eq!(bed.sum("istio_tcp_connections_opened_total", &labels[..5]), 1);
        assert_eq!(bed.sum("warren_outbound_unroutable_total", &["reason=\"no_healthy_upstream\""]), 1);
        let [fields] = bed.fields().try_into().unwrap();
        let field = |name: &str| fields.get(name).map(String::as_str);
        assert_eq!(field("message"), Some("connection failed"));
        assert_eq!((field("src.workload"), field("src.namespace")), (Some("client"), Some("ns1")));
        assert_eq!(field("dst.service"), Some("none.ns1.svc.cluster.local"));
    });
}

#[test]
fn what_is_refused_before_the_client_is_known_is_no_traffic() {
    run(mesh(), async |bed| {
        let (pod, ghost) = (client(bed), bed.pod("ghost", "10.0.0.66"));
        for (pod, dst, reason) in
            [(&pod, "127.0.0.1:15001", "recursive"), (&ghost, SERVICE, "unknown_local_workload")]
        {
            bed.connect(pod, CLIENT, dst).done().await;
            let reason = format!("reason=\"{reason}\"");
            assert_eq!(bed.sum("warren_outbound_unroutable_total", &[&reason]), 1);
        }
        assert!(bed.closed("source").is_empty());
    });
}

#[test]
fn a_canary_is_dropped_unseen() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, &probe::target(false).to_string());
        pod.outbound.canaries.arrival(addr(CLIENT)).await;
        conn.done().await;
        assert_eq!(conn.app.end().await, text("", End::Reset));
        assert!(bed.lines().is_empty() && bed.closed("source").is_empty());
        assert!(pod.network.made().is_empty());
    });
}

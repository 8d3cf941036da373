//! Tests of peers' tunnels and their streams, as the peer, the application and the operator see the tunnels.

mod end;
mod refused;

use http::Method;
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::{
    dataplane::testing::{
        TestBed, TestPod, ask,
        network::{Made, Plan},
        peers::{PeerStream, StreamEnd},
        run, run_with,
        stream::{End, TestEnd},
    },
    protocols::{
        mesh::fixtures::{TestMesh, addr, ip, pod, service},
        proxy_protocol,
    },
    sys::pacing::PathScope,
};

/// The peer "client", and the source address of its tunnels.
const CLIENT: (&str, &str) = ("client", "10.0.0.1:50000");
/// The application of the pod "server".
const APP: &str = "10.0.0.2:8080";
const HOST: &str = "web.ns1.svc.cluster.local";

fn mesh() -> TestMesh {
    TestMesh::new()
        .with(pod("client", "10.0.0.1").hbone())
        .with(pod("server", "10.0.0.2").hbone().local().of(HOST, &[]))
        .with(service(HOST, "10.1.0.1"))
}

/// The pod "server", whose application listens.
fn server(bed: &TestBed) -> TestPod {
    let pod = bed.pod("server", "10.0.0.2");
    pod.network.plan(APP, Plan::Accept);
    pod
}

/// A stream to the application, and the application.
async fn open(pod: &TestPod, tunnel: &crate::dataplane::testing::PeerTunnel) -> (PeerStream, TestEnd) {
    let (status, _, stream) = ask(&tunnel.send, (Method::CONNECT, APP), &[]).await.unwrap();
    assert_eq!(status, 200);
    (stream, pod.network.accepted(APP).await)
}

fn finished(text: &str) -> (String, End) {
    (text.to_owned(), End::Finished)
}

#[test]
fn bytes_go_both_ways_and_the_peer_is_told_of_the_workload() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let (status, headers, mut peer) = ask(&tunnel.send, (Method::CONNECT, APP), &[]).await.unwrap();
        assert_eq!(status, 200);
        let baggage = headers["baggage"].to_str().unwrap();
        for part in ["k8s.namespace.name=ns1", "k8s.deployment.name=server", "service.name=server"] {
            assert!(baggage.split(',').any(|have| have == part), "{part} is not in {baggage}");
        }
        let mut app = pod.network.accepted(APP).await;
        // The application sees its client's address.
        let made = Made { to: addr(APP), source: Some(ip("10.0.0.1")), scope: PathScope::Host };
        assert_eq!(pod.network.made(), [made]);
        peer.say("hello");
        app.hears("hello").await;
        app.say("welcome").await;
        peer.hears("welcome").await;
        assert_eq!((pod.conns.live.len(), pod.conns.peers.len()), (1, 1));
        peer.finish();
        assert_eq!(app.end().await, finished(""));
        app.say("more").await;
        app.finish().await;
        assert_eq!(peer.end().await, ("more".into(), StreamEnd::Finished));
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        assert_eq!(bed.lines(), ["inbound 10.0.0.2:15008: complete, 11 sent, 5 received"]);
        assert_eq!(bed.closed("destination"), [("-", 1)]);
        assert_eq!(bed.count("istio_tcp_received_bytes_total", "destination"), 5);
        assert_eq!(bed.count("istio_tcp_sent_bytes_total", "destination"), 11);
        assert_eq!((pod.conns.live.len(), pod.conns.peers.len()), (0, 1), "the tunnel stays");
        assert!(!pod.conns.has_arriving());
    });
}

#[test]
fn the_peer_is_told_nothing_of_the_workload_where_that_is_turned_off() {
    run_with(
        mesh(),
        |config| config.listen.baggage = false,
        async |bed| {
            let pod = server(bed);
            let tunnel = bed.tunnel(&pod, CLIENT).await;
            let (status, headers, _peer) = ask(&tunnel.send, (Method::CONNECT, APP), &[]).await.unwrap();
            assert_eq!(status, 200);
            assert!(headers.get("baggage").is_none());
        },
    );
}

#[test]
fn the_client_is_known_by_its_address_and_by_its_identity() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let _open = open(&pod, &tunnel).await;
        let text = bed.metrics.encode();
        for label in [
            "source_workload=\"client\"",
            "source_principal=\"spiffe://cluster.local/ns/ns1/sa/sa-client\"",
            "destination_workload=\"server\"",
            "destination_service=\"web.ns1.svc.cluster.local\"",
            "connection_security_policy=\"mutual_tls\"",
        ] {
            let opened = "istio_tcp_connections_opened_total";
            assert!(
                text.lines().any(|line| line.starts_with(opened) && line.contains(label)),
                "{label}\n{text}"
            );
        }
    });
}

#[test]
fn a_client_of_another_network_is_known_by_its_baggage() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let headers = [
            ("x-forwarded-network", "elsewhere"),
            ("baggage", "k8s.namespace.name=far,k8s.deployment.name=stranger"),
        ];
        ask(&tunnel.send, (Method::CONNECT, APP), &headers).await.unwrap();
        let text = bed.metrics.encode();
        assert!(
            text.contains("source_workload=\"stranger\"")
                && text.contains("source_workload_namespace=\"far\"")
        );
        assert!(!text.contains("source_workload=\"client\""));
    });
}

#[test]
fn a_service_is_found_by_its_hostname() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let authority = format!("{HOST}:80");
        let (status, ..) = ask(&tunnel.send, (Method::CONNECT, &authority), &[]).await.unwrap();
        assert_eq!(status, 200);
        assert_eq!(pod.network.dialled(), [APP]);
    });
}

#[test]
fn an_application_that_wants_to_hear_of_its_client_does() {
    let mesh = TestMesh::new().with(pod("server", "10.0.0.2").hbone().local().tunnel(true, 0));
    run(mesh, async |bed| {
        let pod = bed.pod("server", "10.0.0.2");
        pod.network.plan("127.0.0.1:8080", Plan::Accept);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let (status, _, mut peer) = ask(&tunnel.send, (Method::CONNECT, "10.9.9.9:8080"), &[]).await.unwrap();
        assert_eq!(status, 200);
        let mut app = pod.network.accepted("127.0.0.1:8080").await;
        assert_eq!(pod.network.made()[0].source, None, "the source is on the loopback, too");
        let identity = crate::dataplane::testing::identity("client");
        let want = proxy_protocol::encode(addr(CLIENT.1), addr("10.9.9.9:8080"), Some(&identity));
        let mut got = vec![0; want.len()];
        app.read_exact(&mut got).await.unwrap();
        assert_eq!(got, want);
        peer.say("hello");
        app.hears("hello").await;
    });
}

#[test]
fn a_half_closed_stream_goes_on_in_the_other_direction() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let (mut peer, mut app) = open(&pod, &tunnel).await;
        app.say("last words").await;
        app.finish().await;
        assert_eq!(peer.end().await, ("last words".into(), StreamEnd::Finished));
        peer.say("go on");
        app.hears("go on").await;
        assert_eq!(pod.conns.live.len(), 1);
        peer.finish();
        assert_eq!(app.end().await, finished(""));
    });
}

#[test]
fn streams_of_a_tunnel_do_not_wait_for_each_other() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        pod.network.plan("10.0.0.2:9090", Plan::Silent);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let slow = ask(&tunnel.send, (Method::CONNECT, "10.0.0.2:9090"), &[]);
        let mut slow = std::pin::pin!(slow);
        let quick = timeout(std::time::Duration::from_millis(1), slow.as_mut()).await;
        assert!(quick.is_err(), "the silent application is waited for");
        let (mut peer, mut app) = open(&pod, &tunnel).await;
        peer.say("hello");
        app.hears("hello").await;
        assert_eq!(slow.await.unwrap().0, 503);
    });
}

//! Tests of connections through a tunnel: the request that the peer receives, and the answers of the peer.

use h2::Reason;
use tokio::time::Instant;

use super::*;
use crate::dataplane::{
    pod::network::ConnectFailed,
    testing::{
        TestConn,
        peers::{DialPlan, StreamEnd},
        run_with,
    },
    tunnel::dialer::DialError,
};

const SERVER: &str = "10.0.0.2:15008";

#[test]
fn bytes_go_both_ways_through_a_tunnel_that_is_told_who_asks() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
        let asked = pod.peers.asked(SERVER).await;
        assert_eq!(asked.authority(), "10.0.0.2:80");
        assert_eq!(asked.header("forwarded"), "for=\"10.0.0.1:40000\"");
        let baggage = asked.header("baggage");
        for part in ["k8s.namespace.name=ns1", "k8s.deployment.name=client", "service.name=client"] {
            assert!(baggage.split(',').any(|have| have == part), "{part} is not in {baggage}");
        }
        assert_eq!(asked.header("traceparent").len(), 55);
        assert_eq!((asked.header("x-forwarded-network"), asked.header("x-istio-source")), Default::default());
        let mut server = asked.accept();
        conn.app.say("hello").await;
        server.hears("hello").await;
        server.say("welcome");
        conn.app.hears("welcome").await;
        conn.app.finish().await;
        assert_eq!(server.end().await, (String::new(), StreamEnd::Finished));
        server.say("more");
        server.finish();
        assert_eq!(conn.app.end().await, text("more", End::Finished));
        conn.done().await;
        assert_eq!(bed.lines(), ["outbound 10.0.0.2:15008: complete, 5 sent, 11 received"]);
        assert_eq!(bed.closed("source"), [("-", 1)]);
        let mtls = "istio_tcp_connections_opened_total";
        assert_eq!(bed.count(mtls, "source"), 1);
        assert!(pod.network.made().is_empty(), "no connection outside the tunnel");
    });
}

#[test]
fn the_peer_is_told_of_the_client_also_where_answers_tell_nothing() {
    run_with(
        mesh(),
        |config| config.listen.baggage = false,
        async |bed| {
            let pod = client(bed);
            let _conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
            let asked = pod.peers.asked(SERVER).await;
            assert!(asked.header("baggage").contains("k8s.namespace.name=ns1"));
        },
    );
}

#[test]
fn a_service_is_named_to_the_peer() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let _conn = bed.connect(&pod, CLIENT, SERVICE);
        let asked = pod.peers.asked(ONE).await;
        assert_eq!(asked.authority(), "10.0.0.11:8080");
        assert_eq!(asked.header("forwarded"), format!("for=\"10.0.0.1:40000\";host={HOST}"));
    });
}

#[test]
fn connections_to_one_peer_share_a_tunnel() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        for _ in 0..3 {
            let _conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
            assert_eq!(pod.peers.asked(SERVER).await.tunnel, 0);
        }
        assert_eq!(pod.peers.dialled(), [SERVER]);
    });
}

#[test]
fn a_waypoint_is_asked_for_the_original_destination_and_gets_no_early_data() {
    let host = "behind.ns1.svc.cluster.local";
    let mesh = mesh()
        .with(pod("waypoint", "10.0.0.20").hbone())
        .with(service(host, "10.1.0.6").waypoint("10.0.0.20"));
    run(mesh, async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, "10.1.0.6:80");
        conn.app.say("hello").await;
        let mut asked = pod.peers.asked("10.0.0.20:15008").await;
        assert_eq!(asked.authority(), "10.1.0.6:80");
        let early = tokio::time::timeout(Duration::from_secs(10), asked.hears("hello")).await;
        assert!(early.is_err(), "the waypoint got what was said before it answered");
        asked.accept().hears("hello").await;
    });
}

#[test]
fn a_client_without_a_certificate_waits_and_no_endpoint_is_blamed() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        bed.certs.withdraw(&pod.identity);
        pod.peers.plan(ONE, DialPlan::TunnelAfter(Duration::from_secs(7)));
        let mut conn = bed.connect(&pod, CLIENT, SERVICE);
        conn.app.say("hello").await;
        pod.peers.asked(ONE).await.accept().hears("hello").await;
        assert_eq!(pod.peers.dialled(), [ONE]);
        assert!(pod.outbound.peers.suspicions.hops().is_empty());
    });
}

#[test]
fn a_client_that_gets_no_certificate_is_refused_and_no_endpoint_is_blamed() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.peers.plan(ONE, DialPlan::Fail(|_| DialError::Certificate("no certificate".into())));
        let mut conn = bed.connect(&pod, CLIENT, SERVICE);
        assert_eq!(conn.app.end().await, text("", End::Finished));
        conn.done().await;
        assert_eq!(pod.peers.dialled(), [ONE]);
        assert_eq!(bed.lines(), [format!("outbound {ONE}: identity error: no certificate")]);
        assert_eq!(bed.closed("source"), [("IDENTITY_ERROR", 1)]);
        assert!(pod.outbound.peers.suspicions.hops().is_empty());
    });
}

#[test]
fn each_failed_dial_has_its_flag() {
    fn refused(to: SocketAddr) -> DialError {
        ConnectFailed::Refused { to, error: std::io::ErrorKind::ConnectionRefused.into() }.into()
    }
    fn timed_out(to: SocketAddr) -> DialError {
        ConnectFailed::TimedOut { to, after: Duration::from_secs(10) }.into()
    }
    fn mute(to: SocketAddr) -> DialError {
        DialError::TlsTimedOut { to, after: Duration::from_secs(5) }
    }
    fn no_h2(to: SocketAddr) -> DialError {
        DialError::Http2 { to, error: "timed out".into() }
    }
    type Row = (fn(SocketAddr) -> DialError, &'static str, &'static str);
    let table: [Row; 5] = [
        (refused, "connection failed: 10.0.0.2:15008: connection refused", "CONNECT"),
        (
            timed_out,
            "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: 10.0.0.2:15008: no answer \
             within 10s",
            "NETWORK_POLICY",
        ),
        (mute, "tls error: 10.0.0.2:15008: TLS handshake not completed within 5s", "CONNECT"),
        (|to| DialError::Alpn { to }, "tls error: 10.0.0.2:15008: peer does not speak h2", "CONNECT"),
        (no_h2, "http2 handshake failed: 10.0.0.2:15008: timed out", "H2_HANDSHAKE_FAILURE"),
    ];
    for (error, line, flag) in table {
        run(mesh(), async |bed| {
            let pod = client(bed);
            pod.peers.plan(SERVER, DialPlan::Fail(error));
            let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
            conn.app.say("hello").await;
            assert_eq!(conn.app.end().await, text("", End::Reset));
            conn.done().await;
            assert_eq!(bed.lines(), [format!("outbound {SERVER}: {line}")]);
            assert_eq!(bed.closed("source"), [(flag, 1)]);
            assert_eq!(pod.peers.dialled(), [SERVER]);
        });
    }
}

#[test]
fn a_refusal_by_status_closes_the_client() {
    for status in [400, 401, 503] {
        run(mesh(), async |bed| {
            let pod = client(bed);
            let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
            conn.app.say("hello").await;
            pod.peers.asked(SERVER).await.answer(status);
            // The proxy has read the client's bytes but not delivered them, so the client is reset.
            assert_eq!(conn.app.end().await, text("", End::Reset));
            conn.done().await;
            assert_eq!(bed.lines(), [format!("outbound {SERVER}: http status: {status}")]);
            assert_eq!(bed.closed("source"), [("CONNECT", 1)]);
        });
    }
}

#[test]
fn an_answer_is_not_waited_for_without_end() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let since = Instant::now();
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
        conn.app.say("hello").await;
        let mut asked = pod.peers.asked(SERVER).await;
        assert_eq!(conn.app.end().await, text("", End::Reset));
        conn.done().await;
        assert_eq!(since.elapsed().as_secs(), bed.config.timeouts.connect_response.as_secs());
        let why = "h2 failed: 10.0.0.2:15008: no answer to CONNECT within 20s";
        assert_eq!(bed.lines(), [format!("outbound {SERVER}: {why}")]);
        assert_eq!(bed.closed("source"), [("H2_HANDSHAKE_FAILURE", 1)]);
        // The proxy cancels the request at the peer.
        assert_eq!(asked.end().await, ("hello".into(), StreamEnd::Reset(Reason::CANCEL)));
    });
}

#[test]
fn a_tunnel_that_goes_away_keeps_its_streams_and_gets_no_more() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut first = bed.connect(&pod, CLIENT, "10.0.0.2:80");
        let mut server = pod.peers.asked(SERVER).await.accept();
        pod.peers.go_away(0).await;
        let mut second = bed.connect(&pod, "10.0.0.1:40001", "10.0.0.2:80");
        let asked = pod.peers.asked(SERVER).await;
        assert_eq!(asked.tunnel, 1);
        let mut other = asked.accept();
        for (app, peer) in [(&mut first.app, &mut server), (&mut second.app, &mut other)] {
            app.say("hello").await;
            peer.hears("hello").await;
        }
        assert!(bed.lines().is_empty(), "nothing has failed");
    });
}

#[test]
fn a_request_that_waits_when_its_tunnel_goes_away_is_still_answered() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
        conn.app.say("hello").await;
        let asked = pod.peers.asked(SERVER).await;
        pod.peers.go_away(0).await;
        let mut server = asked.accept();
        server.hears("hello").await;
        server.say("welcome");
        conn.app.hears("welcome").await;
        assert_eq!(pod.peers.dialled(), [SERVER]);
    });
}

/// Opens `count` connections to [`SERVER`], which the peer accepts. Returns each with the peer's end and the tunnel.
async fn accepted(
    bed: &TestBed,
    pod: &TestPod,
    count: u16,
) -> Vec<(TestConn, crate::dataplane::testing::peers::PeerStream, usize)> {
    let mut conns = Vec::new();
    for port in 0..count {
        let conn = bed.connect(pod, &format!("10.0.0.1:{}", 41_000 + port), "10.0.0.2:80");
        let asked = pod.peers.asked(SERVER).await;
        let tunnel = asked.tunnel;
        conns.push((conn, asked.accept(), tunnel));
    }
    conns
}

#[test]
fn tunnels_that_are_all_on_their_way_out_lose_no_connection() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.peers.limit_streams(2);
        let mut conns = accepted(bed, &pod, 6).await;
        assert_eq!(conns.iter().map(|conn| conn.2).collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2]);
        // Each of the three tunnels has room again, and a stream that keeps it.
        for at in [4, 2, 0] {
            let (mut conn, mut server, _) = conns.remove(at);
            conn.app.finish().await;
            server.finish();
            conn.done().await;
        }
        for tunnel in 0..3 {
            pod.peers.go_away(tunnel).await;
        }
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
        conn.app.say("hello").await;
        let asked = pod.peers.asked(SERVER).await;
        assert_eq!(asked.tunnel, 3, "a tunnel is dialled once none is left");
        asked.accept().hears("hello").await;
        // The tunnels that go away keep their streams.
        for (conn, server, _) in &mut conns {
            conn.app.say("still here").await;
            server.hears("still here").await;
        }
    });
}

#[test]
fn a_burst_of_connections_is_served_by_as_many_tunnels_as_it_takes() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.peers.limit_streams(1);
        pod.peers.plan(SERVER, DialPlan::TunnelAfter(Duration::from_millis(100)));
        let since = Instant::now();
        let conns: Vec<_> = (0..100_u16)
            .map(|port| bed.connect(&pod, &format!("10.0.0.1:{}", 41_000 + port), "10.0.0.2:80"))
            .collect();
        let mut tunnels = std::collections::BTreeSet::new();
        for _ in &conns {
            let asked = pod.peers.asked(SERVER).await;
            tunnels.insert(asked.tunnel);
            // The streams must stay open, as each fills its tunnel.
            std::mem::forget(asked.accept());
        }
        assert_eq!((tunnels.len(), pod.peers.dialled().len()), (100, 100));
        // One after another the dials would take ten seconds.
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
        assert!(bed.lines().is_empty(), "nothing has failed");
    });
}

#[test]
fn a_burst_of_connections_to_a_peer_that_is_gone_fails_with_the_first_dial() {
    fn refused(to: SocketAddr) -> DialError {
        ConnectFailed::Refused { to, error: std::io::ErrorKind::ConnectionRefused.into() }.into()
    }
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.peers.limit_streams(1);
        pod.peers.plan(SERVER, DialPlan::Fail(refused));
        let mut conns: Vec<_> = (0..500_u16)
            .map(|port| bed.connect(&pod, &format!("10.0.0.1:{}", 41_000 + port), "10.0.0.2:80"))
            .collect();
        for conn in &mut conns {
            conn.done().await;
        }
        assert_eq!(bed.closed("source"), [("CONNECT", 500)]);
        assert_eq!(pod.peers.dialled().len(), 1);
    });
}

//! Tests of failover to other endpoints of a service when one endpoint fails.

use h2::Reason;
use tokio::time::Instant;

use super::*;
use crate::dataplane::{pod::network::ConnectFailed, testing::peers::DialPlan, tunnel::dialer::DialError};

fn refused(to: SocketAddr) -> DialError {
    ConnectFailed::Refused { to, error: std::io::ErrorKind::ConnectionRefused.into() }.into()
}

#[test]
fn another_endpoint_is_connected_to_after_a_refusal() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.network.plan(FOUR, Plan::Accept);
        let mut conn = bed.connect(&pod, CLIENT, PLAIN_SERVICE);
        conn.app.say("hello").await;
        let mut server = pod.network.accepted(FOUR).await;
        server.hears("hello").await;
        drop(server);
        conn.app.finish().await;
        conn.done().await;
        assert_eq!(pod.network.dialled(), [THREE, FOUR]);
        assert_eq!(pod.outbound.peers.suspicions.hops(), [addr(THREE)]);
        // The client saw one connection.
        assert_eq!(bed.lines(), [format!("outbound {FOUR}: complete, 5 sent, 0 received")]);
        assert_eq!(bed.closed("source"), [("-", 1)]);
        assert_eq!(bed.count("istio_tcp_connections_opened_total", "source"), 1);
        assert_eq!(bed.count("istio_tcp_connections_failed_total", "source"), 0);
        assert_eq!((bed.attempts("reached", "-"), bed.attempts("tried_again", "connect")), (1, 1));
    });
}

#[test]
fn the_last_refusal_is_the_connections() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, PLAIN_SERVICE);
        assert_eq!(conn.app.end().await, text("", End::Finished));
        conn.done().await;
        assert_eq!(pod.network.dialled(), [THREE, FOUR]);
        assert_eq!(bed.lines(), [format!("outbound {FOUR}: connection failed: {FOUR}: connection refused")]);
        assert_eq!(bed.closed("source"), [("CONNECT", 1)]);
        assert_eq!(bed.count("istio_tcp_connections_opened_total", "source"), 1);
        assert_eq!((bed.attempts("tried_again", "connect"), bed.attempts("failed", "connect")), (1, 1));
    });
}

#[test]
fn a_slow_endpoint_is_replaced_after_a_second() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.network.plan(THREE, Plan::Silent);
        pod.network.plan(FOUR, Plan::Accept);
        let since = Instant::now();
        let _conn = bed.connect(&pod, CLIENT, PLAIN_SERVICE);
        pod.network.accepted(FOUR).await;
        assert_eq!(since.elapsed().as_secs(), 1);
        assert_eq!(pod.outbound.peers.suspicions.hops(), [addr(THREE)]);
        assert_eq!(bed.attempts("tried_again", "slow"), 1);
        assert!(bed.lines().is_empty(), "the connection goes on");
    });
}

#[test]
fn a_slow_endpoint_without_another_gets_all_the_time_there_is() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.network.plan("10.0.0.3:8080", Plan::Silent);
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.3:8080");
        let since = Instant::now();
        assert_eq!(conn.app.end().await, text("", End::Finished));
        conn.done().await;
        assert_eq!(since.elapsed(), bed.config.timeouts.connect);
        let why = "connection failed: 10.0.0.3:8080: no answer within 10s";
        assert_eq!(bed.lines(), [format!("outbound 10.0.0.3:8080: {why}")]);
        // A slow endpoint is still connected to.
        pod.network.plan("10.0.0.3:8080", Plan::AcceptAfter(Duration::from_secs(9)));
        let _conn = bed.connect(&pod, CLIENT, "10.0.0.3:8080");
        pod.network.accepted("10.0.0.3:8080").await;
    });
}

#[test]
fn another_endpoint_is_dialled_after_a_failed_dial() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.peers.plan(ONE, DialPlan::Fail(refused));
        let mut conn = bed.connect(&pod, CLIENT, SERVICE);
        conn.app.say("hello").await;
        let asked = pod.peers.asked(TWO).await;
        assert_eq!(asked.authority(), "10.0.0.12:8080");
        asked.accept().hears("hello").await;
        assert_eq!(pod.outbound.peers.suspicions.hops(), [addr(ONE)]);
        assert_eq!(bed.attempts("tried_again", "tunnel"), 1);
    });
}

#[test]
fn a_dial_that_takes_longer_than_a_second_is_replaced_and_goes_on_for_others() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.peers.plan(ONE, DialPlan::TunnelAfter(Duration::from_secs(3)));
        let since = Instant::now();
        let _conn = bed.connect(&pod, CLIENT, SERVICE);
        pod.peers.asked(TWO).await;
        assert_eq!(since.elapsed().as_secs(), 1);
        assert_eq!(bed.attempts("tried_again", "slow"), 1);
        // The dial goes on, and a later connection uses the tunnel.
        let _conn = bed.connect(&pod, CLIENT, "10.0.0.11:8080");
        pod.peers.asked(ONE).await;
        assert_eq!(pod.peers.dialled(), [ONE, TWO]);
    });
}

#[test]
fn a_dial_that_is_never_heard_of_is_replaced() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.peers.plan(ONE, DialPlan::Silent);
        let _conn = bed.connect(&pod, CLIENT, SERVICE);
        pod.peers.asked(TWO).await;
    });
}

#[test]
fn another_endpoint_is_asked_after_503_and_after_no_other_status() {
    for (status, another) in [(503, true), (401, false), (400, false), (404, false), (500, false)] {
        run(mesh(), async |bed| {
            let pod = client(bed);
            let mut conn = bed.connect(&pod, CLIENT, SERVICE);
            conn.app.say("hello").await;
            pod.peers.asked(ONE).await.answer(status);
            let line = format!("outbound {ONE}: http status: {status}");
            if another {
                pod.peers.asked(TWO).await.accept().hears("hello").await;
                assert_eq!(bed.attempts("tried_again", "status"), 1);
            } else {
                assert_eq!(conn.app.end().await, text("", End::Reset));
                conn.done().await;
                assert_eq!(pod.peers.dialled(), [ONE], "{status}");
                assert_eq!(bed.lines(), [line]);
            }
        });
    }
}

#[test]
fn a_second_503_is_the_connections() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, SERVICE);
        for to in [ONE, TWO] {
            pod.peers.asked(to).await.answer(503);
        }
        assert_eq!(conn.app.end().await, text("", End::Finished));
        conn.done().await;
        assert_eq!(bed.lines(), [format!("outbound {TWO}: http status: 503")]);
        assert_eq!(bed.closed("source"), [("CONNECT", 1)]);
    });
}

#[test]
fn a_silent_client_is_asked_for_elsewhere_when_there_is_no_answer() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let _conn = bed.connect(&pod, CLIENT, SERVICE);
        let _unanswered = pod.peers.asked(ONE).await;
        pod.peers.asked(TWO).await;
        assert_eq!(bed.attempts("tried_again", "no_answer"), 1);
    });
}

#[test]
fn a_client_that_was_heard_is_not_asked_for_elsewhere_when_there_is_no_answer() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, SERVICE);
        conn.app.say("hello").await;
        let _unanswered = pod.peers.asked(ONE).await;
        assert_eq!(conn.app.end().await, text("", End::Reset));
        assert_eq!(pod.peers.dialled(), [ONE]);
    });
}

#[test]
fn streams_that_are_refused_again_and_again_lead_to_another_endpoint() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, SERVICE);
        conn.app.say("hello").await;
        for _ in 0..2 {
            pod.peers.asked(ONE).await.reset(Reason::REFUSED_STREAM);
        }
        pod.peers.asked(TWO).await.accept().hears("hello").await;
    });
}

#[test]
fn a_connection_that_is_cut_during_an_attempt_is_counted_once() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.network.plan(FOUR, Plan::Silent);
        let mut conn = bed.connect(&pod, CLIENT, PLAIN_SERVICE);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(pod.network.dialled(), [THREE, FOUR]);
        pod.conns.live.cut_all(crate::dataplane::pod::conns::cut::DRAIN);
        conn.done().await;
        assert_eq!(bed.lines(), [format!("outbound {FOUR}: connection closed due to connection drain")]);
        assert_eq!(bed.closed("source"), [("-", 1)]);
        assert_eq!(bed.count("istio_tcp_connections_opened_total", "source"), 1);
    });
}

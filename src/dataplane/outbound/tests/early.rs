//! Tests of early data, which goes along with the CONNECT exactly once.

use h2::Reason;

use super::*;
use crate::dataplane::testing::{peers::StreamEnd, run_with};

const SERVER: &str = "10.0.0.2:15008";

#[test]
fn what_the_client_has_said_goes_along_and_is_counted_once() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
        conn.app.say("hello").await;
        let mut asked = pod.peers.asked(SERVER).await;
        // The peer has not answered yet.
        asked.hears("hello").await;
        let mut server = asked.accept();
        conn.app.say(" again").await;
        conn.app.finish().await;
        assert_eq!(server.end().await, (" again".into(), StreamEnd::Finished));
        server.finish();
        conn.done().await;
        assert_eq!(bed.lines(), ["outbound 10.0.0.2:15008: complete, 11 sent, 0 received"]);
        assert_eq!(bed.count("istio_tcp_received_bytes_total", "source"), 11);
    });
}

#[test]
fn nothing_goes_along_where_that_is_turned_off() {
    run_with(
        mesh(),
        |config| config.tunnel.http2.early_data = false,
        async |bed| {
            let pod = client(bed);
            let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
            conn.app.say("hello").await;
            let mut asked = pod.peers.asked(SERVER).await;
            let early = timeout(Duration::from_secs(10), asked.hears("hello")).await;
            assert!(early.is_err(), "the peer got what was said before it answered");
            asked.accept().hears("hello").await;
        },
    );
}

#[test]
fn a_refused_stream_is_asked_for_again_with_what_went_along() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
        conn.app.say("hello").await;
        pod.peers.asked(SERVER).await.reset(Reason::REFUSED_STREAM);
        let mut server = pod.peers.asked(SERVER).await.accept();
        server.hears("hello").await;
        conn.app.finish().await;
        assert_eq!(server.end().await, (String::new(), StreamEnd::Finished), "it was sent twice");
        server.finish();
        conn.done().await;
        assert_eq!(bed.lines(), ["outbound 10.0.0.2:15008: complete, 5 sent, 0 received"]);
    });
}

#[test]
fn an_endpoint_that_answers_503_hands_on_what_went_along() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, SERVICE);
        conn.app.say("hello").await;
        let mut first = pod.peers.asked(ONE).await;
        first.hears("hello").await;
        first.answer(503);
        pod.peers.asked(TWO).await.accept().hears("hello").await;
    });
}

#[test]
fn what_may_have_been_heard_is_not_said_again() {
    for whole_tunnel in [true, false] {
        run(mesh(), async |bed| {
            let pod = client(bed);
            let mut conn = bed.connect(&pod, CLIENT, SERVICE);
            conn.app.say("hello").await;
            let asked = pod.peers.asked(ONE).await;
            if whole_tunnel {
                pod.peers.break_tunnel(0).await;
            } else {
                asked.reset(Reason::INTERNAL_ERROR);
            }
            assert_eq!(conn.app.end().await, text("", End::Reset));
            conn.done().await;
            assert_eq!(pod.peers.dialled(), [ONE]);
            assert_eq!(bed.closed("source"), [("H2_HANDSHAKE_FAILURE", 1)]);
            assert_eq!(bed.lines().len(), 1);
        });
    }
}

#[test]
fn a_silent_client_is_asked_for_elsewhere_when_its_tunnel_breaks() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, SERVICE);
        let _asked = pod.peers.asked(ONE).await;
        pod.peers.break_tunnel(0).await;
        // The failed tunnel may have been old, so the endpoint gets a second attempt.
        let _asked = pod.peers.asked(ONE).await;
        pod.peers.break_tunnel(1).await;
        let mut server = pod.peers.asked(TWO).await.accept();
        conn.app.say("said later").await;
        server.hears("said later").await;
        assert_eq!(pod.peers.dialled(), [ONE, ONE, TWO]);
    });
}

#[test]
fn a_tunnel_that_aborts_unread_requests_is_replaced() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, SERVICE);
        let _asked = pod.peers.asked(ONE).await;
        pod.peers.abort(0, Reason::NO_ERROR).await;
        let mut server = pod.peers.asked(ONE).await.accept();
        conn.app.say("said later").await;
        server.hears("said later").await;
        assert_eq!(pod.peers.dialled(), [ONE, ONE]);
    });
}

//! Tests of outbound connections that are cut, or that lose one end.

use h2::Reason;

use super::*;
use crate::dataplane::{
    pod::conns::cut,
    testing::peers::{DialPlan, StreamEnd},
};

const SERVER: &str = "10.0.0.2:15008";

/// The reasons of a cut, and the text and flag that report the cut.
const CUTS: [(CutReason, &str, &str); 4] = [
    (cut::POLICY, "connection closed due to policy change", "DENY"),
    (cut::DRAIN, "connection closed due to connection drain", "-"),
    (cut::POD, "connection closed due to connection drain", "-"),
    (cut::OWNER, "connection closed due to connection drain", "-"),
];

#[test]
fn a_relayed_connection_that_is_cut_ends_for_both() {
    for (reason, line, flag) in CUTS {
        run(mesh(), async |bed| {
            let pod = client(bed);
            let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
            conn.app.say("hello").await;
            let mut server = pod.peers.asked(SERVER).await.accept();
            server.hears("hello").await;
            server.say("welcome");
            conn.app.hears("welcome").await;
            pod.conns.live.cut_all(reason);
            assert_eq!(conn.app.end().await, text("", End::Finished));
            assert!(conn.app.is_dropped().await);
            assert_eq!(server.end().await, (String::new(), StreamEnd::Reset(Reason::CANCEL)));
            conn.done().await;
            assert_eq!(bed.lines(), [format!("outbound {SERVER}: {line}, 5 sent, 7 received")]);
            assert_eq!(bed.closed("source"), [(flag, 1)]);
        });
    }
}

#[test]
fn a_relayed_connection_without_a_tunnel_that_is_cut_ends_for_both() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.network.plan("10.0.0.3:8080", Plan::Accept);
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.3:8080");
        let mut server = pod.network.accepted("10.0.0.3:8080").await;
        pod.conns.live.cut_all(cut::DRAIN);
        assert_eq!(conn.app.end().await, text("", End::Finished));
        assert!(conn.app.is_dropped().await && server.is_dropped().await);
        conn.done().await;
        let line = "outbound 10.0.0.3:8080: connection closed due to connection drain";
        assert_eq!(bed.lines(), [line]);
    });
}

#[test]
fn a_connection_that_is_cut_while_it_waits_for_its_next_hop_ends() {
    for (reason, line, flag) in CUTS {
        run(mesh(), async |bed| {
            let pod = client(bed);
            pod.peers.plan(SERVER, DialPlan::Silent);
            let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
            conn.app.say("hello").await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            pod.conns.live.cut_all(reason);
            assert_eq!(conn.app.end().await, text("", End::Reset));
            conn.done().await;
            assert_eq!(bed.lines(), [format!("outbound {SERVER}: {line}")]);
            assert_eq!(bed.closed("source"), [(flag, 1)]);
        });
    }
}

#[test]
fn a_connection_that_is_cut_while_it_waits_for_an_answer_cancels_its_stream() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
        let mut asked = pod.peers.asked(SERVER).await;
        pod.conns.live.cut_all(cut::DRAIN);
        conn.done().await;
        assert_eq!(asked.end().await, (String::new(), StreamEnd::Reset(Reason::CANCEL)));
    });
}

#[test]
fn a_pod_that_admits_nothing_drops_what_it_accepts() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.conns.live.close_admission();
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
        assert_eq!(conn.app.end().await, text("", End::Finished));
        conn.done().await;
        assert!(pod.peers.dialled().is_empty() && bed.closed("source").is_empty());
    });
}

#[test]
fn a_client_that_resets_its_connection_cancels_the_stream() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
        conn.app.say("hello").await;
        let mut server = pod.peers.asked(SERVER).await.accept();
        server.hears("hello").await;
        let (gone, _) = crate::dataplane::testing::stream::connection(addr(CLIENT), None);
        std::mem::replace(&mut conn.app, gone).reset();
        let (_, end) = server.end().await;
        assert!(matches!(end, StreamEnd::Finished | StreamEnd::Reset(Reason::CANCEL)), "{end:?}");
        conn.done().await;
        assert_eq!(bed.lines(), [format!("outbound {SERVER}: complete, 5 sent, 0 received")]);
    });
}

#[test]
fn a_stream_that_its_peer_resets_ends_the_client() {
    for (reason, line, flag) in [
        (Reason::CANCEL, "complete", "-"),
        (Reason::NO_ERROR, "complete", "-"),
        (
            Reason::CONNECT_ERROR,
            "h2 failed: stream reset by peer: connection established in response to a CONNECT request was reset",
            "H2_HANDSHAKE_FAILURE",
        ),
    ] {
        run(mesh(), async |bed| {
            let pod = client(bed);
            let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
            conn.app.say("hello").await;
            let mut server = pod.peers.asked(SERVER).await.accept();
            server.hears("hello").await;
            server.say("welcome");
            conn.app.hears("welcome").await;
            server.reset(reason);
            assert_eq!(conn.app.end().await, text("", End::Finished));
            conn.done().await;
            let [have] = bed.lines().try_into().unwrap();
            assert!(have.contains(line), "{have}");
            assert_eq!(bed.closed("source"), [(flag, 1)], "{reason:?}");
        });
    }
}

#[test]
fn a_tunnel_that_breaks_ends_its_clients() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
        conn.app.say("hello").await;
        let mut server = pod.peers.asked(SERVER).await.accept();
        server.hears("hello").await;
        pod.peers.break_tunnel(0).await;
        assert_eq!(conn.app.end().await, text("", End::Finished));
        conn.done().await;
        assert_eq!(bed.closed("source"), [("H2_HANDSHAKE_FAILURE", 1)]);
        // The next connection gets another tunnel.
        let _conn = bed.connect(&pod, CLIENT, "10.0.0.2:80");
        assert_eq!(pod.peers.asked(SERVER).await.tunnel, 1);
    });
}

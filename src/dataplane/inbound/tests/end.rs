//! Tests of the ends of streams and tunnels: drained, cut, broken, or mute.

use std::time::Duration;

use h2::Reason;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::{io::AsyncWriteExt as _, time::Instant};

use super::*;
use crate::{
    dataplane::testing::{
        TestConn, TestPod, identity,
        stream::{TestEnd, connection},
    },
    protocols::{
        config::Http2Config,
        hbone::client,
        tls::{RevocationLists, Revocations, buffer::Buffers, stream::TlsStream},
    },
};

/// A connection of the peer "client", and the peer's end of it after the TLS handshake.
async fn after_handshake(bed: &TestBed, pod: &TestPod) -> (TestConn, TlsStream<TestEnd>) {
    let mut conn = bed.connect_peer(pod, CLIENT.1);
    let (gone, _) = connection(addr(CLIENT.1), None);
    let app = std::mem::replace(&mut conn.app, gone);
    let config = bed.certs.of_peer(&identity("client")).client_config(std::slice::from_ref(&pod.identity));
    let name = ip("10.0.0.2").into();
    let (tls, _) = handshake::connect(config, name, app, Buffers::default()).await.unwrap();
    (conn, tls)
}

#[test]
fn a_drained_tunnel_takes_no_more_streams_and_ends_with_its_last() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let (mut peer, mut app) = open(&pod, &tunnel).await;
        pod.conns.drain();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let refused = ask(&tunnel.send, (Method::CONNECT, APP), &[]).await.err().unwrap();
        assert!(refused.is_go_away(), "{refused}");
        assert_eq!(refused.reason(), Some(Reason::NO_ERROR));
        peer.say("hello");
        app.hears("hello").await;
        app.say("welcome").await;
        peer.hears("welcome").await;
        assert!(!tunnel.is_done());
        app.finish().await;
        peer.finish();
        assert_eq!(peer.end().await, (String::new(), StreamEnd::Finished));
        drop(peer);
        // The result is ignored, as the peer may fail to send its last frames.
        let _ = tunnel.done().await;
        assert_eq!(bed.lines(), ["inbound 10.0.0.2:15008: complete, 7 sent, 5 received"]);
    });
}

#[test]
fn a_stream_that_is_cut_is_cancelled_and_its_tunnel_stays() {
    for (reason, line, flag) in [
        (cut::POLICY, "connection closed due to policy change", "DENY"),
        (cut::DRAIN, "connection closed due to connection drain", "-"),
        (cut::POD, "connection closed due to connection drain", "-"),
    ] {
        run(mesh(), async |bed| {
            let pod = server(bed);
            let tunnel = bed.tunnel(&pod, CLIENT).await;
            let (mut peer, mut app) = open(&pod, &tunnel).await;
            peer.say("hello");
            app.hears("hello").await;
            pod.conns.live.cut_all(reason);
            assert_eq!(peer.end().await, (String::new(), StreamEnd::Reset(Reason::CANCEL)));
            assert_eq!(app.end().await, finished(""));
            assert!(app.is_dropped().await);
            assert_eq!(bed.lines(), [format!("inbound 10.0.0.2:15008: {line}, 0 sent, 5 received")]);
            assert_eq!(bed.closed("destination"), [(flag, 1)]);
            open(&pod, &tunnel).await;
        });
    }
}

#[test]
fn a_stream_that_is_cut_while_its_application_is_connected_to_is_cancelled() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        pod.network.plan(APP, Plan::Silent);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let cut = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            pod.conns.live.cut_all(cut::POLICY);
        };
        let (answer, ()) = tokio::join!(ask(&tunnel.send, (Method::CONNECT, APP), &[]), cut);
        assert_eq!(answer.err().unwrap().reason(), Some(Reason::CANCEL));
        assert_eq!(bed.lines(), ["inbound 10.0.0.2:15008: connection closed due to policy change"]);
        assert_eq!(bed.closed("destination"), [("DENY", 1)]);
    });
}

#[test]
fn a_tunnel_that_is_cut_ends_with_its_streams() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let (mut peer, mut app) = open(&pod, &tunnel).await;
        pod.conns.peers.cut_all(cut::POD);
        assert_eq!(peer.end().await.1, StreamEnd::Broken);
        assert_eq!(app.end().await, finished(""));
        assert!(app.is_dropped().await);
        let _ = tunnel.done().await;
        assert!(pod.conns.peers.is_empty() && pod.conns.live.is_empty());
    });
}

#[test]
fn a_tunnel_of_a_revoked_peer_ends_by_a_goaway_and_its_streams_say_why() {
    run(mesh(), async |bed| {
        let lists = Arc::<Revocations>::default();
        let pod = server(bed);
        let own = bed.certs.authority().issue(&pod.identity).checking(lists.clone());
        bed.certs.put(&pod.identity, own);
        let issue = |serial| {
            let issued = bed.certs.authority().issue_numbered(&identity("client"), serial);
            issued.workload(&Default::default()).client_config(std::slice::from_ref(&pod.identity))
        };
        let tunnel = bed.tunnel_by(&pod, CLIENT.1, issue(7)).await.unwrap();
        let other = bed.tunnel_by(&pod, "10.0.0.1:50001", issue(8)).await.unwrap();
        let (mut peer, mut app) = open(&pod, &tunnel).await;
        let (mut kept, mut kept_app) = open(&pod, &other).await;
        peer.say("hello");
        app.hears("hello").await;
        lists.replace(RevocationLists::parse(bed.certs.authority().list(0, &[7]).der()).unwrap());
        // What the actor does after a reload.
        let mut revoked = 0;
        pod.conns.peers.for_each(|tunnel| {
            if tunnel.info().of.chain().unwrap().is_revoked() {
                assert_eq!(tunnel.info().of.peer, addr(CLIENT.1));
                tunnel.cut(cut::REVOKED);
                revoked += 1;
            }
        });
        assert_eq!(revoked, 1);
        // The result is ignored, as the peer may fail to send its last frames.
        let _ = tunnel.done().await;
        assert_eq!(app.end().await, finished(""));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let line =
            "inbound 10.0.0.2:15008: connection closed: peer certificate revoked by CRL, 0 sent, 5 received";
        assert_eq!(bed.lines(), [line]);
        assert_eq!(bed.closed("destination"), [("CERT_REVOKED", 1)]);
        kept.say("still here");
        kept_app.hears("still here").await;
        // A new tunnel is refused, and after another list it is not.
        let refused = bed.tunnel_by(&pod, CLIENT.1, issue(7)).await;
        if let Ok(tunnel) = refused {
            tunnel.done().await.unwrap_err();
        }
        assert_eq!(bed.count("istio_crl_policy_rejections_total", "destination"), 1);
        lists.replace(RevocationLists::default());
        let tunnel = bed.tunnel_by(&pod, CLIENT.1, issue(7)).await.unwrap();
        open(&pod, &tunnel).await;
        assert_eq!(bed.count("istio_crl_untracked_connections_total", "destination"), 0);
    });
}

#[test]
fn a_revoked_peer_is_told_by_a_goaway_without_an_error() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let (mut conn, mut tls) = after_handshake(bed, &pod).await;
        // The preface of HTTP/2 and empty settings.
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        tls.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        pod.conns.peers.cut_all(cut::REVOKED);
        let mut said = Vec::new();
        let _ = tls.read_to_end(&mut said).await;
        conn.done().await;
        let (mut rest, mut last) = (&said[..], None);
        while let [a, b, c, kind, _, _, _, _, _, after @ ..] = rest {
            let (frame, next) = after.split_at(u32::from_be_bytes([0, *a, *b, *c]) as usize);
            (last, rest) = (Some((*kind, frame)), next);
        }
        let (kind, frame) = last.unwrap();
        assert_eq!((kind, &frame[4..8]), (7, &[0; 4][..]), "a GOAWAY with NO_ERROR comes last");
    });
}

#[test]
fn a_tunnel_whose_peer_is_revoked_during_its_handshake_does_not_begin() {
    run(mesh(), async |bed| {
        let lists = Arc::<Revocations>::default();
        let pod = server(bed);
        let own = bed.certs.authority().issue(&pod.identity).checking(lists.clone());
        let issued = bed.certs.authority().issue_numbered(&identity("client"), 7);
        let certs = vec![CertificateDer::from_pem_slice(issued.leaf_pem.as_bytes()).unwrap()];
        let tunnel = pod.conns.peers.admit(0, pod.conns.peer_tunnel(addr(CLIENT.1))).unwrap();
        let chain = own.client_chain(certs, UnixTime::now());
        lists.replace(RevocationLists::parse(bed.certs.authority().list(0, &[7]).der()).unwrap());
        assert!(!tunnel.info().of.keep(chain, &bed.metrics.crl, Reporter::Destination));
        assert_eq!(bed.count("istio_crl_policy_rejections_total", "destination"), 1);
    });
}

#[test]
fn a_stream_that_its_peer_resets_ends_the_application() {
    for (reason, error, flag) in [
        (Reason::CANCEL, "complete", "-"),
        (Reason::NO_ERROR, "complete", "-"),
        (Reason::INTERNAL_ERROR, "h2 failed: stream reset by peer: ", "H2_HANDSHAKE_FAILURE"),
    ] {
        run(mesh(), async |bed| {
            let pod = server(bed);
            let tunnel = bed.tunnel(&pod, CLIENT).await;
            let (mut peer, mut app) = open(&pod, &tunnel).await;
            peer.say("hello");
            app.hears("hello").await;
            peer.reset(reason);
            assert_eq!(app.end().await, finished(""));
            assert!(app.is_dropped().await);
            let [line] = bed.lines().try_into().unwrap();
            assert!(line.starts_with(&format!("inbound 10.0.0.2:15008: {error}")), "{line}");
            assert_eq!(bed.closed("destination"), [(flag, 1)], "{reason:?}");
        });
    }
}

#[test]
fn an_application_that_resets_its_connection_ends_the_stream() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let (mut peer, app) = open(&pod, &tunnel).await;
        app.reset();
        let (_, end) = peer.end().await;
        assert!(matches!(end, StreamEnd::Finished | StreamEnd::Reset(Reason::CANCEL)), "{end:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(bed.closed("destination"), [("-", 1)]);
        open(&pod, &tunnel).await;
    });
}

#[test]
fn a_tunnel_that_its_peer_leaves_ends_its_applications() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let (_peer, mut app) = open(&pod, &tunnel).await;
        tunnel.leave().await;
        assert_eq!(app.end().await, finished(""));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(pod.conns.peers.is_empty() && pod.conns.live.is_empty());
        assert_eq!(bed.closed("destination"), [("H2_HANDSHAKE_FAILURE", 1)]);
    });
}

#[test]
fn a_peer_that_answers_no_ping_is_given_up() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let (mut conn, tls) = after_handshake(bed, &pod).await;
        let (_send, mut connection) = client::handshake(tls, &Http2Config::default()).await.unwrap();
        // The peer answers PINGs while the test drives the peer's connection.
        let timeouts = &bed.config.timeouts;
        let driven = timeout(4 * timeouts.ping_interval, &mut connection).await;
        assert!(driven.is_err() && !conn.is_done());
        let since = Instant::now();
        conn.done().await;
        assert!(since.elapsed() <= timeouts.ping_interval + timeouts.ping);
        assert!(since.elapsed() >= timeouts.ping);
        assert!(pod.conns.peers.is_empty());
    });
}

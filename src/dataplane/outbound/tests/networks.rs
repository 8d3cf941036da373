//! Tests of connections to other networks: a tunnel to a gateway, and a tunnel to the destination inside.

use h2::Reason;
use tokio::time::Instant;

use super::*;
use crate::{
    dataplane::{
        config::DataPlaneConfig,
        pod::conns::cut,
        testing::{
            TestConn, identity,
            inner::InnerPeer,
            peers::{Asked, DialPlan, PeerStream, StreamEnd},
            run_with,
        },
    },
    protocols::{
        mesh::fixtures::Wl,
        route::failover::FailoverLimits,
        tls::{RevocationLists, Revocations},
    },
};

/// A service whose only endpoint is on another network, behind the gateway "gateway".
const FAR: &str = "10.1.0.5:80";
/// A service with an endpoint on this network too, which is tried after the one behind the gateway.
const BOTH: &str = "10.1.0.6:80";
const FAR_HOST: &str = "far.ns1.svc.cluster.local";
const BOTH_HOST: &str = "both.ns1.svc.cluster.local";
const GATEWAY: &str = "10.0.0.30:15008";
const NEAR: &str = "10.0.0.31:8080";

const BAGGAGE: &str =
    "k8s.cluster.name=c2,k8s.namespace.name=far-ns,k8s.deployment.name=far-v1,service.name=far";

fn far_mesh() -> TestMesh {
    let sans = ["spiffe://cluster.local/ns/ns1/sa/sa-far"];
    let far = |pod: Wl| pod.hbone().network("net2").network_gateway("net2/10.0.0.30");
    mesh()
        .with(pod("gateway", "10.0.0.30").network("net2"))
        .with(service(FAR_HOST, "10.1.0.5").sans(&sans))
        .with(far(pod("far", "")).of(FAR_HOST, &[]))
        .with(service(BOTH_HOST, "10.1.0.6").sans(&sans).balancing(Mode::Failover, &[Scope::Node]))
        .with(far(pod("far2", "")).local().of(BOTH_HOST, &[]))
        .with(pod("near", "10.0.0.31").of(BOTH_HOST, &[]))
}

/// The gateway's end of the next outer stream.
async fn outer(pod: &TestPod) -> PeerStream {
    pod.peers.asked(GATEWAY).await.accept()
}

/// A connection to [`FAR`] whose client and destination have heard each other.
async fn established(bed: &TestBed, pod: &TestPod) -> (TestConn, InnerPeer, PeerStream) {
    let mut conn = bed.connect(pod, CLIENT, FAR);
    conn.app.say("hello").await;
    let mut far = InnerPeer::accept(bed, "far", outer(pod).await).await.unwrap();
    let mut stream = far.asked().await.accept_as(BAGGAGE);
    stream.hears("hello").await;
    stream.say("welcome");
    conn.app.hears("welcome").await;
    (conn, far, stream)
}

#[test]
fn both_requests_name_the_service_and_the_inner_one_the_network() {
    run_with(
        far_mesh(),
        |config| config.network = "net1".into(),
        async |bed| {
            let pod = client(bed);
            let mut conn = bed.connect(&pod, CLIENT, FAR);
            conn.app.say("hello").await;
            let asked = pod.peers.asked(GATEWAY).await;
            let header = |asked: &Asked, name| asked.header(name);
            let shown =
                |asked: &Asked| ["baggage", "forwarded", "traceparent"].map(|name| header(asked, name));
            assert_eq!(asked.authority(), format!("{FAR_HOST}:80"));
            assert_eq!(header(&asked, "forwarded"), format!("for=\"10.0.0.1:40000\";host={FAR_HOST}"));
            assert!(header(&asked, "baggage").contains("service.name=client"));
            assert!(!asked.has("x-forwarded-network"));
            let outer = shown(&asked);
            let mut far = InnerPeer::accept(bed, "far", asked.accept()).await.unwrap();
            let asked = far.asked().await;
            assert_eq!(asked.authority(), format!("{FAR_HOST}:80"));
            assert_eq!(shown(&asked), outer);
            assert_eq!(header(&asked, "x-forwarded-network"), "net1");
        },
    );
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        let _conn = bed.connect(&pod, CLIENT, FAR);
        let mut far = InnerPeer::accept(bed, "far", outer(&pod).await).await.unwrap();
        let asked = far.asked().await;
        assert!(asked.has("x-forwarded-network"), "also if the network has no name");
        assert_eq!(asked.header("x-forwarded-network"), "");
    });
}

#[test]
fn bytes_and_ends_go_both_ways_and_the_inner_tunnel_ends_with_its_connection() {
    for client_first in [true, false] {
        run(far_mesh(), async |bed| {
            let pod = client(bed);
            let (mut conn, far, mut stream) = established(bed, &pod).await;
            let tunnels = pod.peers.dialled();
            if client_first {
                conn.app.finish().await;
                assert_eq!(stream.end().await, (String::new(), StreamEnd::Finished));
                stream.say("more");
                stream.finish();
                assert_eq!(conn.app.end().await, text("more", End::Finished));
            } else {
                stream.finish();
                assert_eq!(conn.app.end().await, text("", End::Finished));
                conn.app.say("more").await;
                conn.app.finish().await;
                assert_eq!(stream.end().await, ("more".into(), StreamEnd::Finished));
            }
            far.ended().await;
            conn.done().await;
            let bytes = if client_first { "5 sent, 11 received" } else { "9 sent, 7 received" };
            assert_eq!(bed.lines(), [format!("outbound {GATEWAY}: complete, {bytes}")]);
            assert_eq!(bed.closed("source"), [("-", 1)]);
            assert_eq!(tunnels, [GATEWAY]);
            assert!(pod.network.made().is_empty() && pod.conns.live.is_empty());
        });
    }
}

#[test]
fn much_data_passes_whoever_reads_slowly() {
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        let (mut conn, _far, mut stream) = established(bed, &pod).await;
        let much = "0123456789abcdef".repeat(100_000);
        let (up, down) = (&much, &much);
        stream.say(down);
        stream.finish();
        let client = async {
            conn.app.say(up).await;
            conn.app.finish().await;
            assert!(conn.app.end().await == text(down, End::Finished), "bytes differ on their way back");
        };
        let server = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(stream.end().await == (up.clone(), StreamEnd::Finished), "bytes differ on their way");
        };
        tokio::join!(client, server);
        conn.done().await;
        assert_eq!(bed.closed("source"), [("-", 1)]);
    });
}

#[test]
fn connections_share_the_outer_tunnel_and_no_inner_one() {
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        let first = established(bed, &pod).await;
        let second = established(bed, &pod).await;
        assert_eq!(pod.peers.dialled(), [GATEWAY]);
        drop((first, second));
    });
}

#[test]
fn the_labels_are_those_of_the_destination_as_it_describes_itself() {
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        let (conn, ..) = established(bed, &pod).await;
        let opened = |labels: &[&str]| bed.count_of("istio_tcp_connections_opened_total", labels);
        let far = [
            "destination_workload=\"far-v1\"",
            "destination_workload_namespace=\"far-ns\"",
            "destination_cluster=\"c2\"",
            "destination_canonical_service=\"far\"",
            "destination_principal=\"spiffe://cluster.local/ns/ns1/sa/sa-far\"",
            "destination_service=\"far.ns1.svc.cluster.local\"",
            "connection_security_policy=\"mutual_tls\"",
        ];
        assert_eq!((opened(&far), opened(&[])), (1, 1));
        drop(conn);
    });
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        let _conn = bed.connect(&pod, CLIENT, FAR);
        let mut far = InnerPeer::accept(bed, "far", outer(&pod).await).await.unwrap();
        let _stream = far.asked().await.accept();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let unknown = [
            "destination_workload=\"unknown\"",
            "destination_workload_namespace=\"unknown\"",
            "destination_cluster=\"unknown\"",
            "destination_principal=\"spiffe://cluster.local/ns/ns1/sa/sa-far\"",
        ];
        let opened = bed.count_of("istio_tcp_connections_opened_total", &unknown);
        assert_eq!(opened, 1, "a waypoint does not describe the destination");
    });
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, FAR);
        pod.peers.asked(GATEWAY).await.answer(503);
        conn.done().await;
        let gateway = [
            "destination_workload=\"gateway\"",
            "destination_principal=\"spiffe://cluster.local/ns/ns1/sa/sa-gateway\"",
            "response_flags=\"CONNECT\"",
        ];
        assert_eq!(bed.count_of("istio_tcp_connections_closed_total", &gateway), 1);
    });
}

#[test]
fn a_destination_with_another_identity_is_refused() {
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, FAR);
        let refused = InnerPeer::accept(bed, "gateway", outer(&pod).await).await;
        assert!(refused.is_err(), "the identity of the gateway is not that of the destination");
        conn.done().await;
        let lines = bed.lines();
        assert!(lines.len() == 1 && lines[0].contains("inner tunnel by 10.0.0.30:15008: "), "{lines:?}");
        assert!(lines[0].contains("sa-far"), "the error names who is expected: {lines:?}");
        assert_eq!(bed.attempts("failed", "inner_tunnel"), 1);
    });
}

#[test]
fn a_silent_gateway_fails_in_time_and_the_next_connection_dials_afresh() {
    /// The setting of a timeout.
    type Limit = fn(&DataPlaneConfig) -> Duration;
    // Where the silence begins, and the time after which the connection fails.
    let table: [(&str, Limit); 3] = [
        ("outer answer", |config| config.timeouts.tls_handshake),
        ("inner handshake", |config| config.timeouts.client_handshake()),
        ("inner answer", |config| config.timeouts.connect_response),
    ];
    for (silent, limit) in table {
        run(far_mesh(), async |bed| {
            let pod = client(bed);
            let since = Instant::now();
            let mut conn = bed.connect(&pod, CLIENT, FAR);
            let asked = pod.peers.asked(GATEWAY).await;
            let mut held = (None, None, None);
            match silent {
                "outer answer" => held.0 = Some(asked),
                "inner handshake" => held.1 = Some(asked.accept()),
                _ => held.2 = Some(InnerPeer::accept(bed, "far", asked.accept()).await.unwrap()),
            }
            conn.done().await;
            assert_eq!(since.elapsed(), limit(&bed.config), "{silent}");
            assert_eq!(bed.lines().len(), 1, "{silent}");
            established(bed, &pod).await;
            assert_eq!(pod.peers.dialled(), [GATEWAY, GATEWAY], "{silent}");
        });
    }
}

#[test]
fn a_slow_gateway_is_replaced_by_another_endpoint() {
    for answered in [false, true] {
        run(far_mesh(), async |bed| {
            let pod = client(bed);
            pod.network.plan(NEAR, Plan::Accept);
            let since = Instant::now();
            let mut conn = bed.connect(&pod, CLIENT, BOTH);
            conn.app.say("hello").await;
            let asked = pod.peers.asked(GATEWAY).await;
            let _held = if answered { Ok(asked.accept()) } else { Err(asked) };
            let mut near = pod.network.accepted(NEAR).await;
            assert_eq!(since.elapsed(), FailoverLimits::STANDARD.slow_after);
            near.hears("hello").await;
        });
    }
}

#[test]
fn another_endpoint_is_tried_while_the_destination_has_got_nothing() {
    // What the gateway or the destination answers, and whether another endpoint is tried.
    let table = [("gateway", 503, true), ("gateway", 404, true), ("far", 503, true), ("far", 401, false)];
    for (who, status, tries_next) in table {
        run(far_mesh(), async |bed| {
            let pod = client(bed);
            pod.network.plan(NEAR, Plan::Accept);
            let mut conn = bed.connect(&pod, CLIENT, BOTH);
            conn.app.say("hello").await;
            let asked = pod.peers.asked(GATEWAY).await;
            if who == "gateway" {
                asked.answer(status);
            } else {
                let mut far = InnerPeer::accept(bed, "far", asked.accept()).await.unwrap();
                far.asked().await.answer(status);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if tries_next {
                pod.network.accepted(NEAR).await.hears("hello").await;
                assert_eq!(bed.attempts("tried_again", "status"), 1, "{who} {status}");
            } else {
                assert_eq!(conn.app.end().await, text("", End::Reset));
                conn.done().await;
                let failed = format!("outbound {GATEWAY}: http status: {status}");
                assert_eq!(bed.lines(), [failed], "{who} {status}");
            }
        });
    }
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        pod.network.plan(NEAR, Plan::Accept);
        pod.peers.plan(GATEWAY, DialPlan::Silent);
        let mut conn = bed.connect(&pod, CLIENT, BOTH);
        conn.app.say("hello").await;
        pod.network.accepted(NEAR).await.hears("hello").await;
    });
}

#[test]
fn a_lost_outer_tunnel_ends_its_connections() {
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        let (mut conn, ..) = established(bed, &pod).await;
        pod.peers.break_tunnel(0).await;
        conn.done().await;
        let lines = bed.lines();
        assert!(lines.len() == 1 && !lines[0].contains("complete"), "{lines:?}");
    });
}

#[test]
fn a_destination_that_falls_silent_is_noticed_by_its_pings() {
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        let (mut conn, far, stream) = established(bed, &pod).await;
        far.fall_silent();
        let since = Instant::now();
        conn.done().await;
        let timeouts = &bed.config.timeouts;
        assert_eq!(since.elapsed(), timeouts.ping_interval + timeouts.ping);
        drop(stream);
    });
}

/// Has the pod's proxy check peers against revocation lists.
fn check_revocations(bed: &TestBed, pod: &TestPod) -> Arc<Revocations> {
    let lists = Arc::<Revocations>::default();
    let cert = bed.certs.authority().issue(&pod.identity).checking(lists.clone());
    bed.certs.put(&pod.identity, cert);
    lists
}

#[test]
fn a_connection_whose_destination_is_revoked_is_cut() {
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        check_revocations(bed, &pod);
        let (mut conn, far, stream) = established(bed, &pod).await;
        let mut watched = Vec::new();
        pod.conns
            .dialled
            .for_each(|conn| watched.push((conn.info().is_up(), conn.info().identity().cloned())));
        assert_eq!(
            watched,
            [(true, Some(identity("far")))],
            "the inner tunnel is watched, and known by its end"
        );
        pod.conns.dialled.cut_all(cut::REVOKED);
        conn.done().await;
        far.ended().await;
        drop(stream);
        assert_eq!(bed.closed("source"), [("CERT_REVOKED", 1)]);
        assert!(pod.conns.dialled.is_empty());
    });
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        let (conn, ..) = established(bed, &pod).await;
        assert!(pod.conns.dialled.is_empty(), "without lists nothing is watched");
        drop(conn);
    });
}

#[test]
fn a_revoked_destination_is_refused_and_counted() {
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        let authority = bed.certs.authority();
        let lists = check_revocations(bed, &pod);
        lists.replace(RevocationLists::parse(authority.list(0, &[9]).der()).unwrap());
        let far = authority.issue_numbered(&identity("far"), 9).workload(&Default::default());
        let mut conn = bed.connect(&pod, CLIENT, FAR);
        assert!(InnerPeer::accept_with(&far, outer(&pod).await).await.is_err());
        conn.done().await;
        assert_eq!(bed.count("istio_crl_policy_rejections_total", "source"), 1);
        assert!(bed.lines()[0].ends_with("Revoked"));
    });
}

#[test]
fn a_connection_that_is_cut_resets_the_outer_stream() {
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, FAR);
        let mut gateway = outer(&pod).await;
        pod.conns.live.cut_all(cut::POD);
        conn.done().await;
        assert_eq!(gateway.raw_end().await, StreamEnd::Reset(Reason::CANCEL));
    });
    run(far_mesh(), async |bed| {
        let pod = client(bed);
        let (mut conn, far, stream) = established(bed, &pod).await;
        pod.conns.live.cut_all(cut::POLICY);
        assert_eq!(conn.app.end().await, text("", End::Finished));
        conn.done().await;
        far.ended().await;
        drop(stream);
        assert_eq!(bed.closed("source"), [("DENY", 1)]);
    });
}

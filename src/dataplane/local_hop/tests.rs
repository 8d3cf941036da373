//! Tests of connections between two pods of one process, as both applications and the operator see the connections.

use super::*;
use crate::{
    dataplane::{
        pod::conns::cut,
        testing::{
            TestBed, TestConn, TestPod,
            network::{Made, Plan},
            policy, principal, run, run_with,
            stream::{End, TestEnd},
        },
    },
    protocols::{
        mesh::fixtures::{TestMesh, addr, ip, pod, service},
        pb::{
            security::Action,
            workload::load_balancing::{Mode, Scope},
        },
        tls::{RevocationLists, Revocations, test_ca::TestCa},
    },
    sys::pacing::PathScope,
};

const CLIENT: &str = "10.0.0.1:40000";
/// The application of the pod "server", and its HBONE address.
const APP: &str = "10.0.0.2:8080";
const SERVER: &str = "10.0.0.2:15008";
/// A service of "server", which is tried first, and of "elsewhere" on another node.
const SERVICE: &str = "10.1.0.1:80";
const ELSEWHERE: &str = "10.0.0.3:15008";

fn mesh() -> TestMesh {
    let host = "web.ns1.svc.cluster.local";
    TestMesh::new()
        .with(pod("client", "10.0.0.1").hbone().local())
        .with(pod("server", "10.0.0.2").hbone().local().of(host, &[]))
        .with(pod("elsewhere", "10.0.0.3").hbone().of(host, &[]))
        .with(service(host, "10.1.0.1").balancing(Mode::Failover, &[Scope::Node]))
}

/// The pods "client" and "server", which this process both serves.
fn pods(bed: &TestBed) -> (TestPod, TestPod) {
    let (client, server) = (bed.pod("client", "10.0.0.1"), bed.pod("server", "10.0.0.2"));
    server.network.plan(APP, Plan::Accept);
    bed.hops.directory.add(&server.inbound);
    (client, server)
}

/// A connection over a local hop, and the destination's application.
async fn join(bed: &TestBed, client: &TestPod, server: &TestPod) -> (TestConn, TestEnd) {
    let mut conn = bed.connect(client, CLIENT, APP);
    let mut app = server.network.accepted(APP).await;
    conn.app.say("hello").await;
    app.hears("hello").await;
    (conn, app)
}

fn finished(text: &str) -> (String, End) {
    (text.to_owned(), End::Finished)
}

#[test]
fn two_pods_of_this_process_are_joined_without_a_tunnel() {
    run(mesh(), async |bed| {
        let (client, server) = pods(bed);
        let (mut conn, mut app) = join(bed, &client, &server).await;
        app.say("welcome").await;
        conn.app.hears("welcome").await;
        assert_eq!((client.conns.live.len(), server.conns.live.len()), (1, 1));
        // The application sees its client's address, and no connection left the node.
        let made = Made { to: addr(APP), source: Some(ip("10.0.0.1")), scope: PathScope::Host };
        assert_eq!(server.network.made(), [made]);
        assert!(client.peers.dialled().is_empty() && client.network.made().is_empty());
        conn.app.finish().await;
        assert_eq!(app.end().await, finished(""));
        app.say("more").await;
        app.finish().await;
        assert_eq!(conn.app.end().await, finished("more"));
        conn.done().await;
        let mut lines = bed.lines();
        lines.sort();
        assert_eq!(
            lines,
            [
                "inbound 10.0.0.2:15008: complete, 11 sent, 5 received",
                "outbound 10.0.0.2:15008: complete, 5 sent, 11 received"
            ]
        );
        for reporter in ["source", "destination"] {
            assert_eq!(bed.closed(reporter), [("-", 1)]);
            assert_eq!(bed.count("istio_tcp_received_bytes_total", reporter), 5);
            assert_eq!(bed.count("istio_tcp_sent_bytes_total", reporter), 11);
        }
        let text = bed.metrics.encode();
        let mtls = "connection_security_policy=\"mutual_tls\"";
        let opened =
            |line: &&str| line.starts_with("istio_tcp_connections_opened_total") && line.contains(mtls);
        assert_eq!(text.lines().filter(opened).count(), 2);
    });
}

#[test]
fn policies_of_the_destination_see_the_clients_identity() {
    for (action, who, denied) in [
        (Action::Allow, "client", None),
        (Action::Allow, "other", Some("allow policies exist, but none allowed")),
        (Action::Deny, "client", Some("explicitly denied by: ns1/p")),
    ] {
        run(mesh(), async |bed| {
            let (client, server) = pods(bed);
            bed.push_policy(policy("p", action, Some(principal(who))));
            let Some(why) = denied else { return drop(join(bed, &client, &server).await) };
            let mut conn = bed.connect(&client, CLIENT, SERVICE);
            assert_eq!(conn.app.end().await, finished(""));
            conn.done().await;
            let why = format!("connection closed due to policy rejection: {why}");
            let lines = [
                format!("inbound {SERVER}: {why}"),
                // The line reads as if the destination's proxy had answered.
                format!("outbound {SERVER}: http status: 401"),
            ];
            assert_eq!(bed.lines(), lines);
            assert_eq!(bed.closed("destination"), [("DENY", 1)]);
            assert_eq!(bed.closed("source"), [("CONNECT", 1)]);
            assert!(server.network.made().is_empty());
            assert!(client.peers.dialled().is_empty(), "no other endpoint is asked after 401");
        });
    }
}

#[test]
fn an_application_that_is_not_reached_leads_to_another_endpoint() {
    run(mesh(), async |bed| {
        let (client, server) = pods(bed);
        server.network.plan(APP, Plan::Refuse);
        let mut conn = bed.connect(&client, CLIENT, SERVICE);
        conn.app.say("hello").await;
        let mut peer = client.peers.asked(ELSEWHERE).await.accept();
        peer.hears("hello").await;
        let lines = [
            format!("inbound {SERVER}: connection failed: {APP}: connection refused"),
            format!("outbound {SERVER}: http status: 503"),
        ];
        // The client's connection goes on.
        assert_eq!(bed.lines(), lines[..1]);
        assert_eq!(bed.attempts("tried_again", "status"), 1);
        // Without another endpoint the refusal ends the connection.
        let mut conn = bed.connect(&client, CLIENT, APP);
        assert_eq!(conn.app.end().await, finished(""));
        conn.done().await;
        assert_eq!(bed.lines(), lines);
    });
}

#[test]
fn the_proxys_own_port_is_refused_as_behind_a_tunnel() {
    run(mesh(), async |bed| {
        let (client, _server) = pods(bed);
        let mut conn = bed.connect(&client, CLIENT, "10.0.0.2:15006");
        assert_eq!(conn.app.end().await, finished(""));
        conn.done().await;
        let lines = [
            format!("inbound {SERVER} refused: connection failed: attempted recursive call to ourselves"),
            format!("outbound {SERVER}: http status: 503"),
        ];
        assert_eq!(bed.lines(), lines);
    });
}

/// Asserts that a connection of `client` from `from` to the server takes a tunnel.
async fn takes_a_tunnel(bed: &TestBed, client: &TestPod, from: &str) {
    let mut conn = bed.connect(client, from, APP);
    let asked = client.peers.asked(SERVER).await;
    assert_eq!(asked.authority(), APP);
    let mut peer = asked.accept();
    conn.app.say("hello").await;
    peer.hears("hello").await;
}

#[test]
fn a_draining_destination_is_reached_through_a_tunnel() {
    run(mesh(), async |bed| {
        let (client, server) = pods(bed);
        server.conns.drain();
        takes_a_tunnel(bed, &client, CLIENT).await;
        assert!(server.network.made().is_empty());
    });
}

#[test]
fn a_destination_that_is_removed_is_reached_through_a_tunnel() {
    run(mesh(), async |bed| {
        let (client, server) = pods(bed);
        bed.hops.directory.remove(&server.inbound);
        takes_a_tunnel(bed, &client, CLIENT).await;
    });
}

#[test]
fn where_pods_are_not_to_be_joined_a_tunnel_is_taken() {
    run_with(
        mesh(),
        |config| config.tunnel.join.enabled = false,
        async |bed| {
            let (client, _server) = pods(bed);
            takes_a_tunnel(bed, &client, CLIENT).await;
        },
    );
}

#[test]
fn an_address_that_is_not_the_pods_takes_a_tunnel() {
    run(mesh(), async |bed| {
        let (client, _server) = pods(bed);
        takes_a_tunnel(bed, &client, "10.0.0.99:40000").await;
    });
    // The address that the mesh gives the destination may belong to another pod by now.
    run(mesh(), async |bed| {
        let (client, server) = (bed.pod("client", "10.0.0.1"), bed.pod("server", "10.0.0.22"));
        bed.hops.directory.add(&server.inbound);
        takes_a_tunnel(bed, &client, CLIENT).await;
    });
}

#[test]
fn a_certificate_that_is_replaced_is_verified_anew() {
    run(mesh(), async |bed| {
        let (client, server) = pods(bed);
        join(bed, &client, &server).await;
        // The client would not accept the new certificate in a handshake.
        bed.certs.put(&server.identity, TestCa::new("other").workload(&server.identity));
        takes_a_tunnel(bed, &client, CLIENT).await;
        bed.certs.issue(&server.identity);
        join(bed, &client, &server).await;
        bed.certs.put(&client.identity, TestCa::new("other").workload(&client.identity));
        takes_a_tunnel(bed, &client, CLIENT).await;
    });
}

#[test]
fn the_first_connection_of_a_pod_waits_for_the_certificates_and_is_joined() {
    run(mesh(), async |bed| {
        let (client, server) = pods(bed);
        for identity in [&client.identity, &server.identity] {
            bed.certs.withdraw(identity);
        }
        let mut conn = bed.connect(&client, CLIENT, APP);
        conn.app.say("hello").await;
        bed.certs.issue(&client.identity);
        bed.certs.issue(&server.identity);
        server.network.accepted(APP).await.hears("hello").await;
        assert!(client.peers.dialled().is_empty(), "{:?}", client.peers.dialled());
    });
}

#[test]
fn without_the_destinations_certificate_a_tunnel_is_taken_in_the_end() {
    run(mesh(), async |bed| {
        let (client, server) = pods(bed);
        bed.certs.withdraw(&server.identity);
        takes_a_tunnel(bed, &client, CLIENT).await;
    });
}

#[test]
fn a_list_that_names_either_side_cuts_the_hop_and_has_a_tunnel_tried_instead() {
    for (serial, revoked) in [(1, true), (2, true), (3, false)] {
        run(mesh(), async |bed| {
            let lists = Arc::<Revocations>::default();
            let (client, server) = pods(bed);
            let authority = bed.certs.authority();
            for (pod, serial) in [(&client, 1), (&server, 2)] {
                let issued = authority.issue_numbered(&pod.identity, serial);
                bed.certs.put(&pod.identity, issued.checking(lists.clone()));
            }
            let (mut conn, mut app) = join(bed, &client, &server).await;
            assert_eq!(bed.hops.joined.len(), 1);
            lists.replace(RevocationLists::parse(authority.list(0, &[serial]).der()).unwrap());
            // What the actor does after a reload.
            bed.hops.joined.for_each(|hop| {
                assert_eq!(hop.info().is_revoked(), revoked);
                if hop.info().is_revoked() {
                    hop.info().cut();
                }
            });
            if !revoked {
                conn.app.say("goes on").await;
                app.hears("goes on").await;
                return;
            }
            assert_eq!((conn.app.end().await, app.end().await), (finished(""), finished("")));
            conn.done().await;
            let mut lines = bed.lines();
            lines.sort();
            let why = "connection closed: peer certificate revoked by CRL";
            let want = [
                format!("inbound {SERVER}: {why}, 0 sent, 5 received"),
                format!("outbound {SERVER}: {why}, 5 sent, 0 received"),
            ];
            assert_eq!(lines, want);
            assert_eq!(bed.hops.joined.len(), 0);
            // What was remembered of the two counts no more.
            takes_a_tunnel(bed, &client, CLIENT).await;
            lists.replace(RevocationLists::default());
            join(bed, &client, &server).await;
        });
    }
}

#[test]
fn a_cut_of_either_side_ends_both() {
    let policy = "connection closed due to policy change, ";
    let drain = "connection closed due to connection drain, ";
    for (theirs, reason, inbound, outbound) in [
        (true, cut::POLICY, policy, "complete, "),
        (true, cut::POD, drain, "complete, "),
        (true, cut::DRAIN, drain, drain),
        (false, cut::POD, "complete, ", drain),
        (false, cut::DRAIN, drain, drain),
    ] {
        run(mesh(), async |bed| {
            let (client, server) = pods(bed);
            let (mut conn, mut app) = join(bed, &client, &server).await;
            let side = if theirs { &server } else { &client };
            side.conns.live.cut_all(reason);
            assert_eq!((conn.app.end().await, app.end().await), (finished(""), finished("")));
            assert!(conn.app.is_dropped().await && app.is_dropped().await);
            conn.done().await;
            let mut lines = bed.lines();
            lines.sort();
            let want = [
                format!("inbound {SERVER}: {inbound}0 sent, 5 received"),
                format!("outbound {SERVER}: {outbound}5 sent, 0 received"),
            ];
            assert_eq!(lines, want, "{reason:?}, {theirs}");
            assert!(client.conns.live.is_empty() && server.conns.live.is_empty());
        });
    }
}

#[test]
fn a_destination_that_is_cut_before_its_application_is_reached_leads_to_another_endpoint() {
    run(mesh(), async |bed| {
        let (client, server) = pods(bed);
        server.network.plan(APP, Plan::Silent);
        let mut conn = bed.connect(&client, CLIENT, SERVICE);
        conn.app.say("hello").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.conns.live.cut_all(cut::POD);
        let mut peer = client.peers.asked(ELSEWHERE).await.accept();
        peer.hears("hello").await;
        assert_eq!(bed.lines(), [format!("inbound {SERVER}: connection closed due to connection drain")]);
        assert_eq!(bed.attempts("tried_again", "cut"), 1);
    });
}

#[test]
fn a_destination_that_admits_nothing_refuses_as_its_proxy_would() {
    run(mesh(), async |bed| {
        let (client, server) = pods(bed);
        server.conns.live.close_admission();
        let mut conn = bed.connect(&client, CLIENT, APP);
        assert_eq!(conn.app.end().await, finished(""));
        conn.done().await;
        assert_eq!(bed.lines(), [format!("outbound {SERVER}: http status: 401")]);
    });
}

//! Tests of captured inbound plaintext, as the client, the application and the operator see the connections.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    dataplane::{
        pod::conns::cut,
        testing::{
            TestBed, TestPod,
            network::{Made, Plan},
            plaintext, policy, run,
            stream::End,
        },
    },
    protocols::{
        mesh::fixtures::{TestMesh, addr, ip, pod, service},
        pb::security::{Action, Match},
    },
    sys::pacing::PathScope,
};

const CLIENT: &str = "10.0.0.1:50000";
/// The application of the pod "server".
const APP: &str = "10.0.0.2:8080";
const HOST: &str = "web.ns1.svc.cluster.local";

fn mesh() -> TestMesh {
    TestMesh::new()
        .with(pod("client", "10.0.0.1"))
        .with(pod("server", "10.0.0.2").hbone().local().of(HOST, &[]))
        .with(service(HOST, "10.1.0.1"))
}

/// The pod "server", whose application listens.
fn server(bed: &TestBed) -> TestPod {
    let pod = bed.pod("server", "10.0.0.2");
    pod.network.plan(APP, Plan::Accept);
    pod
}

fn finished(text: &str) -> (String, End) {
    (text.to_owned(), End::Finished)
}

#[test]
fn bytes_go_both_ways_and_the_application_sees_its_client() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let mut conn = bed.connect_plain(&pod, CLIENT, APP);
        conn.app.say("hello").await;
        let mut app = pod.network.accepted(APP).await;
        app.hears("hello").await;
        app.say("welcome").await;
        conn.app.hears("welcome").await;
        let made = Made { to: addr(APP), source: Some(ip("10.0.0.1")), scope: PathScope::Host };
        assert_eq!(pod.network.made(), [made]);
        assert_eq!(bed.count("istio_tcp_sockets_open", "destination"), 1);
        conn.app.finish().await;
        assert_eq!(app.end().await, finished(""));
        app.say("more").await;
        app.finish().await;
        assert_eq!(conn.app.end().await, finished("more"));
        conn.done().await;
        assert_eq!(bed.lines(), ["inbound 10.0.0.2:8080: complete, 11 sent, 5 received"]);
        assert_eq!(bed.closed("destination"), [("-", 1)]);
        assert_eq!(bed.count("istio_tcp_sockets_open", "destination"), 0);
        assert!(pod.conns.live.is_empty() && !pod.conns.has_arriving());
        let text = bed.metrics.encode();
        for label in [
            "source_workload=\"client\"",
            "source_principal=\"unknown\"",
            "destination_workload=\"server\"",
            "destination_service=\"web.ns1.svc.cluster.local\"",
            "connection_security_policy=\"unknown\"",
        ] {
            assert!(text.contains(label), "{label}\n{text}");
        }
    });
}

#[test]
fn the_proxys_own_ports_are_refused() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        for dst in ["10.0.0.2:15001", "10.0.0.2:15006", "10.0.0.2:15008", "192.0.2.1:15008"] {
            let mut conn = bed.connect_plain(&pod, CLIENT, dst);
            assert_eq!(conn.app.end().await, finished(""));
            conn.done().await;
            let line = format!("inbound {dst} refused: attempted recursive call to ourselves");
            assert_eq!(bed.lines(), [line]);
        }
        assert!(pod.network.made().is_empty());
    });
}

#[test]
fn what_a_policy_denies_is_closed() {
    let any = Match { destination_ports: vec![8080], ..Match::default() };
    for (action, matching, denied) in [
        (Action::Deny, plaintext(), Some("explicitly denied by: ns1/p")),
        (Action::Allow, plaintext(), None),
        (
            Action::Allow,
            crate::dataplane::testing::principal("client"),
            Some("allow policies exist, but none allowed"),
        ),
        (Action::Deny, any, Some("explicitly denied by: ns1/p")),
    ] {
        run(mesh(), async |bed| {
            let pod = server(bed);
            bed.push_policy(policy("p", action, Some(matching)));
            let mut conn = bed.connect_plain(&pod, CLIENT, APP);
            conn.app.say("hello").await;
            let Some(why) = denied else {
                return pod.network.accepted(APP).await.hears("hello").await;
            };
            assert_eq!(conn.app.end().await, (String::new(), End::Reset));
            conn.done().await;
            assert!(pod.network.made().is_empty(), "the application hears nothing of it");
            let why = format!("connection closed due to policy rejection: {why}");
            assert_eq!(bed.lines(), [format!("inbound 10.0.0.2:8080: {why}")]);
            assert_eq!(bed.closed("destination"), [("DENY", 1)]);
        });
    }
}

#[test]
fn a_client_that_policies_refuse_again_and_again_gets_a_few_lines() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        bed.push_policy(policy("p", Action::Deny, Some(plaintext())));
        for port in 1..=100 {
            let mut conn = bed.connect_plain(&pod, &format!("10.0.0.1:{port}"), APP);
            conn.app.end().await;
            conn.done().await;
        }
        // The real clock allows one more in a second.
        let lines = bed.lines().len();
        assert!((10..50).contains(&lines), "{lines} lines");
        assert_eq!(bed.closed("destination"), [("DENY", 100)], "all are counted");
    });
}

#[test]
fn a_policy_that_is_named_and_unknown_is_waited_for() {
    let bound = pod("server", "10.0.0.2").hbone().local();
    let bound = bound.edit(|pb| pb.authorization_policies = vec!["ns1/later".into()]);
    run(mesh().with(bound), async |bed| {
        let pod = server(bed);
        let since = Instant::now();
        let mut conn = bed.connect_plain(&pod, CLIENT, APP);
        assert_eq!(conn.app.end().await, finished(""));
        conn.done().await;
        assert_eq!(since.elapsed(), bed.config.timeouts.workload);
        let why =
            "connection closed due to policy rejection: explicitly denied by: ns1/later (unknown policy)";
        assert_eq!(bed.lines(), [format!("inbound 10.0.0.2:8080: {why}")]);
        assert!(pod.network.made().is_empty());
        let _conn = bed.connect_plain(&pod, CLIENT, APP);
        tokio::time::sleep(Duration::from_secs(3)).await;
        bed.push_policy(policy("later", Action::Allow, Some(plaintext())));
        pod.network.accepted(APP).await;
    });
}

#[test]
fn a_pod_whose_workload_is_unknown_waits_for_it() {
    run(mesh(), async |bed| {
        let ghost = bed.pod("ghost", "10.0.0.66");
        let mut conn = bed.connect_plain(&ghost, CLIENT, "10.0.0.66:80");
        let since = Instant::now();
        assert_eq!(conn.app.end().await, finished(""));
        conn.done().await;
        assert_eq!(since.elapsed(), bed.config.timeouts.workload);
        let why = "failed to fetch information about local workload: sa-ghost.ns1 (ghost)";
        assert_eq!(bed.lines(), [format!("inbound 10.0.0.66:80 refused: {why}")]);
    });
}

#[test]
fn an_application_that_is_not_reached_ends_the_client() {
    let refused = "connection failed: 10.0.0.2:8080: connection refused";
    let silent = "connection failed: 10.0.0.2:8080: no answer within 10s";
    for (plan, line) in [(Plan::Refuse, refused), (Plan::Silent, silent)] {
        run(mesh(), async |bed| {
            let pod = server(bed);
            pod.network.plan(APP, plan);
            let mut conn = bed.connect_plain(&pod, CLIENT, APP);
            conn.app.say("hello").await;
            assert_eq!(conn.app.end().await, (String::new(), End::Reset));
            conn.done().await;
            assert_eq!(bed.lines(), [format!("inbound 10.0.0.2:8080: {line}")]);
            assert_eq!(bed.closed("destination"), [("CONNECT", 1)]);
            assert_eq!(pod.network.dialled(), [APP], "no other place is tried");
        });
    }
}

#[test]
fn a_connection_that_is_cut_ends_for_both() {
    for (reason, line, flag) in [
        (cut::POLICY, "connection closed due to policy change", "DENY"),
        (cut::DRAIN, "connection closed due to connection drain", "-"),
    ] {
        run(mesh(), async |bed| {
            let pod = server(bed);
            let mut conn = bed.connect_plain(&pod, CLIENT, APP);
            conn.app.say("hello").await;
            let mut app = pod.network.accepted(APP).await;
            app.hears("hello").await;
            pod.conns.live.cut_all(reason);
            assert_eq!((conn.app.end().await, app.end().await), (finished(""), finished("")));
            assert!(conn.app.is_dropped().await && app.is_dropped().await);
            conn.done().await;
            assert_eq!(bed.lines(), [format!("inbound 10.0.0.2:8080: {line}, 0 sent, 5 received")]);
            assert_eq!(bed.closed("destination"), [(flag, 1)]);
        });
    }
}

#[test]
fn a_connection_that_is_cut_while_its_application_is_connected_to_ends() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        pod.network.plan(APP, Plan::Silent);
        let mut conn = bed.connect_plain(&pod, CLIENT, APP);
        tokio::time::sleep(Duration::from_secs(1)).await;
        pod.conns.live.cut_all(cut::POLICY);
        assert_eq!(conn.app.end().await, finished(""));
        conn.done().await;
        assert_eq!(bed.lines(), ["inbound 10.0.0.2:8080: connection closed due to policy change"]);
    });
}

#[test]
fn a_pod_that_admits_nothing_drops_what_it_accepts() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        pod.conns.live.close_admission();
        let mut conn = bed.connect_plain(&pod, CLIENT, APP);
        assert_eq!(conn.app.end().await, finished(""));
        conn.done().await;
        assert!(pod.network.made().is_empty() && bed.closed("destination").is_empty());
    });
}

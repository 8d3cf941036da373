//! Tests of refused tunnels and streams. Each refusal has an answer and an access log line.

use std::time::Duration;

use rustls::{ClientConfig, SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use tokio::time::Instant;

use super::*;
use crate::{
    dataplane::{
        config::DataPlaneConfig,
        handshakes::MAX_OF_SOURCE,
        pod::conns::KEPT_TUNNELS,
        testing::{identity, policy, principal, run_with, stream::TestEnd},
    },
    protocols::{
        config::{Http2Config, MissingPolicy},
        hbone::client,
        mesh::fixtures::Wl,
        pb::security::Action,
        tls::{buffer::Buffers, test_ca::TestCa},
    },
};

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Connects with a TLS configuration that the proxy refuses. Returns the access log line.
async fn refusal(bed: &TestBed, pod: &TestPod, config: Arc<ClientConfig>) -> String {
    // A TLS 1.3 client completes its handshake before the server has verified the client's certificate.
    if let Ok(tunnel) = bed.tunnel_by(pod, CLIENT.1, config).await {
        tunnel.done().await.unwrap_err();
    } else {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(pod.network.made().is_empty() && pod.conns.peers.is_empty());
    let [line] = bed.lines().try_into().unwrap();
    line
}

#[test]
fn a_source_with_too_many_handshakes_is_closed_and_another_one_is_served() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let most = usize::try_from(MAX_OF_SOURCE).unwrap();
        let mut mute: Vec<_> = (0..most).map(|_| bed.connect_peer(&pod, CLIENT.1)).collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(bed.lines(), [""; 0]);
        let mut conn = bed.connect_peer(&pod, CLIENT.1);
        assert_eq!(conn.app.end().await, finished(""));
        conn.done().await;
        let why = "tls error: too many handshakes of this source are under way";
        assert_eq!(bed.lines(), [format!("inbound 10.0.0.2:15008 refused: {why}")]);
        let other = bed.tunnel(&pod, ("client", "10.0.0.3:50000")).await;
        let (status, ..) = ask(&other.send, (http::Method::CONNECT, APP), &[]).await.unwrap();
        assert_eq!(status, 200);
        mute.pop();
        tokio::time::sleep(Duration::from_millis(1)).await;
        bed.tunnel(&pod, CLIENT).await;
    });
}

#[test]
fn a_peer_that_is_mute_in_tls_is_not_waited_for_without_end() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let since = Instant::now();
        let mut conn = bed.connect_peer(&pod, CLIENT.1);
        assert_eq!(conn.app.end().await, finished(""));
        conn.done().await;
        assert_eq!(since.elapsed(), bed.config.timeouts.tls_handshake);
        assert_eq!(bed.lines(), ["inbound 10.0.0.2:15008 refused: tls error: handshake timed out"]);
        assert_eq!(bed.count("istio_tcp_sockets_open", "destination"), 0);
    });
}

#[test]
fn a_peer_that_is_mute_in_http2_is_not_waited_for_without_end() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let mut conn = bed.connect_peer(&pod, CLIENT.1);
        let (gone, _) = crate::dataplane::testing::stream::connection(addr(CLIENT.1), None);
        let app: TestEnd = std::mem::replace(&mut conn.app, gone);
        let config =
            bed.certs.of_peer(&identity("client")).client_config(std::slice::from_ref(&pod.identity));
        let name = ip("10.0.0.2").into();
        let (mut tls, _) = handshake::connect(config, name, app, Buffers::default()).await.unwrap();
        let since = Instant::now();
        conn.done().await;
        assert_eq!(since.elapsed(), bed.config.timeouts.h2_settings);
        assert_eq!(bed.lines(), ["inbound 10.0.0.2:15008 refused: http2 handshake failed: timed out"]);
        // The bytes that the proxy sent before are no answer to a request.
        let _ = tls.read_to_end(&mut Vec::new()).await;
    });
}

#[test]
fn a_peer_without_a_certificate_is_refused() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let config =
            bed.certs.of_peer(&identity("client")).client_config(std::slice::from_ref(&pod.identity));
        let mut config = ClientConfig::clone(&config);
        config.client_auth_cert_resolver = Arc::new(NoCertificate);
        let line = refusal(bed, &pod, config.into()).await;
        assert_eq!(line, "inbound 10.0.0.2:15008 refused: tls error: peer sent no certificates");
    });
}

#[test]
fn a_peer_that_offers_no_h2_is_refused() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let config =
            bed.certs.of_peer(&identity("client")).client_config(std::slice::from_ref(&pod.identity));
        let mut config = ClientConfig::clone(&config);
        config.alpn_protocols.clear();
        let line = refusal(bed, &pod, config.into()).await;
        assert_eq!(line, "inbound 10.0.0.2:15008 refused: tls error: peer does not speak h2");
    });
}

#[test]
fn a_peer_of_another_authority_is_refused() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let (other, ours) = (TestCa::new("other"), bed.certs.authority());
        let cert = other.issue(&identity("client")).trusting(&[ours]).workload(&Default::default());
        let line = refusal(bed, &pod, cert.client_config(std::slice::from_ref(&pod.identity))).await;
        assert!(line.starts_with("inbound 10.0.0.2:15008 refused: tls error: "), "{line}");
    });
}

#[test]
fn a_peer_of_another_trust_domain_is_refused() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let stranger = Identity::new("elsewhere", "ns1", "sa-client").unwrap();
        let config = bed.certs.of_peer(&stranger).client_config(std::slice::from_ref(&pod.identity));
        let line = refusal(bed, &pod, config).await;
        assert!(line.starts_with("inbound 10.0.0.2:15008 refused: tls error: "), "{line}");
    });
}

#[test]
fn a_pod_without_a_certificate_waits_for_it() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        bed.certs.withdraw(&pod.identity);
        let since = Instant::now();
        let mut conn = bed.connect_peer(&pod, CLIENT.1);
        assert_eq!(conn.app.end().await, finished(""));
        conn.done().await;
        assert_eq!(since.elapsed(), bed.config.timeouts.server_ready());
        let [line] = bed.lines().try_into().unwrap();
        assert!(
            line.starts_with("inbound 10.0.0.2:15008 refused: identity error: no certificate for "),
            "{line}"
        );
        let later = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            bed.certs.issue(&pod.identity);
        };
        let (tunnel, ()) = tokio::join!(bed.tunnel(&pod, CLIENT), later);
        open(&pod, &tunnel).await;
    });
}

#[test]
fn a_pod_whose_workload_is_unknown_waits_for_it() {
    run(mesh(), async |bed| {
        let ghost = bed.pod("ghost", "10.0.0.66");
        let mut conn = bed.connect_peer(&ghost, CLIENT.1);
        assert_eq!(conn.app.end().await, finished(""));
        conn.done().await;
        let why = "failed to fetch information about local workload: sa-ghost.ns1 (ghost)";
        assert_eq!(bed.lines(), [format!("inbound 10.0.0.66:15008 refused: {why}")]);
    });
}

/// Entries of `count` tunnels of peers, each used just now.
fn tunnels(pod: &TestPod, count: usize) -> Vec<Conn<PeerTunnel>> {
    let admit = |_| pod.conns.peers.admit(0, pod.conns.peer_tunnel(addr(CLIENT.1))).unwrap();
    (0..count).map(admit).collect()
}

#[test]
fn past_the_bound_tunnels_that_were_used_longest_ago_make_room() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let (unused, used) = (bed.tunnel(&pod, CLIENT).await, bed.tunnel(&pod, CLIENT).await);
        tokio::time::sleep(Duration::from_secs(11)).await;
        let _live = open(&pod, &used).await;
        let _others = tunnels(&pod, KEPT_TUNNELS - 2);
        let new = bed.tunnel(&pod, CLIENT).await;
        // The tunnel says goodbye, and nothing is lost.
        unused.done().await.unwrap();
        assert!(!used.is_done() && !new.is_done());
        let _more = (open(&pod, &used).await, open(&pod, &new).await);
        assert!(bed.lines().is_empty());
    });
}

#[test]
fn one_tunnel_too_many_is_closed() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let mut others = tunnels(&pod, MAX_TUNNELS);
        let mut conn = bed.connect_peer(&pod, CLIENT.1);
        assert_eq!(conn.app.end().await, finished(""));
        conn.done().await;
        let why = "io error: the pod has 16384 tunnels from peers already";
        assert_eq!(bed.lines(), [format!("inbound 10.0.0.2:15008 refused: {why}")]);
        others.pop();
        open(&pod, &bed.tunnel(&pod, CLIENT).await).await;
    });
}

#[test]
fn a_request_that_makes_no_sense_here_is_refused_by_its_status() {
    let mismatch = "connection failed: ip mismatch: 10.0.0.9 is not served at 10.0.0.2";
    let unknown = "connection failed: unknown service: nosuch.ns1.svc.cluster.local";
    let no_port = "connection failed: no port 81 of service web.ns1.svc.cluster.local at this workload";
    let recursive = "connection failed: attempted recursive call to ourselves";
    let table = [
        (Method::GET, "http://10.0.0.2:8080/", 400, "expected method CONNECT, got GET"),
        (Method::CONNECT, "nonsense", 400, "connection failed: "),
        (Method::CONNECT, "10.0.0.9:8080", 400, mismatch),
        (Method::CONNECT, "nosuch.ns1.svc.cluster.local:80", 503, unknown),
        (Method::CONNECT, "web.ns1.svc.cluster.local:81", 503, no_port),
        (Method::CONNECT, "10.0.0.2:15001", 503, recursive),
        (Method::CONNECT, "10.0.0.2:15006", 503, recursive),
        (Method::CONNECT, "10.0.0.2:15008", 503, recursive),
    ];
    run(mesh(), async |bed| {
        let pod = server(bed);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        for (method, uri, status, line) in table {
            let (have, headers, mut stream) = ask(&tunnel.send, (method, uri), &[]).await.unwrap();
            assert_eq!(have, status, "{uri}");
            assert!(headers.get("baggage").is_none());
            assert_eq!(stream.end().await, (String::new(), StreamEnd::Finished));
            let [have] = bed.lines().try_into().unwrap();
            let want = format!("inbound 10.0.0.2:15008 refused: {line}");
            assert!(have == want || uri == "nonsense" && have.starts_with(&want), "{have}");
        }
        assert!(pod.network.made().is_empty() && bed.closed("destination").is_empty());
        // The tunnel still takes streams.
        open(&pod, &tunnel).await;
    });
}

#[test]
fn what_a_policy_denies_is_answered_401() {
    let explicit = "explicitly denied by: ns1/p";
    let none = "allow policies exist, but none allowed";
    for (action, who, denied) in [
        (Action::Deny, "client", Some(explicit)),
        (Action::Deny, "other", None),
        (Action::Allow, "client", None),
        (Action::Allow, "other", Some(none)),
    ] {
        run(mesh(), async |bed| {
            let pod = server(bed);
            bed.push_policy(policy("p", action, Some(principal(who))));
            let tunnel = bed.tunnel(&pod, CLIENT).await;
            let (status, ..) = ask(&tunnel.send, (Method::CONNECT, APP), &[]).await.unwrap();
            let Some(why) = denied else { return assert_eq!(status, 200) };
            assert_eq!(status, 401);
            assert!(pod.network.made().is_empty(), "the application hears nothing of it");
            let why = format!("connection closed due to policy rejection: {why}");
            assert_eq!(bed.lines(), [format!("inbound 10.0.0.2:15008: {why}")]);
            assert_eq!(bed.closed("destination"), [("DENY", 1)]);
        });
    }
}

#[test]
fn a_policy_that_is_named_and_unknown_is_waited_for() {
    let bound = pod("server", "10.0.0.2").hbone().local();
    let bound = bound.edit(|pb| pb.authorization_policies = vec!["ns1/later".into()]);
    run(mesh().with(bound), async |bed| {
        let pod = server(bed);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let since = Instant::now();
        let (status, ..) = ask(&tunnel.send, (Method::CONNECT, APP), &[]).await.unwrap();
        assert_eq!((status.as_u16(), since.elapsed()), (401, bed.config.timeouts.workload));
        let why =
            "connection closed due to policy rejection: explicitly denied by: ns1/later (unknown policy)";
        assert_eq!(bed.lines(), [format!("inbound 10.0.0.2:15008: {why}")]);
        assert!(pod.network.made().is_empty());
        let later = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert!(pod.network.made().is_empty(), "nobody is let in before the policy is known");
            bed.push_policy(policy("later", Action::Deny, Some(principal("other"))));
        };
        let (answer, ()) = tokio::join!(ask(&tunnel.send, (Method::CONNECT, APP), &[]), later);
        assert_eq!(answer.unwrap().0, 200);
    });
}

/// The server's workload, which names the policy `later`.
fn bound() -> Wl {
    let bound = pod("server", "10.0.0.2").hbone().local();
    bound.edit(|pb| pb.authorization_policies = vec!["ns1/later".into()])
}

#[test]
fn a_policy_that_the_control_plane_does_not_have_does_not_exist() {
    run(mesh().with(bound()), async |bed| {
        let (pod, within) = (server(bed), bed.config.timeouts.workload);
        bed.stream(true);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let ask = || ask(&tunnel.send, (Method::CONNECT, APP), &[]);
        let since = Instant::now();
        // The control plane answers about policies, without this one.
        let answer = async {
            tokio::time::sleep(within / 5).await;
            bed.answer_policies();
        };
        let (asked, ()) = tokio::join!(ask(), answer);
        assert_eq!((asked.unwrap().0.as_u16(), since.elapsed()), (200, within / 5));
        assert_eq!(bed.absent_policies(), 1);
        // It is remembered, and while the stream is down as well.
        for open in [true, false] {
            bed.stream(open);
            assert_eq!((ask().await.unwrap().0.as_u16(), since.elapsed()), (200, within / 5));
        }
        // A policy that comes after all counts.
        bed.push_policy(policy("later", Action::Deny, Some(principal("client"))));
        assert_eq!(ask().await.unwrap().0, 401);
    });
}

#[test]
fn a_control_plane_that_is_silent_about_a_policy_has_had_its_say_once_for_all() {
    run(mesh().with(bound()), async |bed| {
        let (pod, within) = (server(bed), bed.config.timeouts.workload);
        bed.stream(true);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let ask = || ask(&tunnel.send, (Method::CONNECT, APP), &[]);
        let since = Instant::now();
        let later = async {
            tokio::time::sleep(within / 2).await;
            ask().await
        };
        let (first, second) = tokio::join!(ask(), later);
        // The second one waits from the moment at which the policy was missed first.
        assert_eq!([first, second].map(|asked| asked.unwrap().0.as_u16()), [200, 200]);
        assert_eq!(since.elapsed(), within);
    });
}

#[test]
fn while_the_stream_is_down_a_missing_policy_is_waited_for_by_each_connection() {
    run(mesh().with(bound()), async |bed| {
        let (pod, within) = (server(bed), bed.config.timeouts.workload);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let ask = || ask(&tunnel.send, (Method::CONNECT, APP), &[]);
        for _ in 0..2 {
            let since = Instant::now();
            assert_eq!((ask().await.unwrap().0.as_u16(), since.elapsed()), (401, within));
        }
        assert_eq!(bed.absent_policies(), 0);
        // Once the stream is open again, its answer counts.
        bed.stream(true);
        bed.answer_policies();
        assert_eq!(ask().await.unwrap().0, 200);
    });
}

#[test]
fn with_the_setting_a_missing_policy_denies() {
    let deny = |config: &mut DataPlaneConfig| config.missing_policy = MissingPolicy::Deny;
    run_with(mesh().with(bound()), deny, async |bed| {
        let (pod, within) = (server(bed), bed.config.timeouts.workload);
        bed.stream(true);
        bed.answer_policies();
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        let since = Instant::now();
        let (status, ..) = ask(&tunnel.send, (Method::CONNECT, APP), &[]).await.unwrap();
        assert_eq!((status.as_u16(), since.elapsed()), (401, within));
    });
}

#[test]
fn an_application_that_is_not_reached_is_answered_503() {
    let refused = "connection failed: 10.0.0.2:8080: connection refused";
    let silent = "connection failed: 10.0.0.2:8080: no answer within 10s";
    for (plan, line) in [(Plan::Refuse, refused), (Plan::Silent, silent)] {
        run(mesh(), async |bed| {
            let pod = server(bed);
            pod.network.plan(APP, plan);
            let tunnel = bed.tunnel(&pod, CLIENT).await;
            let (status, headers, mut peer) = ask(&tunnel.send, (Method::CONNECT, APP), &[]).await.unwrap();
            assert_eq!(status, 503);
            assert!(headers.get("baggage").is_none());
            assert_eq!(peer.end().await, (String::new(), StreamEnd::Finished));
            assert_eq!(bed.lines(), [format!("inbound 10.0.0.2:15008: {line}")]);
            assert_eq!(bed.closed("destination"), [("CONNECT", 1)]);
        });
    }
}

#[test]
fn a_pod_that_admits_nothing_answers_401() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let tunnel = bed.tunnel(&pod, CLIENT).await;
        pod.conns.live.close_admission();
        let (status, ..) = ask(&tunnel.send, (Method::CONNECT, APP), &[]).await.unwrap();
        assert_eq!(status, 401);
        assert!(pod.network.made().is_empty());
    });
}

#[test]
fn a_tunnel_without_http2_is_refused() {
    run(mesh(), async |bed| {
        let pod = server(bed);
        let mut conn = bed.connect_peer(&pod, CLIENT.1);
        conn.app.say("GET / HTTP/1.1\r\nHost: server\r\n\r\n").await;
        conn.done().await;
        let [line] = bed.lines().try_into().unwrap();
        assert!(line.starts_with("inbound 10.0.0.2:15008 refused: tls error: "), "{line}");
        let _ = client::handshake(conn.app, &Http2Config::default()).await;
    });
}

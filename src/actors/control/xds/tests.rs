//! Tests of the client against a control plane over real TLS.

use std::time::Duration;

use tokio::net::TcpListener;
use tonic::Status;

use super::{
    Bounds, XdsSettings,
    plane::{Client, Fault, Plane, response, settings, versions},
};
use crate::{
    actors::control::grpc::{AuthHeaders, GrpcTarget, peer::Cert},
    dataplane::on_demand::Directory,
    protocols::{
        config::{Address, RootSource, TokenSource},
        pb::ads::DeltaDiscoveryRequest,
        xds::{DemandError, Demanded, ResourceType, backoff::Termination},
    },
};

fn scratch(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("warren-xds-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

fn ack(kind: ResourceType, nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        response_nonce: nonce.into(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn short(first_answer_ms: u64) -> Bounds {
    Bounds { first_answer: Duration::from_millis(first_answer_ms), ..Bounds::STANDARD }
}

#[tokio::test]
async fn a_stream_is_signed_asks_for_all_applies_and_acks() {
    let mut plane = Plane::start().await;
    let mut client = Client::start(settings(plane.target())).await;
    let call = plane.call().await;
    assert_eq!(call.sni.as_deref(), Some("localhost"));
    for (name, value) in
        [("authorization", "Bearer a-token"), ("clusterid", "Kubernetes"), ("x_team", "mesh")]
    {
        assert_eq!(call.metadata.get(name).unwrap(), value);
    }
    assert!(!client.status.borrow().connected);
    let mut stream = call.accept().await;
    for (request, kind) in stream.hello.iter().zip(ResourceType::ALL) {
        assert_eq!(request.type_url, kind.type_url());
        assert_eq!(request.node.as_ref().unwrap().id, "me");
        assert!(request.initial_resource_versions.is_empty() && request.resource_names_subscribe.is_empty());
    }

    let pair = [("a", "v1"), ("b", "v1")];
    assert_eq!(
        stream.push(response(ResourceType::Address, "1", &pair, &[])).await,
        ack(ResourceType::Address, "1")
    );
    client.until("connected", |s| s.connected).await;
    assert!(!client.status.borrow().synced);
    let empty = stream.push(response(ResourceType::Authorization, "2", &[], &[])).await;
    assert_eq!(empty, ack(ResourceType::Authorization, "2"));
    client.until("synced", |s| s.synced).await;
    stream.push(response(ResourceType::Address, "3", &[], &["b"])).await;
    assert_eq!(client.tables.held(), [("a".to_owned(), "v1".to_owned())].into());

    let (address, policy) =
        (ResourceType::Address.type_url().to_owned(), ResourceType::Authorization.type_url().to_owned());
    assert_eq!(*client.counts.messages.lock(), [(address.clone(), 4), (policy, 0), (address, 0)]);
    assert_eq!(client.ends(), []);
}

#[tokio::test]
async fn a_bad_resource_is_refused_by_name_and_the_rest_is_applied() {
    let mut plane = Plane::start().await;
    let mut client = Client::start(settings(plane.target())).await;
    let mut stream = plane.stream().await;
    stream.push(response(ResourceType::Authorization, "0", &[], &[])).await;
    let mut mixed = response(ResourceType::Address, "1", &[("a", "v1"), ("b", "bad"), ("c", "v1")], &[]);
    mixed.resources[2].resource = None;
    let nack = stream.push(mixed).await;
    assert_eq!(nack.response_nonce, "1");
    assert_eq!(nack.error_detail.unwrap().message, "b: undecodable; c: undecodable");
    assert_eq!(client.tables.held(), [("a".to_owned(), "v1".to_owned())].into());
    // What is refused costs itself only: the node serves.
    client.until("synced", |s| s.synced).await;
    assert_eq!(*client.counts.rejected.lock(), [2]);
}

#[tokio::test]
async fn an_unknown_type_is_acked_and_goes_nowhere() {
    let mut plane = Plane::start().await;
    let client = Client::start(settings(plane.target())).await;
    let mut stream = plane.stream().await;
    let mut strange = response(ResourceType::Address, "1", &[("a", "v1")], &[]);
    strange.type_url = "type.googleapis.com/else".into();
    let answer = stream.push(strange).await;
    assert_eq!((answer.type_url.as_str(), answer.error_detail), ("type.googleapis.com/else", None));
    assert!(client.tables.held().is_empty());
}

#[tokio::test]
async fn a_new_stream_announces_what_the_old_one_brought() {
    let mut plane = Plane::start().await;
    let mut client = Client::start(settings(plane.target())).await;
    let ends = [
        (None, Termination::Complete),
        (Some(Status::unknown("the usual")), Termination::Reconnect),
        (Some(Status::internal("trouble")), Termination::Error),
    ];
    for (i, (status, _)) in ends.iter().cloned().enumerate() {
        let mut stream = plane.stream().await;
        let nonce = i.to_string();
        if i == 0 {
            let first = [("a", "v1"), ("b", "v1"), ("c", "bad")];
            stream.push(response(ResourceType::Address, &nonce, &first, &[])).await;
            stream.push(response(ResourceType::Authorization, &nonce, &[("p", "")], &[])).await;
        } else {
            assert_eq!(versions(&stream.hello[0]), [("a", "v1"), ("b", "v1")].into());
            assert_eq!(versions(&stream.hello[1]), [("p", "")].into());
            stream.push(response(ResourceType::Address, &nonce, &[], &[])).await;
        }
        stream.end(status).await;
    }
    client.until_error("trouble").await;
    let mut last = plane.stream().await;
    last.push(response(ResourceType::Address, "x", &[], &["a"])).await;
    assert_eq!(client.ends(), ends.map(|(_, reason)| reason));
    assert!(client.status.borrow().synced, "a lost stream does not revert it");
    let held = client.tables.held();
    assert_eq!(held.keys().collect::<Vec<_>>(), ["b", "p"]);
}

#[tokio::test]
async fn the_token_is_read_for_every_stream_and_its_absence_is_a_refused_connection() {
    let file = scratch("token").join("istio-token");
    std::fs::write(&file, "one").unwrap();
    let mut plane = Plane::start().await;
    let headers = AuthHeaders::new(&TokenSource::File(text(&file)), "Kubernetes", &[]).unwrap();
    let mut client = Client::start(XdsSettings { headers, ..settings(plane.target()) }).await;
    let call = plane.call().await;
    assert_eq!(call.metadata.get("authorization").unwrap(), "Bearer one");

    std::fs::remove_file(&file).unwrap();
    call.refuse(Status::unauthenticated("token expired"));
    client.until_error("istio-token").await;
    assert_eq!(client.kinds_of_ends(), ["ConnectionError"].into());

    std::fs::write(&file, "two").unwrap();
    let call = plane.call().await;
    assert_eq!(call.metadata.get("authorization").unwrap(), "Bearer two");
}

#[tokio::test]
async fn refusals_are_retried_for_ever_and_said() {
    let mut plane = Plane::start().await;
    let mut client = Client::start(settings(plane.target())).await;
    for _ in 0..4 {
        plane.call().await.refuse(Status::unauthenticated("authentication failure"));
        client.until_error("Unauthenticated: authentication failure").await;
    }
    let mut stream = plane.stream().await;
    stream.push(response(ResourceType::Address, "1", &[("a", "v1")], &[])).await;
    client.until("connected", |s| s.connected).await;
    assert_eq!(client.ends(), [Termination::ConnectionError; 4]);
}

#[tokio::test]
async fn a_wrong_or_missing_root_is_said_and_its_repair_needs_no_restart() {
    let file = scratch("roots").join("root-cert.pem");
    let (mut plane, other) = (Plane::start().await, Plane::start().await);
    let target = GrpcTarget { roots: RootSource::File(text(&file)), ..plane.target() };
    let mut client = Client::start(settings(target)).await;
    client.until_error("root-cert.pem").await;
    assert_eq!(client.kinds_of_ends(), ["Error"].into());

    std::fs::write(&file, other.ca.pem()).unwrap();
    client.until_error("UnknownIssuer").await;
    assert!(client.ends().contains(&Termination::ConnectionError));

    std::fs::write(&file, plane.ca.pem()).unwrap();
    let mut stream = plane.stream().await;
    stream.push(response(ResourceType::Address, "1", &[], &[])).await;
    client.until("connected", |s| s.connected).await;
}

#[tokio::test]
async fn the_alternative_name_is_accepted_and_the_sni_stays() {
    let mut plane = Plane::with_cert(&Cert::of(&["istiod.istio-system.svc"])).await;
    let alt_hostname = Some("istiod.istio-system.svc".to_owned());
    let _client = Client::start(settings(GrpcTarget { alt_hostname, ..plane.target() })).await;
    assert_eq!(plane.call().await.sni.as_deref(), Some("localhost"));
}

#[tokio::test]
async fn a_response_of_100_000_resources_is_one_response() {
    let mut plane = Plane::start().await;
    let client = Client::start(settings(plane.target())).await;
    let mut stream = plane.stream().await;
    let names: Vec<String> = (0..100_000).map(|i| format!("cluster//Pod/ns/pod-{i}")).collect();
    let payload = "x".repeat(300);
    let named: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), payload.as_str())).collect();
    assert_eq!(
        stream.push(response(ResourceType::Address, "1", &named, &[])).await,
        ack(ResourceType::Address, "1")
    );
    assert_eq!(client.tables.held().len(), 100_000);
    assert_eq!(client.counts.messages.lock()[0].1, 30_000_000);
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_with_or_without_headers() {
    let mut plane = Plane::start().await;
    let bounds = short(300);
    let mut client = Client::start(XdsSettings { bounds, ..settings(plane.target()) }).await;
    plane.call().await.given_up().await;
    client.until_error("has not answered").await;
    plane.stream().await.closed().await;
    client.until("disconnected", |s| !s.connected).await;
    plane.call().await;
    assert_eq!(client.ends(), [Termination::Error; 2]);
}

#[tokio::test]
async fn a_server_mute_in_tls_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plane = Plane::start().await;
    let connect_timeout = Duration::from_millis(50);
    let port = listener.local_addr().unwrap().port();
    let address = Address { host: "localhost".into(), port };
    let target = GrpcTarget { address, connect_timeout, ..plane.target() };
    let mut client = Client::start(settings(target)).await;
    client.until_error("the TLS handshake of localhost").await;
    assert_eq!(client.kinds_of_ends(), ["ConnectionError"].into());
}

#[tokio::test]
async fn a_killed_client_is_restarted_and_announces_what_the_tables_hold() {
    let mut plane = Plane::start().await;
    let client = Client::start(settings(plane.target())).await;
    let mut stream = plane.stream().await;
    stream.push(response(ResourceType::Address, "1", &[("a", "v1"), ("b", "v1"), ("c", "v1")], &[])).await;
    client.tables.close_gate();
    stream.send(response(ResourceType::Address, "2", &[("a", "v2"), ("new", "v2")], &["b"])).await;
    client.tables.entered(2).await;

    client.tree.handle().kill("root/xds").unwrap();
    stream.closed().await;
    client.tables.open_gate();
    let mut stream = plane.stream().await;
    // Names that the interrupted push touched are sent without a version, so that the server also tells their
    // removal.
    assert_eq!(versions(&stream.hello[0]), [("a", ""), ("b", ""), ("c", "v1"), ("new", "")].into());
    stream.push(response(ResourceType::Address, "3", &[("a", "v2"), ("new", "v2")], &["b"])).await;
    let held = [("a", "v2"), ("c", "v1"), ("new", "v2")];
    assert_eq!(client.tables.held(), held.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
}

#[tokio::test]
async fn nothing_is_acked_before_it_is_applied() {
    let mut plane = Plane::start().await;
    let client = Client::start(settings(plane.target())).await;
    let mut stream = plane.stream().await;
    client.tables.close_gate();
    for nonce in ["1", "2"] {
        stream.send(response(ResourceType::Address, nonce, &[(nonce, "v")], &[])).await;
    }
    for (i, nonce) in ["1", "2"].into_iter().enumerate() {
        client.tables.entered(i + 1).await;
        assert_eq!(client.tables.held().len(), i);
        client.tables.open_gate();
        assert_eq!(stream.request().await, ack(ResourceType::Address, nonce));
    }
}

#[tokio::test]
async fn tables_that_are_gone_or_stuck_cost_the_stream_and_the_push_is_asked_for_again() {
    let mut plane = Plane::start().await;
    let bounds = Bounds { apply: Duration::from_millis(500), ..Bounds::STANDARD };
    let mut client = Client::start(XdsSettings { bounds, ..settings(plane.target()) }).await;
    let stream = plane.stream().await;
    client.tables.fail_once(Fault::Down);
    stream.send(response(ResourceType::Address, "1", &[("a", "v1")], &[])).await;
    client.until_error("the mesh is restarting").await;

    let stream = plane.stream().await;
    assert_eq!(versions(&stream.hello[0]), [("a", "")].into());
    client.tables.close_gate();
    stream.send(response(ResourceType::Address, "2", &[("a", "v1")], &[])).await;
    client.until_error("took longer").await;

    client.tables.open_gate();
    let mut stream = plane.stream().await;
    stream.push(response(ResourceType::Address, "3", &[("a", "v1")], &[])).await;
    assert_eq!(client.ends(), [Termination::Error; 2]);
}

#[tokio::test]
async fn a_panic_while_applying_is_a_crash_the_supervisor_repairs() {
    let mut plane = Plane::start().await;
    let client = Client::start(settings(plane.target())).await;
    let mut stream = plane.stream().await;
    client.tables.fail_once(Fault::Panic);
    stream.send(response(ResourceType::Address, "1", &[("a", "v1")], &[])).await;
    stream.closed().await;
    stream = plane.stream().await;
    stream.push(response(ResourceType::Address, "2", &[("a", "v1")], &[])).await;
    let node = client.tree.handle().find("root/xds").unwrap();
    assert_eq!(node.restarts, 1);
    assert!(node.last_exit.unwrap().reason.contains("a bug"));
}

#[tokio::test]
async fn stopping_closes_the_stream() {
    let mut plane = Plane::start().await;
    let mut client = Client::start(settings(plane.target())).await;
    let stream = plane.stream().await;
    client.until("connected", |s| s.connected).await;
    client.tree.stop().await;
    stream.closed().await;
    assert!(!client.xds.state().borrow().connected);
}

#[tokio::test]
async fn on_demand_names_are_asked_for_when_needed() {
    let mut plane = Plane::start().await;
    let client = Client::start(XdsSettings { on_demand: true, ..settings(plane.target()) }).await;
    let mut stream = plane.stream().await;
    assert_eq!(stream.hello[0].resource_names_subscribe, ["*"]);
    assert_eq!(stream.hello[0].resource_names_unsubscribe, ["*"]);
    let Demanded::Asked(mut answer) = client.xds.demand("net/10.0.0.1").unwrap() else { panic!() };
    let request = stream.request().await;
    assert_eq!(request.resource_names_subscribe, ["net/10.0.0.1"]);
    assert!(request.response_nonce.is_empty() && request.node.is_none());
    let mut named = response(ResourceType::Address, "1", &[("a-uid", "v1")], &[]);
    named.resources[0].aliases = vec!["net/10.0.0.1".into()];
    stream.push(named).await;
    answer.wait_for(|answered| *answered).await.unwrap();
    assert_eq!(client.tables.held().len(), 1);
    assert!(matches!(client.xds.demand("net/10.0.0.1"), Ok(Demanded::Answered)));
}

#[tokio::test]
async fn a_question_is_answered_by_the_next_stream_if_the_first_ends_before_that() {
    let mut plane = Plane::start().await;
    let client = Client::start(XdsSettings { on_demand: true, ..settings(plane.target()) }).await;
    let mut stream = plane.stream().await;
    let Demanded::Asked(mut answer) = client.xds.demand("net/10.0.0.1").unwrap() else { panic!() };
    stream.request().await;
    stream.end(None).await;
    let mut stream = plane.stream().await;
    assert_eq!(versions(&stream.hello[0]), [("net/10.0.0.1", "")].into());
    stream.push(response(ResourceType::Address, "1", &[], &["net/10.0.0.1"])).await;
    answer.wait_for(|answered| *answered).await.unwrap();
    stream.end(None).await;
    // What was said last counts until somebody else can be asked.
    assert!(matches!(client.xds.demand("net/10.0.0.1"), Ok(Demanded::Answered)));
}

#[tokio::test]
async fn without_on_demand_a_demand_is_refused() {
    let plane = Plane::start().await;
    let client = Client::start(settings(plane.target())).await;
    assert_eq!(client.xds.demand("net/10.0.0.1").unwrap_err(), DemandError::Off("net/10.0.0.1".into()));
}

#[tokio::test]
async fn what_was_refused_for_a_time_is_applied_on_the_same_stream_without_being_sent_again() {
    let mut plane = Plane::start().await;
    let client = Client::start(settings(plane.target())).await;
    let mut stream = plane.stream().await;
    let nack = stream.push(response(ResourceType::Address, "1", &[("a", "later"), ("b", "v1")], &[])).await;
    assert_eq!(nack.error_detail.unwrap().message, "a: not now");
    assert_eq!(client.tables.held(), [("b".to_owned(), "v1".to_owned())].into());
    client.tables.entered(2).await;
    // This response is applied after the repeated resources.
    assert_eq!(
        stream.push(response(ResourceType::Address, "2", &[], &[])).await,
        ack(ResourceType::Address, "2")
    );
    assert!(client.tables.held().contains_key("a"));
    stream.end(None).await;
    let stream = plane.stream().await;
    assert_eq!(versions(&stream.hello[0]), [("a", ""), ("b", "v1")].into());
}

#[tokio::test]
async fn a_flood_of_ended_streams_is_one_message_at_a_time() {
    const STREAMS: usize = 60;
    let mut plane = Plane::start().await;
    let client = Client::start(settings(plane.target())).await;
    let node = || client.tree.handle().find("root/xds").unwrap();
    for ended in 0..STREAMS {
        let mut stream = plane.stream().await;
        // The actor has handled the end of the former stream and no other message: the next stream begins only then.
        assert_eq!((node().load.depth, client.ends().len()), (0, ended));
        stream.push(response(ResourceType::Address, "1", &[("a", "v1")], &[])).await;
        stream.end(Some(Status::unknown("the usual"))).await;
    }
    client.tree.handle().probe("root/xds", Duration::from_secs(60)).await.unwrap();
    plane.stream().await;
    assert_eq!(node().load.handled as usize, STREAMS + 1, "and that of the start");
    assert_eq!((client.ends().len(), node().restarts), (STREAMS, 0));
}

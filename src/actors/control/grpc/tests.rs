use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use tokio::net::TcpListener;
use tonic::{Request, service::Routes};

use super::{
    error::Step,
    peer::{Authority, Cert, Peer, serve, target},
    *,
};
use crate::protocols::config::{Address, Compliance, RootSource, Secret, TlsConfig, TokenSource};

async fn try_connect(ca: &Authority, cert: &Cert<'_>, alt: Option<&str>) -> Result<(), GrpcError> {
    let peer = serve(ca.config(cert), Routes::default()).await;
    let target = GrpcTarget { alt_hostname: alt.map(str::to_owned), ..ca.target(&peer) };
    connect(&target).await.map(drop)
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("warren-grpc-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[tokio::test]
async fn certificate_must_chain_to_the_roots_be_in_date_and_carry_the_host_or_the_alternative() {
    let (ca, other) = (Authority::new(), Authority::new());
    let expired = || Cert { expired: true, ..Cert::of(&["localhost"]) };
    let as_ca = || Cert { ca: true, ..Cert::of(&["localhost"]) };

    assert!(try_connect(&ca, &Cert::of(&["localhost"]), None).await.is_ok());
    assert!(try_connect(&ca, &Cert::of(&["localhost"]), Some("istiod.istio-system.svc")).await.is_ok());
    assert!(try_connect(&ca, &Cert::of(&["istiod.example"]), Some("istiod.example")).await.is_ok());

    let refused = [
        (try_connect(&ca, &Cert::of(&["istiod.example"]), None).await, "NotValidForName"),
        (try_connect(&ca, &Cert::of(&["istiod.example"]), Some("other.example")).await, "not valid for"),
        (try_connect(&ca, &expired(), None).await, "expired"),
        (try_connect(&ca, &expired(), Some("localhost")).await, "expired"),
        (try_connect(&ca, &as_ca(), None).await, "CaUsedAsEndEntity"),
    ];
    for (result, why) in refused {
        let error = result.expect_err(why);
        assert!(matches!(error, GrpcError::PeerTls { .. }), "{why}: {error:?}");
        assert!(!error.is_local());
    }

    let peer = other.serve(Routes::default()).await;
    let error = connect(&target(&peer, RootSource::Inline(ca.pem()))).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn an_address_in_digits_is_checked_against_the_certificates_addresses() {
    let ca = Authority::new();
    let peer = serve(ca.config(&Cert::of(&["127.0.0.1"])), Routes::default()).await;
    let roots = RootSource::Inline(ca.pem());
    let by_ip = GrpcTarget::at(at("127.0.0.1", peer.addr.port()), roots);
    connect(&by_ip).await.unwrap();
    assert!(matches!(connect(&ca.target(&peer)).await, Err(GrpcError::PeerTls { .. })));
}

#[tokio::test]
async fn tls_1_2_is_offered_only_when_asked_for() {
    let ca = Authority::new();
    let peer = serve(ca.config(&Cert::of(&["localhost"]).tls12()), Routes::default()).await;
    assert!(matches!(connect(&ca.target(&peer)).await, Err(GrpcError::PeerTls { .. })));
    let tls = TlsConfig { tls12: true, ..TlsConfig::default() };
    connect(&GrpcTarget { tls, ..ca.target(&peer) }).await.unwrap();
}

#[tokio::test]
async fn post_quantum_key_exchange_alone_is_possible() {
    let ca = Authority::new();
    let peer = ca.serve(Routes::default()).await;
    let tls = TlsConfig { compliance: Some(Compliance::Pqc), ..TlsConfig::default() };
    connect(&GrpcTarget { tls, ..ca.target(&peer) }).await.unwrap();
}

#[tokio::test]
async fn roots_are_read_for_every_connection_and_a_missing_file_is_named() {
    let (ca, other) = (Authority::new(), Authority::new());
    let peer = ca.serve(Routes::default()).await;
    let file = scratch("roots").join("root-cert.pem");
    let target = target(&peer, RootSource::File(text(&file)));

    std::fs::write(&file, other.pem()).unwrap();
    assert!(matches!(connect(&target).await, Err(GrpcError::PeerTls { .. })));
    std::fs::write(&file, other.pem() + &ca.pem()).unwrap();
    connect(&target).await.unwrap();
    for (content, kind) in [("", "no usable"), ("-----BEGIN CERTIFICATE-----\nAAAA\n", "not valid PEM")] {
        std::fs::write(&file, content).unwrap();
        let error = connect(&target).await.unwrap_err();
        assert!(error.is_local() && error.to_string().contains(kind), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
    let error = connect(&target).await.unwrap_err();
    assert!(error.is_local());
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn a_path_taken_for_inline_pem_is_named() {
    let ca = Authority::new();
    let peer = ca.serve(Routes::default()).await;
    let error = connect(&target(&peer, RootSource::Inline("./no/such.pem".into()))).await.unwrap_err();
    assert!(error.is_local() && error.to_string().contains("./no/such.pem"), "{error}");
}

#[tokio::test]
async fn a_peer_mute_in_tls_or_refusing_tcp_ends_in_an_error_that_names_the_step() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let ca = Authority::new();
    let mut target = GrpcTarget::at(at("127.0.0.1", addr.port()), RootSource::Inline(ca.pem()));
    assert_eq!(target.connect_timeout, Duration::from_secs(5));
    target.connect_timeout = Duration::from_millis(50);
    let error = connect(&target).await.unwrap_err();
    assert!(matches!(error, GrpcError::TimedOut { step: Step::Tls, .. }), "{error:?}");

    drop(listener);
    assert!(matches!(connect(&target).await, Err(GrpcError::Tcp { addr: a, .. }) if a == addr));
}

#[tokio::test]
async fn a_later_request_on_a_dead_channel_still_tells_the_failed_step() {
    let ca = Authority::new();
    let peer: Peer = ca.serve(Routes::default()).await;
    let target = ca.target(&peer);
    let channel = connect(&target).await.unwrap();
    drop(peer);
    let mut client =
        crate::protocols::pb::ca::istio_certificate_service_client::IstioCertificateServiceClient::new(
            channel,
        );
    // The first request may still find the dying connection.
    let mut causes = Vec::new();
    for _ in 0..3 {
        let status = client.create_certificate(Request::new(Default::default())).await.unwrap_err();
        causes.extend(cause(&status));
    }
    assert!(matches!(causes.last(), Some(GrpcError::Tcp { .. })), "{causes:?}");
}

#[test]
fn a_target_is_shown_as_an_authority() {
    for (address, expected) in [
        ("https://istiod.istio-system.svc:15012", "istiod.istio-system.svc:15012"),
        ("https://istiod", "istiod:443"),
        ("https://10.0.0.1:1", "10.0.0.1:1"),
        ("https://[fd00::1]:15012/", "[fd00::1]:15012"),
    ] {
        let target = GrpcTarget::at(Address::parse(address).unwrap(), RootSource::System);
        assert_eq!(target.to_string(), expected);
    }
}

fn headers(token: TokenSource, extra: &[(&'static str, &'static str)]) -> AuthHeaders {
    let extra: Vec<_> = extra
        .iter()
        .map(|(name, value)| {
            let mut value = HeaderValue::from_static(value);
            value.set_sensitive(true);
            (HeaderName::from_static(name), value)
        })
        .collect();
    AuthHeaders::new(&token, "Kubernetes", &extra).unwrap()
}

fn at(host: &str, port: u16) -> Address {
    Address { host: host.into(), port }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

async fn signed(headers: &AuthHeaders) -> Result<Vec<(String, String)>, GrpcError> {
    let request = headers.sign(Request::new(())).await?;
    let map = request.metadata().clone().into_headers();
    Ok(map.iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap().to_owned())).collect())
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[tokio::test]
async fn a_token_file_is_read_for_every_request_and_untrimmed() {
    let file = scratch("token").join("istio-token");
    let headers = headers(TokenSource::File(text(&file)), &[("x_custom", "1")]);
    for token in ["one", "two", " three "] {
        std::fs::write(&file, token).unwrap();
        let bearer = format!("Bearer {token}");
        let expected = [("authorization", bearer.as_str()), ("clusterid", "Kubernetes"), ("x_custom", "1")];
        assert_eq!(signed(&headers).await.unwrap(), pairs(&expected));
    }
    for bad in ["", "line\n"] {
        std::fs::write(&file, bad).unwrap();
        let error = signed(&headers).await.unwrap_err();
        assert!(error.is_local() && error.to_string().contains("istio-token"), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(signed(&headers).await, Err(GrpcError::LocalToken { .. })));
}

#[tokio::test]
async fn without_a_token_only_extra_headers_are_sent() {
    let none = headers(TokenSource::None, &[("a", "b")]);
    assert_eq!(signed(&none).await.unwrap(), pairs(&[("a", "b")]));
    let literal = headers(TokenSource::Value(Secret::new("t")), &[("authorization", "mine")]);
    let expected = [("authorization", "mine"), ("clusterid", "Kubernetes")];
    assert_eq!(signed(&literal).await.unwrap(), pairs(&expected));
}

#[test]
fn a_bad_cluster_is_named_and_secrets_are_not_shown() {
    let error = AuthHeaders::new(&TokenSource::None, "line\nend", &[]).unwrap_err();
    assert!(error.to_string().contains("clusterid"), "{error}");
    let token = TokenSource::Value(Secret::new("s3cret"));
    let shown = format!("{:?}", headers(token, &[("a", "hidden")]));
    assert!(!shown.contains("s3cret") && !shown.contains("hidden"), "{shown}");
}

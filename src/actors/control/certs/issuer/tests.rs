use std::{collections::VecDeque, path::Path};

use parking_lot::Mutex;
use tonic::{Code, Request, Response, Status, service::Routes};

use super::*;
use crate::{
    actors::control::certs::{Certs, CertsConfig, actor::CertsActor, shared::REQUEST_TIMEOUT},
    actors::control::grpc::{
        AuthHeaders, GrpcTarget,
        peer::{Authority, target},
    },
    actors::quarantine::Quarantine,
    protocols::{
        ca::{IssueError, csr},
        config::{RootSource, Secret, TlsConfig, TokenSource},
        pb::ca::{
            IstioCertificateRequest, IstioCertificateResponse,
            istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
        },
        tls::test_ca::TestCa,
    },
    supervisor::{OwnedTask, run_alone},
};

const CERT_WITHIN: Duration = Duration::from_secs(20);
const TTL: Duration = Duration::from_hours(24);

/// One answer of the authority.
enum Answer {
    Sign,
    Refuse,
    Garbage,
    Mute,
}

#[derive(Clone)]
struct Ca {
    signer: Arc<TestCa>,
    /// The answers, taken from the front. The authority signs once no answer is left.
    answers: Arc<Mutex<VecDeque<Answer>>>,
    /// The impersonated identity, authorization, cluster id and validity of each request.
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    identity: Option<String>,
    authorization: Option<String>,
    cluster: Option<String>,
    ttl: i64,
}

#[tonic::async_trait]
impl IstioCertificateService for Ca {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let header = |name| request.metadata().get(name).map(|v| v.to_str().unwrap().to_owned());
        let (authorization, cluster) = (header("authorization"), header("clusterid"));
        let request = request.into_inner();
        let identity =
            request.metadata.and_then(|m| match m.fields.get("ImpersonatedIdentity")?.kind.clone()? {
                prost_types::value::Kind::StringValue(s) => Some(s),
                _ => None,
            });
        self.seen.lock().push(Seen { identity, authorization, cluster, ttl: request.validity_duration });
        let answer = self.answers.lock().pop_front().unwrap_or(Answer::Sign);
        let cert_chain = match answer {
            Answer::Sign => self.signer.answer(&request.csr),
            Answer::Refuse => return Err(Status::new(Code::Unauthenticated, "who\x1b[31m are you")),
            Answer::Garbage => vec!["not".into(), "PEM".into()],
            Answer::Mute => std::future::pending().await,
        };
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

impl Ca {
    fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self {
            signer: Arc::new(TestCa::new("mesh root").with_intermediate("istiod")),
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            seen: Arc::default(),
        }
    }

    fn routes(&self) -> Routes {
        Routes::new(IstioCertificateServiceServer::new(self.clone()))
    }
}

fn web() -> Identity {
    Identity::new("cluster.local", "default", "web").unwrap()
}

fn headers() -> AuthHeaders {
    AuthHeaders::new(&TokenSource::Value(Secret::new("secret")), "east", &[]).unwrap()
}

async fn certs(target: GrpcTarget, request_timeout: Duration) -> Certs {
    let issuer = CaIssuer::new(target, headers(), true);
    let config = CertsConfig { request_timeout, ..CertsConfig::new(TTL, TlsConfig::default()) };
    let certs = Certs::new(config, Arc::new(issuer), Quarantine::default());
    let actor = run_alone(CertsActor, certs.shared.clone()).await.unwrap();
    certs.address.publish(actor);
    certs
}

async fn ask(issuer: &CaIssuer) -> Result<Vec<String>, IssueError> {
    issuer.issue(&web(), csr::request(&web()).unwrap().pem, TTL).await
}

#[tokio::test]
async fn a_certificate_comes_over_the_wire_and_the_authority_learns_for_whom() {
    let (ca, tls) = (Ca::new([]), Authority::new());
    let peer = tls.serve(ca.routes()).await;
    let certs = certs(tls.target(&peer), REQUEST_TIMEOUT).await;
    let cert = certs.fetch(&web(), CERT_WITHIN).await.unwrap();
    assert_eq!((cert.identity(), cert.path().count(), cert.roots().len()), (&web(), 2, 1));
    let seen = ca.seen.lock();
    let expected = Seen {
        identity: Some(web().to_string()),
        authorization: Some("Bearer secret".into()),
        cluster: Some("east".into()),
        ttl: 86_400,
    };
    assert_eq!(*seen, [expected]);
}

#[tokio::test]
async fn in_dedicated_mode_nobody_is_impersonated() {
    let (ca, tls) = (Ca::new([]), Authority::new());
    let peer = tls.serve(ca.routes()).await;
    ask(&CaIssuer::new(tls.target(&peer), headers(), false)).await.unwrap();
    assert_eq!(ca.seen.lock()[0].identity, None);
}

#[tokio::test]
async fn refusals_and_garbage_are_told_apart() {
    let (ca, tls) = (Ca::new([Answer::Refuse, Answer::Garbage]), Authority::new());
    let peer = tls.serve(ca.routes()).await;
    let certs = certs(tls.target(&peer), REQUEST_TIMEOUT).await;
    let error = certs.fetch(&web(), CERT_WITHIN).await.unwrap_err().to_string();
    assert!(error.ends_with("refused: Unauthenticated: who [31m are you"), "{error:?}");
    let db = Identity::new("cluster.local", "default", "db").unwrap();
    let error = certs.fetch(&db, CERT_WITHIN).await.unwrap_err().to_string();
    assert!(error.contains("element 0 of the chain holds no certificate in PEM"), "{error}");
}

#[tokio::test]
async fn an_authority_that_is_down_or_a_stranger_is_unreachable() {
    let (ca, tls) = (Ca::new([]), Authority::new());
    let peer = tls.serve(ca.routes()).await;
    let stranger = CaIssuer::new(target(&peer, RootSource::Inline(Authority::new().pem())), headers(), true);
    let error = ask(&stranger).await.unwrap_err();
    assert!(matches!(error, IssueError::PeerUnreachable { .. }), "{error}");
    let issuer = CaIssuer::new(tls.target(&peer), headers(), true);
    drop(peer);
    let error = ask(&issuer).await.unwrap_err();
    assert!(matches!(error, IssueError::PeerUnreachable { .. }), "{error}");
    assert!(ca.seen.lock().is_empty());
}

#[tokio::test]
async fn requests_that_wait_for_one_connection_share_its_failure() {
    let (tls, routes) = (Authority::new(), Ca::new([]).routes());
    let peer = tls.serve(routes).await;
    let issuer = CaIssuer::new(target(&peer, RootSource::Inline(Authority::new().pem())), headers(), true);
    let (a, b, c) = tokio::join!(ask(&issuer), ask(&issuer), ask(&issuer));
    let texts: Vec<_> = [a, b, c].map(|r| r.unwrap_err().to_string()).into();
    assert!(texts.iter().all(|t| *t == texts[0]), "{texts:?}");
    assert_eq!(issuer.attempts(), 1);
    ask(&issuer).await.unwrap_err();
    assert_eq!(issuer.attempts(), 2, "a later request tries again");
}

#[tokio::test]
async fn the_connection_is_reused_until_it_is_in_doubt() {
    let (ca, tls) = (Ca::new([Answer::Sign, Answer::Refuse, Answer::Mute]), Authority::new());
    let peer = tls.serve(ca.routes()).await;
    let certs = certs(tls.target(&peer), Duration::from_millis(300)).await;
    let issuer = CaIssuer::new(tls.target(&peer), headers(), true);
    ask(&issuer).await.unwrap();
    ask(&issuer).await.unwrap_err();
    assert_eq!(issuer.attempts(), 1, "a refusal says nothing against the connection");
    let given_up = tokio::time::timeout(Duration::from_millis(300), ask(&issuer)).await;
    assert!(given_up.is_err());
    ask(&issuer).await.unwrap();
    assert_eq!(issuer.attempts(), 2, "silence does");
    ca.answers.lock().push_back(Answer::Mute);
    let error = certs.fetch(&web(), CERT_WITHIN).await.unwrap_err().to_string();
    assert!(error.ends_with("gave no answer within 0.3 s"), "{error}");
}

#[tokio::test]
async fn a_restarted_authority_is_found_again() {
    let (ca, tls) = (Ca::new([]), Authority::new());
    let peer = tls.serve(ca.routes()).await;
    let front = Front::new(peer.addr).await;
    let mut target = tls.target(&peer);
    target.address.port = front.port;
    let issuer = CaIssuer::new(target, headers(), true);
    ask(&issuer).await.unwrap();
    drop(peer);
    front.relays.lock().clear();
    let error = ask(&issuer).await.unwrap_err();
    assert!(matches!(error, IssueError::PeerUnreachable { .. }), "{error}");
    let back = tls.serve(ca.routes()).await;
    *front.to.lock() = back.addr;
    ask(&issuer).await.unwrap();
    assert_eq!(ca.seen.lock().len(), 2);
}

/// A proxy with a fixed address in front of an authority that comes back at another address.
struct Front {
    port: u16,
    to: Arc<Mutex<std::net::SocketAddr>>,
    relays: Arc<Mutex<Vec<OwnedTask>>>,
    _task: OwnedTask,
}

impl Front {
    async fn new(to: std::net::SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let to = Arc::new(Mutex::new(to));
        let relays = Arc::new(Mutex::new(vec![]));
        let (behind, running) = (to.clone(), relays.clone());
        let accept = async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let to = *behind.lock();
                let relay = async move {
                    if let Ok(mut far) = tokio::net::TcpStream::connect(to).await {
                        drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
                    }
                };
                running.lock().push(OwnedTask::spawn("relay", relay, |_| {}));
            }
        };
        Self { port, to, relays, _task: OwnedTask::spawn("front", accept, |_| {}) }
    }
}

#[tokio::test]
async fn a_swapped_root_file_is_used_by_the_next_request_and_a_bad_one_keeps_the_old_connection() {
    let dir = Dir::new();
    let (ca, tls) = (Ca::new([]), Authority::new());
    let peer = tls.serve(ca.routes()).await;
    dir.swap("v1", &tls.pem());
    let issuer = CaIssuer::new(
        target(&peer, RootSource::File(dir.path().join("root-cert.pem").to_string_lossy().into_owned())),
        headers(),
        true,
    );
    ask(&issuer).await.unwrap();
    ask(&issuer).await.unwrap();
    assert_eq!(issuer.attempts(), 1);
    dir.swap("v2", &Authority::new().pem());
    ask(&issuer).await.unwrap();
    assert_eq!(issuer.attempts(), 2, "tried with the new roots, went on with the old connection");
    dir.swap("v3", &format!("{}{}", Authority::new().pem(), tls.pem()));
    ask(&issuer).await.unwrap();
    ask(&issuer).await.unwrap();
    assert_eq!(issuer.attempts(), 3);
}

/// A directory laid out as the kubelet mounts ConfigMaps: the file is a link through a link that is swapped.
struct Dir(std::path::PathBuf);

impl Dir {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("warren-roots-{:x}", rand::random::<u64>()));
        std::fs::create_dir(&path).unwrap();
        std::os::unix::fs::symlink("..data/root-cert.pem", path.join("root-cert.pem")).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn swap(&self, version: &str, pem: &str) {
        std::fs::create_dir(self.0.join(version)).unwrap();
        std::fs::write(self.0.join(version).join("root-cert.pem"), pem).unwrap();
        std::os::unix::fs::symlink(version, self.0.join("..new")).unwrap();
        std::fs::rename(self.0.join("..new"), self.0.join("..data")).unwrap();
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

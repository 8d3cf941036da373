use h2::server::Connection as ServerConnection;
use parking_lot::Mutex;
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    dataplane::{
        pod::conns::cut,
        testing::{
            self, TestBed, TestPod, identity,
            network::{Made, Plan},
            spawn,
            stream::TestEnd,
        },
    },
    protocols::{
        config::Http2Config,
        hbone::server,
        mesh::fixtures::{TestMesh, addr, pod, service},
        outcome::{Outcome, ResponseFlag},
        route::{self, Hop, Pick, Route, Source},
        tls::{RevocationLists, Revocations, buffer::Buffers},
    },
};

use super::*;
use crate::dataplane::tunnel::pool::Lease;

fn size<A, B, C, D, E, F: Future>(_: fn(A, B, C, D, E) -> F) -> usize {
    size_of::<F>()
}

/// A tunnel keeps these futures while the tunnel lives. The outer task holds the first future twice.
#[test]
fn futures_of_tunnels_stay_small() {
    let sizes = [("dial", size(run::<PodNetwork>), 600), ("tunnel", size(carry::<PodNetwork>), 1900)];
    for (name, size, most) in sizes {
        assert!(size <= most, "the future of a {name} has {size} bytes, more than {most}");
    }
}

const SERVER: &str = "10.0.0.2:15008";

fn mesh() -> TestMesh {
    TestMesh::new().with(pod("client", "10.0.0.1").hbone().local()).with(pod("server", "10.0.0.2").hbone())
}

type Dialled = Result<(), Arc<DialError>>;

/// A dial under way.
struct Dial {
    task: JoinHandle<bool>,
    result: Arc<Mutex<Option<Dialled>>>,
}

/// The key of the tunnels from "client" to "server".
fn key(bed: &TestBed, pod: &TestPod) -> TunnelKey {
    key_for(bed, pod, "10.0.0.2:80")
}

/// The key of the tunnels from "client" to the one endpoint behind `dst`.
fn key_for(bed: &TestBed, pod: &TestPod, dst: &str) -> TunnelKey {
    let workload = pod.outbound.pod.now().unwrap();
    let source = Source { workload: &workload, client: addr("10.0.0.1:1").ip() };
    let mut rng = bed.shard.rng.borrow_mut();
    let mut pick = Pick { rng: &mut *rng, excluded: &[], suspicion: None, recorder: () };
    let dst = crate::protocols::addr::OrigDst::new(addr(dst));
    let Route { hop: Hop::Hbone { sans, .. }, .. } =
        route::outbound(pod.outbound.pod.mesh.tables(), &source, dst, &mut pick).unwrap()
    else {
        panic!("not a tunnel");
    };
    TunnelKey { to: addr(SERVER), identity: pod.identity.clone(), sans }
}

fn dial(bed: &TestBed, pod: &TestPod) -> Dial {
    dial_for(bed, pod, key(bed, pod))
}

fn dial_for(bed: &TestBed, pod: &TestPod, key: TunnelKey) -> Dial {
    let result = Arc::new(Mutex::new(None));
    let told = result.clone();
    let ready: Ready = Box::new(move |dialled| *told.lock() = Some(dialled));
    let step = Step::new("dial", SpanKind::Internal);
    let task = spawn(run(bed.shard.clone(), pod.dial.clone(), key, step, ready));
    Dial { task, result }
}

impl Dial {
    /// The failure of a connection that needed the tunnel.
    async fn failure(self) -> (String, ResponseFlag) {
        assert!(!self.task.await.unwrap(), "there was a tunnel");
        let error = self.result.lock().take().unwrap().unwrap_err();
        let outcome = Outcome::from(error.of_attempt());
        (outcome.to_string(), outcome.flag())
    }

    fn is_ready(&self) -> bool {
        matches!(*self.result.lock(), Some(Ok(())))
    }
}

/// The peer's side of TLS.
async fn secured(bed: &TestBed, end: TestEnd) -> TlsStream<TestEnd> {
    let cert = bed.certs.of_peer(&identity("server"));
    handshake::accept(cert.server_config(), end, Buffers::default()).await.unwrap().0
}

type Peer = ServerConnection<TlsStream<TestEnd>, Bytes>;

/// The peer of a tunnel, and the tunnel.
async fn established(bed: &TestBed, pod: &TestPod) -> (Dial, Peer) {
    established_for(bed, pod, key(bed, pod)).await
}

async fn established_for(bed: &TestBed, pod: &TestPod, key: TunnelKey) -> (Dial, Peer) {
    pod.network.plan(SERVER, Plan::Accept);
    let dial = dial_for(bed, pod, key);
    let tls = secured(bed, pod.network.accepted(SERVER).await).await;
    let mut peer = server::handshake(tls, &Http2Config::default()).await.unwrap();
    let quiet = timeout(Duration::from_millis(10), peer.accept()).await;
    assert!(quiet.is_err() && dial.is_ready());
    (dial, peer)
}

fn tunnels(bed: &TestBed) -> u64 {
    let text = bed.metrics.encode();
    let line = text.lines().find(|line| line.starts_with("warren_tunnels ")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_tunnel_is_in_the_pool_while_it_lives() {
    testing::run(mesh(), async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        let pool = PodPool::of(&bed.shard, pod.id.serial);
        let (dial, peer) = established(bed, &pod).await;
        let made = Made { to: addr(SERVER), source: None, scope: PathScope::Network };
        assert_eq!(pod.network.made(), [made]);
        assert!(pool.ready(&key(bed, &pod)).is_some());
        assert_eq!((pod.conns.dialled.len(), tunnels(bed)), (1, 1));
        drop(peer);
        assert!(dial.task.await.unwrap());
        assert!(pool.ready(&key(bed, &pod)).is_none());
        assert_eq!((pod.conns.dialled.len(), tunnels(bed)), (0, 0));
    });
}

#[test]
fn a_tunnel_tells_the_identity_by_which_its_peer_was_admitted() {
    // A service may have identities of its own, and then several are possible.
    let other = identity("other").to_string();
    let web = service("web", "10.9.0.1").sans(&[&other]);
    let server = pod("server", "10.0.0.2").hbone().of("web", &[]);
    let mesh = TestMesh::new().with(pod("client", "10.0.0.1").hbone().local()).with(server).with(web);
    testing::run(mesh, async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        let key = key_for(bed, &pod, "10.9.0.1:80");
        assert_eq!(key.sans.to_vec(), [identity("other"), identity("server")]);
        let (_dial, _peer) = established_for(bed, &pod, key).await;
        let mut told = Vec::new();
        pod.conns.dialled.for_each(|conn| told.push((conn.info().is_up(), conn.info().identity().cloned())));
        assert_eq!(told, [(true, Some(identity("server")))]);
    });
}

#[test]
fn a_tunnel_whose_peer_is_revoked_leaves_the_pool_and_its_streams_know_why() {
    testing::run(mesh(), async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        let pool = PodPool::of(&bed.shard, pod.id.serial);
        let (dial, peer) = established(bed, &pod).await;
        let lease = pool.ready(&key(bed, &pod)).unwrap();
        assert!(!lease.is_revoked());
        pod.conns.dialled.cut_all(cut::REVOKED);
        assert!(dial.task.await.unwrap());
        assert!(lease.is_revoked() && pool.ready(&key(bed, &pod)).is_none());
        drop(peer);
    });
}

#[test]
fn a_revoked_server_is_refused_and_counted() {
    testing::run(mesh(), async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        let lists = Arc::<Revocations>::default();
        let authority = bed.certs.authority();
        bed.certs.put(&pod.identity, authority.issue(&pod.identity).checking(lists.clone()));
        lists.replace(RevocationLists::parse(authority.list(0, &[9]).der()).unwrap());
        pod.network.plan(SERVER, Plan::Accept);
        let dial = dial(bed, &pod);
        let end = pod.network.accepted(SERVER).await;
        let server = authority.issue_numbered(&identity("server"), 9).workload(&Default::default());
        let accept = handshake::accept(server.server_config(), end, Buffers::default());
        let (_, (why, flag)) = tokio::join!(accept, dial.failure());
        assert_eq!(flag, ResponseFlag::Connect);
        assert!(why.ends_with("Revoked"), "{why}");
        assert_eq!(bed.count("istio_crl_policy_rejections_total", "source"), 1);
    });
}

#[test]
fn nobody_who_listens_is_a_failed_dial() {
    let refused = "connection failed: 10.0.0.2:15008: connection refused";
    let silent = "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: 10.0.0.2:15008: no answer \
                  within 10s";
    for (plan, why, flag) in
        [(Plan::Refuse, refused, ResponseFlag::Connect), (Plan::Silent, silent, ResponseFlag::NetworkPolicy)]
    {
        testing::run(mesh(), async |bed| {
            let pod = bed.pod("client", "10.0.0.1");
            pod.network.plan(SERVER, plan);
            assert_eq!(dial(bed, &pod).failure().await, (why.to_owned(), flag));
            assert!(pod.conns.dialled.is_empty());
            assert!(PodPool::of(&bed.shard, pod.id.serial).ready(&key(bed, &pod)).is_none());
        });
    }
}

#[test]
fn a_certificate_is_waited_for_and_then_missed() {
    testing::run(mesh(), async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        bed.certs.withdraw(&pod.identity);
        let since = Instant::now();
        let (why, flag) = dial(bed, &pod).failure().await;
        assert_eq!((since.elapsed(), flag), (bed.config.timeouts.certificate, ResponseFlag::IdentityError));
        assert!(why.starts_with("identity error: no certificate for "), "{why}");
        assert!(pod.network.made().is_empty(), "nobody is dialled without a certificate");
        let _dial = dial(bed, &pod);
        tokio::time::sleep(Duration::from_secs(3)).await;
        pod.network.plan(SERVER, Plan::Accept);
        bed.certs.issue(&pod.identity);
        pod.network.accepted(SERVER).await;
    });
}

#[test]
fn a_peer_that_is_mute_in_tls_is_given_up() {
    testing::run(mesh(), async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        pod.network.plan(SERVER, Plan::Accept);
        let dial = dial(bed, &pod);
        let _mute = pod.network.accepted(SERVER).await;
        let since = Instant::now();
        let why = "tls error: 10.0.0.2:15008: TLS handshake not completed within 15s";
        assert_eq!(dial.failure().await, (why.to_owned(), ResponseFlag::Connect));
        let timeouts = &bed.config.timeouts;
        assert_eq!(since.elapsed(), timeouts.client_handshake());
        // A server that waits as long as it may for its own certificate is not given up.
        assert!(timeouts.client_handshake() > timeouts.server_ready() + Duration::from_secs(5));
    });
}

#[test]
fn a_peer_with_another_identity_is_refused() {
    testing::run(mesh(), async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        pod.network.plan(SERVER, Plan::Accept);
        let dial = dial(bed, &pod);
        let end = pod.network.accepted(SERVER).await;
        let stranger = bed.certs.of_peer(&identity("stranger")).server_config();
        let (accepted, (why, flag)) =
            tokio::join!(handshake::accept(stranger, end, Buffers::default()), dial.failure());
        assert!(accepted.is_err());
        assert_eq!(flag, ResponseFlag::Connect);
        assert!(why.starts_with("tls error: 10.0.0.2:15008: ") && why.contains("sa-stranger"), "{why}");
    });
}

#[test]
fn a_peer_that_leaves_in_the_handshake_is_a_failed_dial() {
    testing::run(mesh(), async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        pod.network.plan(SERVER, Plan::Accept);
        let dial = dial(bed, &pod);
        drop(pod.network.accepted(SERVER).await);
        let (why, flag) = dial.failure().await;
        assert_eq!(flag, ResponseFlag::Connect);
        assert!(why.starts_with("tls error: 10.0.0.2:15008: "), "{why}");
    });
}

#[test]
fn a_peer_that_does_not_speak_h2_is_refused() {
    testing::run(mesh(), async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        pod.network.plan(SERVER, Plan::Accept);
        let dial = dial(bed, &pod);
        let end = pod.network.accepted(SERVER).await;
        let cert = bed.certs.of_peer(&identity("server"));
        let mut config = rustls::ServerConfig::clone(&cert.server_config());
        config.alpn_protocols.clear();
        let (_accepted, failure) =
            tokio::join!(handshake::accept(config.into(), end, Buffers::default()), dial.failure());
        let why = "tls error: 10.0.0.2:15008: peer does not speak h2";
        assert_eq!(failure, (why.to_owned(), ResponseFlag::Connect));
    });
}

#[test]
fn a_peer_that_is_mute_in_http2_is_given_up() {
    testing::run(mesh(), async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        pod.network.plan(SERVER, Plan::Accept);
        let dial = dial(bed, &pod);
        let _mute = secured(bed, pod.network.accepted(SERVER).await).await;
        let since = Instant::now();
        // An HTTP/2 client need not wait for the peer's settings, so the first PING detects the mute peer.
        assert!(dial.task.await.unwrap());
        assert_eq!(since.elapsed(), bed.config.timeouts.h2_settings);
        assert!(PodPool::of(&bed.shard, pod.id.serial).ready(&key(bed, &pod)).is_none());
    });
}

#[test]
fn a_tunnel_that_nobody_uses_is_released() {
    testing::run(mesh(), async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        let (dial, mut peer) = established(bed, &pod).await;
        let pool = PodPool::of(&bed.shard, pod.id.serial);
        let lease = pool.ready(&key(bed, &pod)).unwrap();
        let release = bed.config.tunnel.pool.unused_release;
        // A tunnel with a stream stays open.
        assert!(timeout(3 * release, peer.accept()).await.is_err());
        drop(lease);
        let since = Instant::now();
        assert!(peer.accept().await.is_none_or(|last| last.is_err()));
        assert!(dial.task.await.unwrap());
        assert!(since.elapsed() >= release && since.elapsed() <= 2 * release, "{:?}", since.elapsed());
    });
}

#[test]
fn a_peer_that_answers_no_ping_is_given_up() {
    testing::run(mesh(), async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        let (dial, mut peer) = established(bed, &pod).await;
        let timeouts = &bed.config.timeouts;
        // The peer answers PINGs while the test drives the peer's connection.
        assert!(timeout(4 * timeouts.ping_interval, peer.accept()).await.is_err());
        assert!(!dial.task.is_finished());
        let since = Instant::now();
        assert!(dial.task.await.unwrap());
        assert!(since.elapsed() <= timeouts.ping_interval + timeouts.ping);
        assert!(since.elapsed() >= timeouts.ping);
        drop(peer);
    });
}

#[test]
fn a_tunnel_whose_ping_is_overdue_is_used_last() {
    testing::run(mesh(), async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        let (_first, mut mute) = established(bed, &pod).await;
        let (_second, mut other) = established(bed, &pod).await;
        let pool = PodPool::of(&bed.shard, pod.id.serial);
        // The pool takes the first tunnel until a PING has been unanswered for a second.
        let asks = async |pool: &PodPool| {
            let lease = pool.ready(&key(bed, &pod)).unwrap();
            let mut send = lease.send_request().ready().await.unwrap();
            send.send_request(http::Request::connect("10.0.0.2:80").body(()).unwrap(), false).unwrap()
        };
        let _stream = asks(&pool).await;
        let arrived = timeout(Duration::from_millis(10), mute.accept()).await;
        assert!(matches!(arrived, Ok(Some(Ok(_)))), "the first tunnel is used");
        let _driven =
            timeout(bed.config.timeouts.ping_interval + Duration::from_secs(2), other.accept()).await;
        let _stream = asks(&pool).await;
        let arrived = timeout(Duration::from_millis(10), other.accept()).await;
        assert!(matches!(arrived, Ok(Some(Ok(_)))), "the second tunnel is used");
    });
}

/// Opens a stream on a tunnel of the pool.
async fn asks(pool: &PodPool, key: &TunnelKey) -> (Lease, impl Sized + use<>) {
    let lease = pool.ready(key).unwrap();
    let mut send = lease.send_request().ready().await.unwrap();
    let stream = send.send_request(http::Request::connect("10.0.0.2:80").body(()).unwrap(), false).unwrap();
    (lease, stream)
}

#[test]
fn a_tunnel_that_is_released_at_once_serves_its_streams_first() {
    let at_once = |config: &mut DataPlaneConfig| config.tunnel.pool.unused_release = Duration::ZERO;
    testing::run_with(mesh(), at_once, async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        let (dial, mut peer) = established(bed, &pod).await;
        let pool = PodPool::of(&bed.shard, pod.id.serial);
        let (lease, stream) = asks(&pool, &key(bed, &pod)).await;
        let (request, mut respond) = peer.accept().await.unwrap().unwrap();
        // The tunnel has a stream, and takes another one.
        assert!(timeout(Duration::from_secs(60), peer.accept()).await.is_err());
        let (second, second_stream) = asks(&pool, &key(bed, &pod)).await;
        let answered = respond.send_response(http::Response::new(()), true);
        drop((lease, stream, request, respond, answered));
        assert!(matches!(peer.accept().await, Some(Ok(_))));
        assert!(timeout(Duration::from_secs(60), peer.accept()).await.is_err(), "one stream is left");
        drop((second, second_stream));
        let since = Instant::now();
        assert!(peer.accept().await.is_none_or(|last| last.is_err()));
        assert!(dial.task.await.unwrap());
        assert_eq!(since.elapsed().as_secs(), 0, "the tunnel ends with its last stream");
        assert!(pool.ready(&key(bed, &pod)).is_none());
    });
}

#[test]
fn a_tunnel_that_is_released_at_once_waits_for_its_first_stream() {
    let at_once = |config: &mut DataPlaneConfig| config.tunnel.pool.unused_release = Duration::ZERO;
    testing::run_with(mesh(), at_once, async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        let (_dial, mut peer) = established(bed, &pod).await;
        assert!(timeout(KEPT_FOR_FIRST_STREAM / 2, peer.accept()).await.is_err());
        let pool = PodPool::of(&bed.shard, pod.id.serial);
        let _stream = asks(&pool, &key(bed, &pod)).await;
        assert!(matches!(peer.accept().await, Some(Ok(_))));
    });
}

#[test]
fn before_its_peer_has_told_a_limit_a_tunnel_takes_as_many_streams_as_the_setting_says() {
    for streams in [1, 250] {
        let configure = |config: &mut DataPlaneConfig| config.tunnel.pool.max_streams = streams;
        testing::run_with(mesh(), configure, async |bed| {
            let pod = bed.pod("client", "10.0.0.1");
            pod.network.plan(SERVER, Plan::Accept);
            let dial = dial(bed, &pod);
            // The peer has not begun HTTP/2, so that its settings are unknown.
            let _tls = secured(bed, pod.network.accepted(SERVER).await).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(dial.is_ready());
            let pool = PodPool::of(&bed.shard, pod.id.serial);
            let leases = std::iter::from_fn(|| pool.ready(&key(bed, &pod))).collect::<Vec<_>>();
            assert_eq!(leases.len(), streams);
        });
    }
}

#[test]
fn a_tunnel_that_makes_room_for_others_ends_at_once() {
    testing::run(mesh(), async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        let (dial, mut peer) = established(bed, &pod).await;
        let pool = PodPool::of(&bed.shard, pod.id.serial);
        pool.release(&[key(bed, &pod)].into_iter().collect());
        let since = Instant::now();
        assert!(peer.accept().await.is_none_or(|last| last.is_err()));
        assert!(dial.task.await.unwrap());
        assert_eq!(since.elapsed().as_secs(), 0);
    });
}

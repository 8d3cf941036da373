//! A test bed for whole connections without a kernel, under a paused clock: pods, networks, peers, access log lines
//! and counters.
#![allow(dead_code, reason = "a vocabulary, of which each test uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "made for tests, which the linter does not see where the fuzzer uses it too"
)]

mod access;
pub(crate) mod inner;
pub(crate) mod network;
pub(crate) mod peers;
pub(crate) mod stream;

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tracing_subscriber::layer::SubscriberExt as _;

pub(crate) use self::peers::ask;
use self::{
    access::{AccessLines, sum},
    network::TestNetwork,
    peers::TestPeers,
    stream::{TestEnd, connection},
};
use super::{
    accepted::Accepted,
    certificates::{Certificates, Held},
    config::DataPlaneConfig,
    inbound,
    inbound_context::InboundContext,
    listener::Canaries,
    mesh_view::MeshView,
    missing_policies::MissingPolicies,
    on_demand::{Directory, OnDemand},
    outbound,
    outbound_context::{NextHops, OutboundContext, Peers},
    plaintext,
    pod::{PodId, conns::PodConns, network::PodNetwork, workload::PodWorkload},
    pod_directory::PodDirectory,
    resolver::Resolver,
    tunnel::dial::DialContext,
};
use crate::{
    protocols::{
        ca::CertError,
        config::{Config, Http2Config},
        hbone::client,
        identity::Identity,
        mesh::{
            Change, WorkloadInfo,
            fixtures::{NAMESPACE, TestMesh, addr},
            policy::{Policy, PolicyChange},
        },
        outcome::ResponseFlag,
        pb::security as pb,
        tls::{WorkloadCert, buffer::Buffers, handshake, test_ca::TestCa},
    },
    runtime::{conns::ConnSet, shard::Shard},
    sys::netns::NetNs,
    telemetry::metrics::Metrics,
};

/// A time that is longer than every timeout of a connection, by the paused clock.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A node with a mesh: the state that all pods share.
pub(crate) struct TestBed {
    mesh: RefCell<TestMesh>,
    changed: watch::Sender<u64>,
    /// Since when the control plane's stream is open. It is down at first.
    stream: Arc<Mutex<Option<Instant>>>,
    view: RefCell<MeshView>,
    lines: AccessLines,
    pub(crate) shard: Shard,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: Arc<DataPlaneConfig>,
    pub(crate) certs: Arc<TestCerts>,
    pub(crate) hops: Arc<NextHops<TestNetwork>>,
}

/// A pod of the node.
pub(crate) struct TestPod {
    pub(crate) id: Arc<PodId>,
    pub(crate) identity: Identity,
    /// The pod's address.
    pub(crate) ip: String,
    pub(crate) network: Arc<TestNetwork>,
    pub(crate) conns: Arc<PodConns>,
    pub(crate) peers: TestPeers,
    pub(crate) outbound: Arc<OutboundContext<TestNetwork>>,
    pub(crate) inbound: Arc<InboundContext<TestNetwork>>,
    pub(crate) dial: Arc<DialContext<TestNetwork>>,
}

/// A connection between an application and the proxy.
pub(crate) struct TestConn {
    /// The application's end.
    pub(crate) app: TestEnd,
    task: JoinHandle<()>,
}

/// A tunnel of a peer to a pod.
pub(crate) struct PeerTunnel {
    pub(crate) send: SendRequest<Bytes>,
    task: JoinHandle<()>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// The certificates of the node.
pub(crate) struct TestCerts {
    ca: TestCa,
    held: Mutex<HashMap<Identity, Arc<WorkloadCert>>>,
    changed: watch::Sender<()>,
}

/// Runs a test on a node with this mesh.
pub(crate) fn run(mesh: TestMesh, test: impl AsyncFnOnce(&TestBed)) {
    run_with(mesh, |_| (), test);
}

/// Runs a test on a node with this mesh and with changed settings.
pub(crate) fn run_with(
    mesh: TestMesh,
    configure: impl FnOnce(&mut DataPlaneConfig),
    test: impl AsyncFnOnce(&TestBed),
) {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build_local(LocalOptions::default()).unwrap();
    let lines = AccessLines::default();
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(lines.clone()));
    let mut config = DataPlaneConfig::new(&Config::default(), None);
    configure(&mut config);
    runtime.block_on(async {
        let bed = TestBed::new(mesh, config, lines);
        timeout(PATIENCE, test(&bed)).await.expect("the test is stuck");
    });
}

/// Runs a test on a node whose tables are filled by asking `directory`.
pub(crate) fn run_on_demand(mesh: TestMesh, directory: Arc<dyn Directory>, test: impl AsyncFnOnce(&TestBed)) {
    run(mesh, async |bed| {
        let view = bed.view.borrow().clone();
        bed.view.replace(view.filled(OnDemand::new(directory, "Kubernetes".into())));
        test(bed).await;
    });
}

/// Spawns a task on the runtime of the test.
pub(crate) fn spawn<T: 'static>(work: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    #[allow(clippy::disallowed_methods, reason = "the task ends with the runtime of its test")]
    tokio::task::spawn_local(work)
}

// === impl TestBed ===

impl TestBed {
    fn new(mesh: TestMesh, config: DataPlaneConfig, lines: AccessLines) -> Self {
        let (changed, changes) = watch::channel(1);
        let certs = Arc::new(TestCerts {
            ca: TestCa::new("root"),
            held: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        let config = Arc::new(config);
        let hops = NextHops {
            joined: ConnSet::new(1),
            directory: PodDirectory::default(),
            certs: certs.clone(),
            resolver: Resolver::new(
                PodNetwork::home(NetNs::current().unwrap(), config.clone()),
                Arc::default(),
                "/etc/hosts",
                true,
            ),
        };
        let stream: Arc<Mutex<Option<Instant>>> = Arc::default();
        let open = stream.clone();
        let missing = MissingPolicies::new(
            config.missing_policy,
            config.timeouts.workload,
            Arc::new(move || *open.lock()),
        );
        Self {
            view: MeshView::new(mesh.mesh.clone(), changes, missing.into()).into(),
            stream,
            mesh: mesh.into(),
            changed,
            lines,
            shard: Shard::of_this_thread(1),
            metrics: Metrics::new("test").unwrap(),
            config,
            certs,
            hops: Arc::new(hops),
        }
    }

    /// A pod of the node with the name `name`, and with the identity and certificate of the fixtures.
    pub(crate) fn pod(&self, name: &str, ip: &str) -> TestPod {
        let service_account = format!("sa-{name}");
        let identity = identity(name);
        self.certs.issue(&identity);
        let info = WorkloadInfo { name: name.into(), namespace: NAMESPACE.into(), service_account };
        let id = PodId::new(name.into(), info);
        let (conns, network) = (PodConns::new(1), TestNetwork::new(ip, self.config.timeouts.connect));
        let pod = PodWorkload::new(id.clone(), self.view.borrow().clone(), self.config.clone());
        let (metrics, config, certs) = (&self.metrics, &self.config, &self.certs);
        let (peers, dialer) = TestPeers::new(&self.shard, id.serial);
        TestPod {
            identity,
            ip: ip.into(),
            outbound: Arc::new(OutboundContext {
                pod: pod.clone(),
                network: network.clone(),
                conns: conns.clone(),
                peers: Peers::new(dialer),
                hops: self.hops.clone(),
                canaries: Arc::new(Canaries::default()),
                metrics: metrics.clone(),
                config: config.clone(),
            }),
            inbound: Arc::new(InboundContext {
                pod,
                network: network.clone(),
                conns: conns.clone(),
                certs: certs.clone(),
                metrics: metrics.clone(),
                config: config.clone(),
            }),
            dial: Arc::new(DialContext {
                id: id.clone(),
                network: network.clone(),
                conns: conns.clone(),
                certs: certs.clone(),
                metrics: metrics.clone(),
                config: config.clone(),
            }),
            id,
            network,
            conns,
            peers,
        }
    }

    /// Makes the control plane push a change.
    pub(crate) fn push(&self, change: impl Into<Change>) {
        self.mesh.borrow_mut().put(change);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Opens the control plane's stream, or has it go down.
    pub(crate) fn stream(&self, open: bool) {
        *self.stream.lock() = open.then(Instant::now);
    }

    /// The number of policies that the control plane does not have.
    pub(crate) fn absent_policies(&self) -> usize {
        self.view.borrow().missing_policies().absent()
    }

    /// Makes the control plane push a policy of the namespace [`NAMESPACE`]. Existing policies stay.
    pub(crate) fn push_policy(&self, policy: pb::Authorization) {
        let key = format!("{NAMESPACE}/{}", policy.name);
        let change = PolicyChange::Upsert(Policy::decode(&key, policy).0);
        let table = self.view.borrow().tables().policies().with(vec![change]);
        self.mesh.borrow_mut().writer.set_policies(Arc::new(table));
        self.answer_policies();
    }

    /// Makes the control plane answer about policies, without a change.
    pub(crate) fn answer_policies(&self) {
        self.mesh.borrow_mut().writer.answered_policies();
        self.changed.send_modify(|version| *version += 1);
    }

    fn accepted<C, S>(&self, pod: &TestPod, ctx: Arc<C>, stream: S, client: &str) -> Accepted<C, S> {
        let arriving = pod.conns.arriving();
        Accepted { ctx, arriving, shard: self.shard.clone(), stream, peer: addr(client) }
    }

    /// Captures a connection of an application of `pod` from `client` to `dst`.
    pub(crate) fn connect(&self, pod: &TestPod, client: &str, dst: &str) -> TestConn {
        let (app, stream) = connection(addr("127.0.0.1:15001"), Some(addr(dst)));
        let accepted = self.accepted(pod, pod.outbound.clone(), stream, client);
        TestConn { app, task: spawn(outbound::serve(accepted)) }
    }

    /// Captures a connection without a tunnel from `client` to `dst` of `pod`.
    pub(crate) fn connect_plain(&self, pod: &TestPod, client: &str, dst: &str) -> TestConn {
        let (app, stream) = connection(addr("127.0.0.1:15006"), Some(addr(dst)));
        let accepted = self.accepted(pod, pod.inbound.clone(), stream, client);
        TestConn { app, task: spawn(plaintext::serve(accepted)) }
    }

    /// Connects a peer from `client` to port 15008 of `pod`.
    pub(crate) fn connect_peer(&self, pod: &TestPod, client: &str) -> TestConn {
        let (app, stream) = connection(SocketAddr::new(pod.ip.parse().unwrap(), 15008), None);
        let accepted = self.accepted(pod, pod.inbound.clone(), stream, client);
        TestConn { app, task: spawn(inbound::serve(accepted)) }
    }

    /// Opens a tunnel of the peer `name` from `client` to `pod`.
    pub(crate) async fn tunnel(&self, pod: &TestPod, (name, client): (&str, &str)) -> PeerTunnel {
        let cert = self.certs.ca.workload(&identity(name));
        let config = cert.client_config(std::slice::from_ref(&pod.identity));
        self.tunnel_by(pod, client, config).await.unwrap()
    }

    /// Opens a tunnel of a peer that uses this TLS configuration.
    pub(crate) async fn tunnel_by(
        &self,
        pod: &TestPod,
        client: &str,
        config: Arc<ClientConfig>,
    ) -> Result<PeerTunnel, handshake::HandshakeError> {
        let TestConn { app, task } = self.connect_peer(pod, client);
        let name = addr(client).ip().into();
        let (stream, _) = handshake::connect(config, name, app, Buffers::default()).await?;
        let (send, connection) = client::handshake(stream, &Http2Config::default()).await.unwrap();
        Ok(PeerTunnel { send, task, driver: spawn(connection) })
    }

    /// The access log lines since the last call.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.take()
    }

    /// The fields of the access log lines since the last call.
    pub(crate) fn fields(&self) -> Vec<BTreeMap<&'static str, String>> {
        self.lines.take_fields()
    }

    /// The sum of a metric family's samples with all of these labels.
    pub(crate) fn sum(&self, family: &str, labels: &[&str]) -> u64 {
        sum(&self.metrics.encode(), family, labels)
    }

    /// The number of connections of this side that ended, by response flags.
    pub(crate) fn closed(&self, reporter: &str) -> Vec<(&'static str, u64)> {
        let text = self.metrics.encode();
        let reporter = format!("reporter=\"{reporter}\"");
        let count = |flag: ResponseFlag| {
            let label = format!("response_flags=\"{}\"", flag.as_str());
            (flag.as_str(), sum(&text, "istio_tcp_connections_closed_total", &[&reporter, &label]))
        };
        ResponseFlag::ALL.into_iter().map(count).filter(|(_, count)| *count > 0).collect()
    }

    /// The number of attempts to reach next hops, by result and reason.
    pub(crate) fn attempts(&self, result: &str, reason: &str) -> u64 {
        let labels = [format!("result=\"{result}\""), format!("reason=\"{reason}\"")];
        sum(&self.metrics.encode(), "warren_outbound_attempts_total", &labels.each_ref().map(String::as_str))
    }

    /// The sum of a metric family's samples with all of these labels.
    pub(crate) fn count_of(&self, family: &str, labels: &[&str]) -> u64 {
        sum(&self.metrics.encode(), family, labels)
    }

    /// The sum of a metric family's samples of this side.
    pub(crate) fn count(&self, family: &str, reporter: &str) -> u64 {
        sum(&self.metrics.encode(), family, &[&format!("reporter=\"{reporter}\"")])
    }
}

/// A policy of the namespace [`NAMESPACE`] for clients that `matching` matches, or for all clients.
pub(crate) fn policy(name: &str, action: pb::Action, matching: Option<pb::Match>) -> pb::Authorization {
    let clauses = matching.into_iter().map(|matching| pb::Clause { matches: vec![matching] }).collect();
    pb::Authorization {
        name: name.into(),
        namespace: NAMESPACE.into(),
        scope: pb::Scope::Namespace.into(),
        action: action.into(),
        rules: vec![pb::Rule { clauses }],
        ..Default::default()
    }
}

/// Matches clients with the identity of the pod that the fixtures build as `name`.
pub(crate) fn principal(name: &str) -> pb::Match {
    let id = format!("cluster.local/ns/{NAMESPACE}/sa/sa-{name}");
    let exact = pb::StringMatch { match_type: Some(pb::string_match::MatchType::Exact(id)) };
    pb::Match { principals: vec![exact], ..Default::default() }
}

/// Matches clients without an identity.
pub(crate) fn plaintext() -> pb::Match {
    let present = pb::StringMatch { match_type: Some(pb::string_match::MatchType::Presence(())) };
    pb::Match { not_principals: vec![present], ..Default::default() }
}

/// The identity of the pod that the fixtures build as `name`.
pub(crate) fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", NAMESPACE, &format!("sa-{name}")).unwrap()
}

// === impl TestConn ===

impl TestConn {
    /// Waits until the proxy is done with the connection.
    pub(crate) async fn done(&mut self) {
        (&mut self.task).await.unwrap();
    }

    /// Whether the proxy is done with the connection.
    pub(crate) fn is_done(&self) -> bool {
        self.task.is_finished()
    }
}

// === impl PeerTunnel ===

impl PeerTunnel {
    /// Waits until the proxy has dropped the tunnel. Returns the end of the connection as the peer sees it.
    pub(crate) async fn done(self) -> Result<(), h2::Error> {
        self.task.await.unwrap();
        self.driver.await.unwrap()
    }

    /// Breaks the tunnel's TCP connection.
    pub(crate) async fn leave(self) {
        self.driver.abort();
        let _ = self.driver.await;
    }

    /// Whether the proxy has dropped the tunnel.
    pub(crate) fn is_done(&self) -> bool {
        self.task.is_finished()
    }
}

// === impl TestCerts ===

impl TestCerts {
    /// Issues a new certificate of `identity`, which replaces the old certificate.
    pub(crate) fn issue(&self, identity: &Identity) {
        self.put(identity, self.ca.workload(identity));
    }

    /// Sets the certificate of `identity`.
    pub(crate) fn put(&self, identity: &Identity, cert: WorkloadCert) {
        self.held.lock().insert(identity.clone(), Arc::new(cert));
        self.changed.send_replace(());
    }

    /// Removes the certificate of `identity`.
    pub(crate) fn withdraw(&self, identity: &Identity) {
        self.held.lock().remove(identity);
    }

    /// The authority that issues the certificates.
    pub(crate) fn authority(&self) -> &TestCa {
        &self.ca
    }

    /// A certificate of `identity` for a peer on another node.
    pub(crate) fn of_peer(&self, identity: &Identity) -> WorkloadCert {
        self.ca.workload(identity)
    }
}

impl Certificates for TestCerts {
    fn current(&self, id: &Identity) -> Option<Arc<WorkloadCert>> {
        self.held.lock().get(id).cloned()
    }

    fn hold<'a>(&'a self, id: &'a Identity, within: Duration) -> Held<'a> {
        let deadline = Instant::now() + within;
        Box::pin(async move {
            let mut changed = self.changed.subscribe();
            loop {
                if let Some(cert) = self.current(id) {
                    return Ok(cert);
                }
                if timeout_at(deadline, changed.changed()).await.is_err() {
                    return Err(CertError::TimedOut { identity: id.clone(), after: within });
                }
            }
        })
    }
}

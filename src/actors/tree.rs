//! The supervision tree of the process, as one function that reads like the drawing in ARCHITECTURE.md.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

#[cfg(feature = "lab")]
use super::control::certs::FakeIssuer;
use super::{
    admin::{
        AdminServers,
        readiness::{DNS_PROXY, PROXY, Readiness, ReadyTask},
        server::HttpServer,
    },
    console::{Shown, TreeAccess, admin_addrs, console},
    control::{
        certs::{CaIssuer, Certs, CertsConfig, Issuer},
        grpc::{AuthHeaders, GrpcError, GrpcTarget},
        local::{self, LocalSourceError},
        mesh::MeshTables,
        xds::{Bounds, Xds, XdsMetrics, XdsSettings},
        zds::Zds,
    },
    crl::Crl,
    handover::{Handover, Terms},
    health::{Health, HealthSources},
    pods::{EnrolmentSources, Pods, node::Node, unhealthy::UnhealthyPods},
    quarantine::Quarantine,
    telemetry::{Outages, count_event, of_actors, panics, tell_event},
};
use crate::{
    dataplane::{
        config::DataPlaneConfig,
        dns_config::{self, DnsProxyConfig},
        mesh_view::MeshView,
        missing_policies::MissingPolicies,
        on_demand::OnDemand,
        outbound_context::NextHops,
        pod::network::PodNetwork,
        pod_directory::PodDirectory,
        resolver::Resolver,
    },
    protocols::{
        config::{self, Config, ProxyMode, Upstream},
        dns::resolvers::Resolvers,
        enrolment::ProxyPlace,
        mesh::{LocalNode, Mesh, WorkloadInfo},
        tls::Revocations,
        xds::{self, XdsState, backoff},
    },
    runtime::{conns::ConnSet, shard::Shards},
    supervisor::{Event, Intensity, StartError, Strategy, SupervisorSpec, Tree, TreeHandle},
    sys::{
        netns::NetNs,
        privileges::{self, Unprivileged},
    },
    telemetry::{
        buffers,
        events::EventKind,
        log::Logging,
        metrics::{Metrics, MetricsError, Termination},
        pod_series, shards, state_gauge,
        trace::span::trace_of,
    },
};

/// The whole tree may take so long to stop; connections have been drained before.
/// Limit: stop of the whole tree: 6 s; past it: what is left is killed.
const TREE_STOP_WITHIN: Duration = Duration::from_secs(6);

/// How long the data plane may take to stop after its connections have ended.
/// Limit: stop of the data plane's supervisor: 3 s; past it: what is left is killed.
const DATA_PLANE_STOP_WITHIN: Duration = Duration::from_secs(3);

/// The names that the node knows without a name server (hosts(5)).
const HOSTS_FILE: &str = "/etc/hosts";

/// What the supervisors of parts tolerate that carry no bytes. With the back-off it lasts for five failed starts in a row
/// and more: established connections do not need these parts, and ending the process would cost all of them. A part that
/// cannot be started for longer than a minute ends it all the same: the kubelet's restart is the last resort.
/// Limit: restarts of top-level parts and of the children of admin, meshsup and shards: 10 in 300 s; past it: the
/// supervisor fails, and in the end the process.
const PART_RESTARTS: Intensity = Intensity { restarts: 10, within: Duration::from_secs(300) };

/// A running proxy.
pub struct Proxy {
    /// The tree.
    pub tree: Tree,
    /// The pods, to drain.
    pub pods: Pods,
    /// The hand-over, which can demand that the process exits; none in the dedicated mode.
    pub zds: Option<Zds>,
    /// The proxy's own pod, which the caller has served.
    pub own: Option<OwnPod>,
    /// The hand-over of live connections, if it is configured.
    handover: Option<Handover>,
    /// Somebody asked for the shutdown on the admin port.
    pub quit: mpsc::Receiver<()>,
    readiness: HttpServer,
}

/// The proxy's own pod, which is served once the first state of the mesh is complete (docs/spec/controlplane.md 2.6).
pub struct OwnPod {
    pods: Pods,
    info: Option<WorkloadInfo>,
    complete: watch::Receiver<bool>,
    /// Done once the pod is served.
    wired: Option<ReadyTask>,
}

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// An address or header of the control plane is unusable.
    #[error("{0}")]
    Control(#[from] GrpcError),
    /// A part of the tree did not start.
    #[error("{0}")]
    Start(#[from] StartError),
    /// The metrics contradict each other.
    #[error("metrics: {0}")]
    Metrics(#[from] MetricsError),
    /// `/proc` cannot be read.
    #[error("own network namespace: {0}")]
    Namespace(std::io::Error),
    /// The local state of the mesh is wrong.
    #[error("{0}")]
    Local(#[from] LocalSourceError),
    /// The process lacks a privilege.
    #[error("{0}")]
    Unprivileged(#[from] Unprivileged),
    /// A setting is part of the contract and not of this build.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// The parts, and how they know each other. Nothing runs yet.
struct Parts {
    metrics: Arc<Metrics>,
    certs: Certs,
    /// Absent without a file of revocation lists.
    crl: Option<Crl>,
    tables: MeshTables,
    xds: Option<Xds>,
    shards: Shards,
    pods: Pods,
    served: Served,
    /// Absent in the dedicated mode, and where it is turned off.
    handover: Option<Handover>,
    complete: watch::Receiver<bool>,
    health: Health,
    admin: AdminServers,
}

/// Whom the process serves.
enum Served {
    /// The pods that istio-cni hands over.
    Pods(Zds),
    /// The one workload of the dedicated mode.
    Workload(WorkloadInfo),
}

/// Starts the proxy on the current runtime.
///
/// # Errors
/// See [`BootError`]; what was started has been stopped again.
pub async fn boot(config: &Config, logging: &Logging) -> Result<Proxy, BootError> {
    let local = config.control.xds.local.as_ref().map(local::read).transpose()?;
    privileges::check(!config.node.is_dedicated(), config.inpod.packet_mark)?;
    let (ask, quit) = mpsc::channel(1);
    let readiness = Readiness::new();
    let access = TreeAccess { quit: ask, handle: Arc::default(), readiness: readiness.clone() };
    let wired = config.listen.proxy.then(|| readiness.register(PROXY));
    let names = config.dns.enabled.then(|| readiness.register(DNS_PROXY));
    let parts = parts(config, logging, access.clone())?;
    let (metrics, outages, pods) = (parts.metrics.clone(), Outages::default(), parts.pods.clone());
    let on_event = move |event: &Event| {
        count_event(&metrics.actors, event.kind_label, &event.kind);
        tell_event(&metrics.events, event);
        outages.observe(event);
        pods.heard(event);
    };
    let tree = Tree::start_observed(root(&parts, logging), Arc::new(on_event), trace_of).await?.watched();
    // Set once: nobody else has the cell.
    let _ = access.handle.set(tree.handle());
    if let Some(local) = local {
        local::apply(local, &parts.tables).await?;
    }
    if let Some(names) = names {
        names.done();
    }
    let own = OwnPod { pods: parts.pods.clone(), info: own_pod(config), complete: parts.complete, wired };
    Ok(Proxy {
        tree,
        pods: parts.pods,
        zds: parts.served.zds().cloned(),
        handover: parts.handover,
        own: Some(own),
        quit,
        readiness: parts.admin.readiness,
    })
}

impl Proxy {
    /// Begins the shutdown: nobody counts on this process for what is new. Readiness closes, and istio-cni is left.
    pub fn retire(&self) {
        self.readiness.close();
        if let Some(zds) = &self.zds {
            zds.leave();
        }
        if let Some(handover) = &self.handover {
            handover.leave();
        }
    }
}

impl OwnPod {
    /// Serves the proxy's own pod, if the proxy is told which one that is, once the state is complete.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn serve(mut self) -> Result<(), StartError> {
        if let Some(info) = self.info.take() {
            // Without a sender the process is ending.
            if self.complete.wait_for(|complete| *complete).await.is_err() {
                return Ok(());
            }
            self.pods.start_own(info).await?;
        }
        if let Some(wired) = self.wired {
            wired.done();
        }
        Ok(())
    }
}

/// The tree.
fn root(parts: &Parts, logging: &Logging) -> SupervisorSpec {
    let mut meshsup = SupervisorSpec::new("meshsup", Strategy::RestForOne)
        .intensity(PART_RESTARTS)
        .child(parts.tables.child());
    if let Some(xds) = &parts.xds {
        meshsup = meshsup.child(xds.child(parts.tables.clone()));
    }
    let mut shards = SupervisorSpec::new("shards", Strategy::OneForOne).intensity(PART_RESTARTS);
    for index in 0..parts.shards.count() {
        shards = shards.child(super::shards::child(&parts.shards, index));
    }
    // Giving up would cut every connection of the node, for a hand-over that only new pods need.
    let mut dataplane = SupervisorSpec::new("dataplane", Strategy::RestForOne)
        .intensity(Intensity { restarts: 60, within: Duration::from_secs(60) })
        .stop_within(DATA_PLANE_STOP_WITHIN)
        .dynamic(parts.pods.spec());
    dataplane = match &parts.served {
        Served::Pods(zds) => dataplane.child(zds.child(parts.pods.clone())),
        Served::Workload(workload) => dataplane.supervisor(parts.pods.dedicated(workload.clone())),
    };
    let mut root = SupervisorSpec::new("root", Strategy::OneForOne)
        .intensity(PART_RESTARTS)
        .stop_within(TREE_STOP_WITHIN)
        .child(super::telemetry::child(&parts.metrics, &logging.queue()))
        .supervisor(parts.admin.supervisor().intensity(PART_RESTARTS).child(parts.health.child()))
        .child(parts.certs.child());
    if let Some(crl) = &parts.crl {
        root = root.child(crl.child());
    }
    // After the others, so that the loss of these restarts nobody but those that follow.
    dataplane = dataplane.child(parts.pods.policy()).child(parts.pods.audit());
    if let Some(handover) = &parts.handover {
        dataplane = dataplane.child(handover.child());
    }
    root.supervisor(meshsup).supervisor(shards).supervisor(dataplane)
}

fn parts(config: &Config, logging: &Logging, access: TreeAccess) -> Result<Parts, BootError> {
    let readiness = access.readiness.clone();
    let metrics = Metrics::new(&config.node.istio_version)?;
    if let Some(export) = logging.export() {
        export.attach(&metrics)?;
    }
    panics::install(metrics.clone());
    metrics.register(of_actors(access.handle.clone())?)?;
    let tree = access.handle.clone();
    let aside = move || tree.get().map(TreeHandle::quarantined_by_kind).unwrap_or_default();
    metrics.register(state_gauge::of_quarantined_actors(aside)?)?;
    let mesh = Mesh::new(local_node(config));
    let quarantine = Quarantine::default();
    let revocations = config.tunnel.tls.crl_path.as_ref().map(|_| Arc::<Revocations>::default());
    let certs = certs(config, quarantine.clone(), revocations.clone(), &metrics)?;
    let tables = MeshTables::new(mesh.clone(), certs.clone(), quarantine.clone());
    let xds = xds(config, &metrics)?;
    let shards = Shards::new(config.process.shards.count);
    metrics.register(shards::of_shards(shards.clone())?)?;
    let home = NetNs::current().map_err(BootError::Namespace)?;
    let name_servers = dns_config::name_servers(config);
    let settings = Arc::new(DataPlaneConfig::new(config, DnsProxyConfig::new(config, &name_servers)));
    metrics.register(buffers::of_buffers(settings.buffers.clone())?)?;
    let missing = missing_policies(&settings, xds.as_ref(), &metrics)?;
    let hops = NextHops {
        joined: ConnSet::new(shards.count()),
        directory: PodDirectory::default(),
        certs: Arc::new(certs.clone()),
        resolver: resolver(config, &settings, home.clone(), name_servers),
    };
    let mut view = MeshView::new(mesh, tables.changed(), missing);
    if let Some(xds) = xds.as_ref().filter(|_| config.control.xds.on_demand) {
        view = view.filled(OnDemand::new(Arc::new(xds.clone()), config.node.cluster_id.clone()));
    }
    let node = Arc::new(Node {
        mesh: view,
        hops: Arc::new(hops),
        metrics: metrics.clone(),
        shards: shards.clone(),
        home,
        unhealthy: UnhealthyPods::default(),
        quarantine: quarantine.clone(),
        config: settings,
    });
    let (gate, complete) = watch::channel(false);
    let served = Served::of(config, complete.clone());
    let sources = HealthSources {
        certs: certs.clone(),
        xds: xds.as_ref().map(Xds::state),
        zds: served.zds().map(Zds::status),
        unhealthy: &node.unhealthy,
        quarantine: &quarantine,
    };
    let health = Health::new(sources, gate, &readiness, &metrics);
    let pods = Pods::new(node.clone(), enrolment(config, xds.as_ref(), served.zds()));
    let shown = Shown::of(config, &pods, &certs, xds.as_ref(), served.zds());
    let console = console(config, logging, &quarantine, shown, access);
    let admin = AdminServers::new(admin_addrs(config), &readiness, &metrics, console);
    count(&metrics, &certs, &pods, served.zds())?;
    let crl = crl(config, revocations, &pods, &metrics);
    let handover = handover(config, &pods, &served, (&metrics, &readiness));
    Ok(Parts { metrics, certs, crl, tables, xds, shards, pods, served, handover, complete, health, admin })
}

/// The node as the tables of the mesh see it.
fn local_node(config: &Config) -> LocalNode {
    LocalNode {
        network: config.node.network.clone(),
        node: config.node.node_name.clone(),
        cluster_domain: config.node.cluster_domain.clone(),
    }
}

/// What tells of pods that istio-cni has not handed over. Without a node's name nobody knows the pods of the node.
fn enrolment(config: &Config, xds: Option<&Xds>, zds: Option<&Zds>) -> Option<EnrolmentSources> {
    let own = &config.node;
    let place = ProxyPlace {
        node: own.node_name.clone()?,
        cluster_id: own.cluster_id.clone(),
        account: own.pod_namespace.clone().zip(own.service_account.clone()),
    };
    Some(EnrolmentSources { xds: xds.map(Xds::state), zds: zds?.status(), place })
}

/// The resolver for names of endpoints, in the proxy's own network.
fn resolver(
    config: &Config,
    settings: &Arc<DataPlaneConfig>,
    home: NetNs,
    servers: Arc<Resolvers>,
) -> Resolver {
    let network = PodNetwork::home(home, settings.clone());
    Resolver::new(network, servers, HOSTS_FILE, config.listen.ipv6_enabled)
}

/// The policies that workloads name and the tables do not hold. Without a control plane the stream counts as open.
fn missing_policies(
    config: &DataPlaneConfig,
    xds: Option<&Xds>,
    metrics: &Metrics,
) -> Result<Arc<MissingPolicies>, MetricsError> {
    let (state, start) = (xds.map(Xds::state), Instant::now());
    let open = move || match &state {
        Some(state) => {
            let state = state.borrow();
            state.connected.then_some(state.since)
        }
        None => Some(start),
    };
    let missing =
        Arc::new(MissingPolicies::new(config.missing_policy, config.timeouts.workload, Arc::new(open)));
    let counted = missing.clone();
    metrics.register(state_gauge::of_missing_policies(move || counted.absent())?)?;
    Ok(missing)
}

/// Has certificates and pods counted by their states.
fn count(metrics: &Metrics, certs: &Certs, pods: &Pods, zds: Option<&Zds>) -> Result<(), BootError> {
    let certs = certs.clone();
    let timed = certs.clone();
    metrics.register(state_gauge::of_certificate_times(move || timed.times())?)?;
    metrics.register(state_gauge::of_certificates(move || certs.by_state())?)?;
    let served = pods.clone();
    metrics.register(pod_series::of_pods(move || served.readings())?)?;
    let counted = pods.clone();
    metrics.register(state_gauge::of_descriptors(move || counted.descriptors())?)?;
    let (pods, hand_over) = (pods.clone(), zds.map(Zds::status));
    let pending = move || hand_over.as_ref().map_or(0, |hand_over| hand_over.borrow().session.counts.pending);
    metrics.register(state_gauge::of_pods(move || pods.by_state(pending()))?)?;
    Ok(())
}

/// The hand-over of live connections, if it is configured.
fn handover(
    config: &Config,
    pods: &Pods,
    served: &Served,
    (metrics, readiness): (&Arc<Metrics>, &Readiness),
) -> Option<Handover> {
    let (path, zds) = (config.inpod.handover_uds.as_ref()?, served.zds()?.status());
    let keeper = config.keeper.uds.as_ref().map(PathBuf::from);
    let fault = config.process.chaos.handover_fault;
    let terms = Terms { next: PathBuf::from(path), keeper, deadline: config.drain.deadline, fault };
    Some(Handover::new(terms, pods.clone(), zds, metrics.clone(), readiness))
}

/// The revocation lists, if a file of them is configured.
fn crl(config: &Config, lists: Option<Arc<Revocations>>, pods: &Pods, metrics: &Arc<Metrics>) -> Option<Crl> {
    let tls = &config.tunnel.tls;
    let path = PathBuf::from(tls.crl_path.as_ref()?);
    Some(Crl::new(path, tls.crl_required, lists?, Arc::new(pods.clone()), metrics.clone()))
}

fn certs(
    config: &Config,
    quarantine: Quarantine,
    revocations: Option<Arc<Revocations>>,
    metrics: &Metrics,
) -> Result<Certs, BootError> {
    let certs = CertsConfig::new(config.control.ca.secret_ttl, config.tunnel.tls.clone());
    let certs = CertsConfig { revocations, events: metrics.events.clone(), ..certs };
    let Some(upstream) = &config.control.ca.upstream else {
        return Ok(Certs::new(certs, fake_issuer()?, quarantine));
    };
    let target = GrpcTarget::new(upstream, &config.tunnel.tls).marked(own_mark(config));
    // In the dedicated mode the authority grants the identity of the token.
    let impersonate = !config.node.is_dedicated();
    let issuer = CaIssuer::new(target, headers(config, upstream)?, impersonate);
    Ok(Certs::new(CertsConfig { impersonate, ..certs }, Arc::new(issuer), quarantine))
}

/// The mark of connections to the control plane. In the dedicated mode they leave the namespace whose rules look for the
/// mark; in the shared mode they leave another one.
fn own_mark(config: &Config) -> Option<u32> {
    config.inpod.packet_mark.filter(|_| config.node.is_dedicated())
}

/// The authority of FAKE_CA.
#[cfg(feature = "lab")]
fn fake_issuer() -> Result<Arc<dyn Issuer>, BootError> {
    tracing::error!(
        target: "main",
        "FAKE_CA=true: certificates are signed with a key that EVERYBODY KNOWS. Anybody can be anyone. Never use \
         this outside tests"
    );
    Ok(Arc::new(FakeIssuer))
}

/// The authority of FAKE_CA.
#[cfg(not(feature = "lab"))]
fn fake_issuer() -> Result<Arc<dyn Issuer>, BootError> {
    Err(BootError::Unsupported("FAKE_CA=true: this build has no fake certificate authority"))
}

fn xds(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Xds>, BootError> {
    let Some(upstream) = &config.control.xds.upstream else { return Ok(None) };
    let wanted = XdsSettings {
        target: GrpcTarget::new(upstream, &config.tunnel.tls).marked(own_mark(config)),
        headers: headers(config, upstream)?,
        node: xds::node::node(&config.node),
        on_demand: config.control.xds.on_demand,
        bounds: Bounds::STANDARD,
    };
    Ok(Some(Xds::new(wanted, XdsState::new(), Arc::new(XdsCounter(metrics.clone())))))
}

/// What every request to `upstream` carries.
fn headers(config: &Config, upstream: &Upstream) -> Result<AuthHeaders, GrpcError> {
    AuthHeaders::new(&config.control.token, &config.node.cluster_id, &upstream.headers)
}

// === impl Served ===

impl Served {
    /// Whom `config` names. istio-cni is dialled once `gate` is true.
    fn of(config: &Config, gate: watch::Receiver<bool>) -> Self {
        match config.node.mode.clone() {
            ProxyMode::Shared => Self::Pods(Zds::new(PathBuf::from(&config.inpod.uds), gate)),
            ProxyMode::Dedicated(config::WorkloadInfo { namespace, name, service_account }) => {
                Self::Workload(WorkloadInfo { name, namespace, service_account })
            }
        }
    }

    fn zds(&self) -> Option<&Zds> {
        match self {
            Self::Pods(zds) => Some(zds),
            Self::Workload(_) => None,
        }
    }
}

/// The proxy's own pod, if it is told which one it is, nobody else has its ports and connections are proxied.
fn own_pod(config: &Config) -> Option<WorkloadInfo> {
    let own = &config.node;
    if !own.serves_itself() || !config.listen.proxy {
        return None;
    }
    Some(WorkloadInfo {
        name: own.pod_name.clone()?,
        namespace: own.pod_namespace.clone()?,
        service_account: own.service_account.clone()?,
    })
}

/// Counts what the discovery stream reports.
struct XdsCounter(Arc<Metrics>);

impl XdsCounter {
    fn tell(&self, says: impl FnOnce() -> String) {
        self.0.events.tell(EventKind::Push, None, says);
    }
}

/// The last part of a type's URL.
fn short(type_url: &str) -> &str {
    type_url.rsplit('.').next().unwrap_or(type_url)
}

impl XdsMetrics for XdsCounter {
    fn message(&self, type_url: &str, bytes: usize) {
        self.0.xds.message(type_url, bytes as u64);
        self.tell(|| format!("push of {}, {bytes} bytes", short(type_url)));
    }

    fn applied(&self, type_url: &str, time: Duration) {
        self.0.xds.applied(type_url, time);
    }

    fn rejected(&self, type_url: &str, resources: usize) {
        self.0.xds.rejected(type_url, resources as u64);
        self.tell(|| format!("{resources} resources of {} are refused", short(type_url)));
    }

    fn terminated(&self, reason: backoff::Termination) {
        self.tell(|| format!("the stream of the control plane has ended: {reason:?}"));
        self.0.xds.terminated(match reason {
            backoff::Termination::ConnectionError => Termination::ConnectionError,
            backoff::Termination::Error => Termination::Error,
            backoff::Termination::Reconnect => Termination::Reconnect,
            backoff::Termination::Complete => Termination::Complete,
        });
    }
}

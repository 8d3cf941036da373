//! The supervision tree of the process, as one function that reads like the drawing in ARCHITECTURE.md.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use super::{
    admin::{
        AdminAddrs, AdminServers,
        actors::{of_tree, quarantined},
        chaos::Chaos,
        console::{Console, provider, version},
        crashes,
        readiness::{DNS_PROXY, PROXY, Readiness},
    },
    control::{
        certs::{CaIssuer, Certs, CertsConfig},
        grpc::{AuthHeaders, GrpcError, GrpcTarget},
        mesh::MeshTables,
        xds::{Bounds, Xds, XdsMetrics, XdsSettings},
        zds::Zds,
    },
    health::{Health, HealthSources},
    pods::{Pods, node::Node, unhealthy::UnhealthyPods},
    quarantine::Quarantine,
    telemetry::{Outages, count_event, of_actors, panics},
};
use crate::{
    dataplane::{
        config::DataPlaneConfig, dns_config::DnsProxyConfig, mesh_view::MeshView, on_demand::OnDemand,
        outbound_context::NextHops, pod_directory::PodDirectory, resolver::Resolver,
    },
    protocols::{
        config::{Config, ProxyMode, Upstream},
        mesh::{LocalNode, Mesh, WorkloadInfo},
        xds::{self, XdsState, backoff},
    },
    runtime::shard::Shards,
    supervisor::{Event, Intensity, StartError, Strategy, SupervisorSpec, Tree, TreeHandle},
    sys::{netns::NetNs, socket::wildcard},
    telemetry::{
        log::Logging,
        metrics::{Metrics, MetricsError, Termination},
        shards, state_gauge,
        trace::span::trace_of,
    },
};

/// The whole tree may take so long to stop; connections have been drained before.
/// Limit: stop of the whole tree: 6 s; past it: what is left is killed.
const TREE_STOP_WITHIN: Duration = Duration::from_secs(6);

/// How long the data plane may take to stop after its connections have ended.
/// Limit: stop of the data plane's supervisor: 3 s; past it: what is left is killed.
const DATA_PLANE_STOP_WITHIN: Duration = Duration::from_secs(3);

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
    /// The hand-over, which can demand that the process exits.
    pub zds: Zds,
    /// Somebody asked for the shutdown on the admin port.
    pub quit: mpsc::Receiver<()>,
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
    /// A setting that is part of the contract and not of this version.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// The parts, and how they know each other. Nothing runs yet.
struct Parts {
    metrics: Arc<Metrics>,
    certs: Certs,
    tables: MeshTables,
    xds: Option<Xds>,
    shards: Shards,
    pods: Pods,
    zds: Zds,
    health: Health,
    admin: AdminServers,
}

/// What the admin port reaches of the running tree.
#[derive(Clone)]
struct TreeAccess {
    /// A message asks the process to end.
    quit: mpsc::Sender<()>,
    /// Set once the tree has started.
    handle: Arc<OnceLock<TreeHandle>>,
}

/// Refuses settings that ask for what this version does not do, rather than to do something else in silence.
fn check(config: &Config) -> Result<(), BootError> {
    let unsupported = if config.control.xds.local.is_some() {
        "LOCAL_XDS and LOCAL_XDS_PATH are not supported by this version"
    } else if config.node.mode != ProxyMode::Shared {
        "PROXY_MODE=dedicated is not supported by this version"
    } else {
        return Ok(());
    };
    Err(BootError::Unsupported(unsupported))
}

/// Starts the proxy on the current runtime.
///
/// # Errors
/// See [`BootError`]; what was started has been stopped again.
pub async fn boot(config: &Config, logging: &Logging) -> Result<Proxy, BootError> {
    check(config)?;
    let (ask, quit) = mpsc::channel(1);
    let access = TreeAccess { quit: ask, handle: Arc::default() };
    let readiness = Readiness::new();
    let wired = readiness.register(PROXY);
    let names = config.dns.enabled.then(|| readiness.register(DNS_PROXY));
    let parts = parts(config, logging, &readiness, access.clone())?;
    let (metrics, outages, pods) = (parts.metrics.clone(), Outages::default(), parts.pods.clone());
    let on_event = move |event: &Event| {
        count_event(&metrics.actors, event.kind_label, &event.kind);
        outages.observe(event);
        pods.heard(event);
    };
    let tree = Tree::start_observed(root(&parts, logging), Arc::new(on_event), trace_of).await?.watched();
    // Set once: nobody else has the cell.
    let _ = access.handle.set(tree.handle());
    if let Some(own) = own_pod(config) {
        parts.pods.start_own(own).await?;
    }
    wired.done();
    if let Some(names) = names {
        names.done();
    }
    Ok(Proxy { tree, pods: parts.pods, zds: parts.zds, quit })
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
    SupervisorSpec::new("root", Strategy::OneForOne)
        .intensity(PART_RESTARTS)
        .stop_within(TREE_STOP_WITHIN)
        .child(super::telemetry::child(&parts.metrics, &logging.queue()))
        .supervisor(parts.admin.supervisor().intensity(PART_RESTARTS).child(parts.health.child()))
        .child(parts.certs.child())
        .supervisor(meshsup)
        .supervisor(shards)
        .supervisor(
            // Giving up would cut every connection of the node, for a hand-over that only new pods need.
            SupervisorSpec::new("dataplane", Strategy::RestForOne)
                .intensity(Intensity { restarts: 60, within: Duration::from_secs(60) })
                .stop_within(DATA_PLANE_STOP_WITHIN)
                .dynamic(parts.pods.spec())
                .child(parts.zds.child(parts.pods.clone()))
                // After the others, so that the loss of these restarts nobody but the audit.
                .child(parts.pods.policy())
                .child(parts.pods.audit()),
        )
}

fn parts(
    config: &Config,
    logging: &Logging,
    readiness: &Readiness,
    access: TreeAccess,
) -> Result<Parts, BootError> {
    let metrics = Metrics::new(&config.node.istio_version)?;
    if let Some(export) = logging.export() {
        export.attach(&metrics)?;
    }
    panics::install(metrics.clone());
    metrics.register(of_actors(access.handle.clone())?)?;
    let tree = access.handle.clone();
    let aside = move || tree.get().map(TreeHandle::quarantined_by_kind).unwrap_or_default();
    metrics.register(state_gauge::of_quarantined_actors(aside)?)?;
    let mesh = Mesh::new(LocalNode {
        network: config.node.network.clone(),
        node: config.node.node_name.clone(),
        cluster_domain: config.node.cluster_domain.clone(),
    });
    let quarantine = Quarantine::default();
    let certs = certs(config, quarantine.clone())?;
    let tables = MeshTables::new(mesh.clone(), certs.clone(), quarantine.clone());
    let xds = xds(config, &metrics)?;
    let shards = Shards::new(config.process.shards.count);
    metrics.register(shards::of_shards(shards.clone())?)?;
    let home = NetNs::current().map_err(BootError::Namespace)?;
    let hops = NextHops {
        directory: PodDirectory::default(),
        certs: Arc::new(certs.clone()),
        resolver: Resolver::new(home.clone()),
    };
    let mut view = MeshView::new(mesh, tables.changed());
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
        config: Arc::new(DataPlaneConfig::new(config, DnsProxyConfig::read(config))),
    });
    let (gate, open) = watch::channel(false);
    let zds = Zds::new(PathBuf::from(&config.inpod.uds), open);
    let sources = HealthSources {
        xds: xds.as_ref().map(Xds::state),
        zds: zds.status(),
        unhealthy: &node.unhealthy,
        quarantine: &quarantine,
    };
    let health = Health::new(sources, gate, readiness, &metrics);
    let console = console(config, logging, &quarantine, access);
    let admin = AdminServers::new(admin_addrs(config), readiness, &metrics, console);
    let pods = Pods::new(node);
    count(&metrics, &certs, &pods, &zds)?;
    Ok(Parts { metrics, certs, tables, xds, shards, pods, zds, health, admin })
}

/// Has certificates and pods counted by their states.
fn count(metrics: &Metrics, certs: &Certs, pods: &Pods, zds: &Zds) -> Result<(), BootError> {
    let certs = certs.clone();
    metrics.register(state_gauge::of_certificates(move || certs.by_state())?)?;
    let (pods, hand_over) = (pods.clone(), zds.status());
    metrics
        .register(state_gauge::of_pods(move || pods.by_state(hand_over.borrow().session.counts.pending))?)?;
    Ok(())
}

fn certs(config: &Config, quarantine: Quarantine) -> Result<Certs, BootError> {
    let Some(upstream) = &config.control.ca.upstream else {
        return Err(BootError::Unsupported("FAKE_CA is for tests of the incumbent: give CA_ADDRESS"));
    };
    let target = GrpcTarget::new(upstream, &config.tunnel.tls);
    let issuer = CaIssuer::new(target, headers(config, upstream)?, true);
    let certs = CertsConfig::new(config.control.ca.secret_ttl, config.tunnel.tls.clone());
    Ok(Certs::new(certs, Arc::new(issuer), quarantine))
}

fn xds(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Xds>, BootError> {
    let Some(upstream) = &config.control.xds.upstream else { return Ok(None) };
    let wanted = XdsSettings {
        target: GrpcTarget::new(upstream, &config.tunnel.tls),
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

fn console(
    config: &Config,
    logging: &Logging,
    quarantine: &Quarantine,
    TreeAccess { quit, handle }: TreeAccess,
) -> Console {
    let shown = serde_json::json!({ "version": version(&config.node.istio_version) });
    Console {
        log: logging.handle(),
        config_dump: provider(move || std::future::ready(Ok(shown.clone()))),
        actors: of_tree(handle.clone()),
        crashes: crashes::of_tree(handle.clone()),
        quarantine: quarantined(quarantine.clone(), handle.clone()),
        chaos: Chaos::new(config.process.chaos.enabled, handle),
        // Asked twice is asked once.
        quit: Arc::new(move || {
            let _ = quit.try_send(());
        }),
    }
}

fn admin_addrs(config: &Config) -> AdminAddrs {
    let (ports, ipv6) = (&config.process.admin, config.listen.ipv6_enabled);
    let mut console = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, ports.admin_port))];
    if ipv6 {
        console.push(SocketAddr::from((Ipv6Addr::LOCALHOST, ports.admin_port)));
    }
    AdminAddrs {
        readiness: vec![wildcard(ipv6, ports.readiness_port)],
        stats: vec![wildcard(ipv6, ports.stats_port)],
        console,
    }
}

/// The proxy's own pod, if it is told which one it is.
fn own_pod(config: &Config) -> Option<WorkloadInfo> {
    let own = &config.node;
    Some(WorkloadInfo {
        name: own.pod_name.clone()?,
        namespace: own.pod_namespace.clone()?,
        service_account: own.service_account.clone()?,
    })
}

/// Counts what the discovery stream reports.
struct XdsCounter(Arc<Metrics>);

impl XdsMetrics for XdsCounter {
    fn message(&self, type_url: &str, bytes: usize) {
        self.0.xds.message(type_url, bytes as u64);
    }

    fn rejected(&self, type_url: &str, resources: usize) {
        self.0.xds.rejected(type_url, resources as u64);
    }

    fn terminated(&self, reason: backoff::Termination) {
        self.0.xds.terminated(match reason {
            backoff::Termination::ConnectionError => Termination::ConnectionError,
            backoff::Termination::Error => Termination::Error,
            backoff::Termination::Reconnect => Termination::Reconnect,
            backoff::Termination::Complete => Termination::Complete,
        });
    }
}

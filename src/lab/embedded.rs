//! The lab's own control plane and CNI as services of a testbed, each on its own thread in its host.

use std::{
    collections::BTreeMap,
    error::Error,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch};

use super::{
    apps::{Background, background},
    cni::{Cni, CniError, CniPod},
    control::{self, ControlPlane, Source, ca::CaOptions, mesh_file::Mesh},
    gateway::{self, GatewayPlan},
    hosts::Host,
    net::Namespace,
    testbed::{Access, Options, ServiceError, Services, Testbed, TestbedError},
    topology::{PodPlan, Topology},
};
use crate::protocols::zds::PodInfo;

/// The port that the control plane listens on (docs/spec/controlplane.md 2.1).
const CONTROL_PORT: u16 = 15012;
/// The token of the proxies; the lab's control plane accepts any token.
const TOKEN: &str = "lab-token";

/// The control plane and the CNIs of a mesh.
#[derive(Debug)]
pub struct Embedded {
    mesh: Mesh,
    ca: CaOptions,
    bulk: u32,
    frozen: watch::Sender<bool>,
    cnis: BTreeMap<String, Running<Cni>>,
    control: Option<Running<ControlPlane>>,
}

/// A service, and the thread whose runtime runs it; the fields are dropped in this order.
struct Running<T> {
    service: Arc<T>,
    runtime: Handle,
    _thread: Background<()>,
}

// === impl Embedded ===

impl Embedded {
    /// The services of `mesh`, not started yet.
    pub fn new(mesh: Mesh) -> Self {
        let frozen = watch::Sender::new(false);
        Self { mesh, ca: CaOptions::default(), bulk: 0, frozen, cnis: BTreeMap::new(), control: None }
    }

    /// Replaces the usual options of certificates.
    pub fn ca(mut self, ca: CaOptions) -> Self {
        self.ca = ca;
        self
    }

    /// Adds workloads that nobody can reach, which show the cost of size.
    pub fn bulk(mut self, count: u32) -> Self {
        self.bulk = count;
        self
    }

    /// Freezes all gateways as SIGSTOP would, or lets them go on.
    pub fn freeze_gateways(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// The running control plane.
    pub fn control(&self) -> Result<&Arc<ControlPlane>, ServiceError> {
        Ok(&self.running()?.service)
    }

    /// The running CNI of a node.
    pub fn cni(&self, node: &str) -> Result<&Arc<Cni>, ServiceError> {
        Ok(&self.cni_of(node)?.service)
    }

    /// Waits until every connected proxy has answered the current mesh. This function must not be called from within
    /// a runtime.
    pub fn settle(&self, limit: Duration) -> Result<(), ServiceError> {
        let Running { service, runtime, .. } = self.running()?;
        let settled = runtime.block_on(service.settled(limit));
        settled.map_err(|error| ServiceError::new("the mesh does not settle", error))
    }

    /// Makes the control plane serve `mesh` from now on.
    pub fn update(&mut self, mesh: Mesh) -> Result<(), ServiceError> {
        self.control()?.update(mesh.clone());
        self.mesh = mesh;
        Ok(())
    }

    fn running(&self) -> Result<&Running<ControlPlane>, ServiceError> {
        let missing = || ServiceError::new("the control plane", "it has not been started");
        self.control.as_ref().ok_or_else(missing)
    }

    fn cni_of(&self, node: &str) -> Result<&Running<Cni>, ServiceError> {
        let missing = || ServiceError::new(format!("the CNI of node {node}"), "it has not been started");
        self.cnis.get(node).ok_or_else(missing)
    }
}

impl Services for Embedded {
    fn start_control(&mut self, host: &Host, directory: &Path) -> Result<Access, ServiceError> {
        let what = "cannot start the control plane";
        let missing = || ServiceError::new(what, "its host has no address");
        let ip = host.ips().first().copied().ok_or_else(missing)?;
        let token = directory.join("token");
        write_private(&token, TOKEN).map_err(|error| ServiceError::new(what, error))?;
        let options = control::Options {
            listen: SocketAddr::new(ip, CONTROL_PORT),
            state_dir: directory.to_owned(),
            mesh: Source::Given(Box::new(self.mesh.clone())),
            ca: self.ca,
            bulk: self.bulk,
        };
        let running = start(host.namespace(), what, move || ControlPlane::start(options))?;
        let (address, root_cert) = (running.service.addr(), running.service.root_pem_path().to_owned());
        self.control = Some(running);
        Ok(Access { address, root_cert, token })
    }

    fn start_cni(&mut self, node: &Host, socket: &Path) -> Result<(), ServiceError> {
        let what = format!("cannot start the CNI of node {}", node.name());
        let socket: PathBuf = socket.to_owned();
        let running = start(node.namespace(), &what, move || Cni::start(&socket))?;
        self.cnis.insert(node.name().to_owned(), running);
        Ok(())
    }

    fn add_pod(&mut self, pod: &PodPlan, host: &Host) -> Result<(), ServiceError> {
        let what = || format!("the proxy of node {} does not take pod {}", pod.node, pod.host.name);
        let netns = host.namespace().fd().try_clone_to_owned();
        let netns = netns.map_err(|error| ServiceError::new(what(), error))?;
        let info = PodInfo {
            name: pod.name.as_str().into(),
            namespace: pod.namespace.as_str().into(),
            service_account: pod.service_account.as_str().into(),
        };
        let asked = CniPod { uid: pod.uid.clone(), info, netns: Some(Arc::new(netns)) };
        let Running { service, runtime, .. } = self.cni_of(&pod.node)?;
        match runtime.block_on(service.add(asked)) {
            // The next proxy that connects receives the pod in its snapshot.
            Ok(()) | Err(CniError::NoProxy) => Ok(()),
            Err(error) => Err(ServiceError::new(what(), error)),
        }
    }

    fn start_gateway(&mut self, host: &Host, port: u16) -> Result<Background<u64>, ServiceError> {
        let control = self.control()?;
        let plan = GatewayPlan {
            pod: host.name().to_owned(),
            port,
            authority: control.authority().clone(),
            mesh: control.mesh(),
            frozen: self.frozen.subscribe(),
        };
        let what = || format!("cannot start the gateway on {}", host.name());
        gateway::serve(host.namespace(), plan).map_err(|error| ServiceError::new(what(), error))
    }

    fn remove_pod(&mut self, pod: &PodPlan) -> Result<(), ServiceError> {
        let Running { service, runtime, .. } = self.cni_of(&pod.node)?;
        let what = || format!("the proxy of node {} does not let go of pod {}", pod.node, pod.host.name);
        runtime.block_on(service.del(&pod.uid)).map_err(|error| ServiceError::new(what(), error))
    }
}

// === impl Testbed ===

impl Testbed<Embedded> {
    /// Raises `mesh` with the lab's own control plane and CNIs, and with the proxies of [`Options::proxy`]. `dns`
    /// redirects the pods' DNS too.
    pub fn up(mesh: Mesh, dns: bool, options: Options) -> Result<Self, TestbedError> {
        let topology = Topology::of(&mesh, dns)?;
        Self::raise(topology, Embedded::new(mesh), options)
    }

    /// Replaces the pods, the outside hosts and the served mesh by those of `mesh`. Returns the hosts that were ended
    /// and added.
    pub fn update(&mut self, mesh: Mesh, dns: bool) -> Result<Vec<String>, TestbedError> {
        let changed = self.apply(&Topology::of(&mesh, dns)?)?;
        self.services().update(mesh)?;
        Ok(changed)
    }

    /// Kills the proxy of `node` and starts another one with the same settings.
    pub fn restart_proxy(&mut self, node: &str) -> Result<(), TestbedError> {
        drop(self.take_proxy(node)?);
        self.start_proxies()
    }
}

impl<T> std::fmt::Debug for Running<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

/// Runs `make` on its own runtime in `namespace`, and returns the value of `make`. Tasks of the value go on in that
/// runtime.
fn start<T, E>(
    namespace: &Namespace,
    what: &str,
    make: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<Running<T>, ServiceError>
where
    T: Send + Sync + 'static,
    E: Error + Send + Sync + 'static,
{
    let (made, result) = mpsc::sync_channel(1);
    let app = move |mut stop: crate::lab::apps::Stop| async move {
        let service = make().map(|service| (service, Handle::current()));
        let failed = service.is_err();
        // The receiver waits for exactly this result.
        if made.send(service).is_ok() && !failed {
            stop.stopped().await;
        }
    };
    let thread = background(namespace, app).map_err(|error| ServiceError::new(what, error))?;
    let ended = |_| ServiceError::new(what, "its thread has ended");
    let (service, runtime) = result.recv().map_err(ended)?.map_err(|error| ServiceError::new(what, error))?;
    Ok(Running { service: Arc::new(service), runtime, _thread: thread })
}

/// Writes a file that only this user can read.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

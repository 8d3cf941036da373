//! The lab's control plane: discovery and certificates over TLS, fed from a mesh file that may be edited live.
//!
//! The control plane serves the requests that a node proxy sends to a real one (docs/spec/controlplane.md 2 and 3).
//! It records how its clients answered, and it can be told to misbehave.

pub mod ca;
mod hash;
pub mod mesh_file;
pub mod resources;
mod serve;
#[cfg(test)]
mod tests;
pub(crate) mod xds;

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use self::{
    ca::{Authority, CaError, CaFault, CaOptions, CertificateService},
    mesh_file::{Mesh, MeshFileError},
    resources::{ResourceFault, Resources},
    serve::Connections,
    xds::{Discovery, Seen, Snapshot},
};
use crate::{
    protocols::pb::{
        ads::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
        ca::istio_certificate_service_server::IstioCertificateServiceServer,
    },
    supervisor::OwnedTask,
};

/// The file in the state directory that holds the root certificate.
pub const ROOT_FILE: &str = "root-cert.pem";
/// The name under which clients know the control plane.
pub const HOSTNAME: &str = "istiod.istio-system.svc";

/// How often the control plane checks the mesh file.
const POLL: Duration = Duration::from_millis(100);
/// The largest message of a client: after a reconnect it lists the versions that the client holds.
const REQUEST_BYTES: usize = 200 * 1024 * 1024;

/// The source of the mesh.
#[derive(Clone, Debug)]
pub enum Source {
    /// A mesh file, which is read again whenever it changes.
    File(PathBuf),
    /// The program gives the mesh, and changes it with [`ControlPlane::update`].
    Given(Box<Mesh>),
}

/// The options of a control plane.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen on; port 0 chooses a free port.
    pub listen: SocketAddr,
    /// The directory for [`ROOT_FILE`]; created if it is missing.
    pub state_dir: PathBuf,
    /// The source of the mesh.
    pub mesh: Source,
    /// How certificates are made.
    pub ca: CaOptions,
    /// The number of extra workloads that nobody can reach, which show the cost of size.
    pub bulk: u32,
}

/// The error of a control plane that could not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The mesh file cannot be read or is wrong.
    #[error(transparent)]
    Mesh(#[from] MeshFileError),
    /// The certificate authority cannot be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The control plane cannot listen on the address.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The error of the listener.
        error: io::Error,
    },
    /// The root certificate cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// The error of the write.
        error: io::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// The error of a wait for clients that took too long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not every client has answered the newest state of the mesh within {0:?}: {1}")]
pub struct NotSettled(pub Duration, pub String);

/// The switches that make the control plane misbehave. A clone is cheap.
#[derive(Clone)]
pub struct Faults {
    ca: watch::Sender<CaFault>,
    mute: watch::Sender<bool>,
    connections: Connections,
}

/// A running control plane. Dropping it cuts all its connections.
pub struct ControlPlane {
    addr: SocketAddr,
    root_pem: PathBuf,
    authority: Arc<Authority>,
    mesh: Arc<MeshState>,
    seen: Arc<watch::Sender<Seen>>,
    faults: Faults,
    _tasks: Vec<OwnedTask>,
}

/// The mesh, and the resources made of it.
struct MeshState {
    mesh: watch::Sender<Arc<Mesh>>,
    snapshot: watch::Sender<Snapshot>,
    error: watch::Sender<Option<String>>,
    faulty: Mutex<BTreeMap<String, ResourceFault>>,
    bulk: AtomicU32,
}

// === impl Options ===

impl Options {
    /// Options for 127.0.0.1 and any port, with certificates that live as long as requested.
    pub fn local(state_dir: impl Into<PathBuf>, mesh: Source) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            state_dir: state_dir.into(),
            mesh,
            ca: CaOptions::default(),
            bulk: 0,
        }
    }
}

// === impl ControlPlane ===

impl ControlPlane {
    /// Starts a control plane on the current tokio runtime, listening in the network namespace of the calling thread.
    ///
    /// # Errors
    /// See [`ControlError`]. A mesh file that is wrong at the start is an error. A mesh file that turns wrong later
    /// is logged, and the last good mesh stays.
    pub fn start(options: Options) -> Result<Self, ControlError> {
        let Options { listen, state_dir, mesh, ca, bulk } = options;
        let mut tasks = Vec::new();
        let (first, file) = match mesh {
            // The file's stamp is taken before the file is read, so that no change in between is missed.
            Source::File(path) => {
                let stamp = stamp(&path);
                (Mesh::read(&path)?, Some((path, stamp)))
            }
            Source::Given(mesh) => (*mesh, None),
        };
        let mesh = Arc::new(MeshState {
            mesh: watch::Sender::new(Arc::default()),
            snapshot: watch::Sender::new(Snapshot::default()),
            error: watch::Sender::new(None),
            faulty: Mutex::default(),
            bulk: AtomicU32::new(bulk),
        });
        mesh.update(first);
        if let Some((path, stamp)) = file {
            tasks.push(OwnedTask::spawn("lab/control/mesh-file", follow(mesh.clone(), path, stamp), |_| {}));
        }

        let authority = Arc::new(Authority::new(ca)?);
        let root_pem = state_dir.join(ROOT_FILE);
        fs::create_dir_all(&state_dir)
            .and_then(|()| fs::write(&root_pem, authority.root_pem()))
            .map_err(|error| ControlError::State { path: root_pem.clone(), error })?;

        let failed = |error| ControlError::Listen { addr: listen, error };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;

        let faults = Faults {
            ca: watch::Sender::new(CaFault::None),
            mute: watch::Sender::new(false),
            connections: Connections::default(),
        };
        let seen = Arc::new(watch::Sender::new(Seen::default()));
        let discovery = Discovery {
            snapshot: mesh.snapshot.subscribe(),
            mute: faults.mute.subscribe(),
            seen: seen.clone(),
        };
        let certificates = CertificateService { authority: authority.clone(), fault: faults.ca.subscribe() };
        let (out, incoming) = mpsc::channel(16);
        let accept = serve::accept(listener, tls(&authority, addr.ip())?, faults.connections.clone(), out);
        tasks.push(OwnedTask::spawn("lab/control/accept", accept, |_| {}));
        let server = tonic::transport::Server::builder()
            .add_service(
                AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(REQUEST_BYTES),
            )
            .add_service(IstioCertificateServiceServer::new(certificates))
            .serve_with_incoming(ReceiverStream::new(incoming));
        let serve = async move {
            if let Err(error) = server.await {
                tracing::error!("the control plane stopped: {error}");
            }
        };
        tasks.push(OwnedTask::spawn("lab/control/serve", serve, |_| {}));
        tracing::info!(%addr, "control plane listening");
        Ok(Self { addr, root_pem, authority, mesh, seen, faults, _tasks: tasks })
    }

    /// The address that the control plane listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The file that holds the root certificate.
    pub fn root_pem_path(&self) -> &Path {
        &self.root_pem
    }

    /// The certificate authority.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The switches that make the control plane misbehave.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The current mesh, and its changes.
    pub fn mesh(&self) -> watch::Receiver<Arc<Mesh>> {
        self.mesh.mesh.subscribe()
    }

    /// The current error of the mesh file, if there is one.
    pub fn mesh_error(&self) -> watch::Receiver<Option<String>> {
        self.mesh.error.subscribe()
    }

    /// Replaces the mesh; clients receive the differences. A later change of the mesh file replaces the mesh again.
    pub fn update(&self, mesh: Mesh) {
        self.mesh.update(mesh);
    }

    /// Sets the number of extra workloads that nobody can reach.
    pub fn set_bulk(&self, count: u32) {
        self.mesh.bulk.store(count, Ordering::Relaxed);
        let mesh = self.mesh.mesh.borrow().clone();
        self.mesh.serve(&mesh);
    }

    /// Serves the resource of that name (a workload's uid, else `namespace/name`) wrongly from now on, even if the
    /// resource comes later. `None` ends the fault.
    pub fn inject(&self, name: &str, how: Option<ResourceFault>) {
        match how {
            Some(how) => drop(self.mesh.faulty.lock().insert(name.to_owned(), how)),
            None => drop(self.mesh.faulty.lock().remove(name)),
        }
        let mesh = self.mesh.mesh.borrow().clone();
        self.mesh.serve(&mesh);
    }

    /// The current clients, acknowledgements and refusals, and their changes.
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Waits until there is a client, and every client has received and answered the current mesh. A refusal is an
    /// answer too.
    ///
    /// # Errors
    /// The wait took longer than `limit`.
    pub async fn settled(&self, limit: Duration) -> Result<(), NotSettled> {
        let generation = self.mesh.snapshot.borrow().generation;
        let mut seen = self.seen.subscribe();
        let settled =
            tokio::time::timeout(limit, seen.wait_for(|seen| seen.settled(generation))).await.is_ok();
        if settled {
            return Ok(());
        }
        let clients: Vec<String> = self.seen.borrow().clients().map(|client| format!("{client:?}")).collect();
        Err(NotSettled(
            limit,
            if clients.is_empty() { "there is no client".into() } else { clients.join(", ") },
        ))
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.faults.cut_connections();
    }
}

// === impl MeshState ===

impl MeshState {
    fn update(&self, mesh: Mesh) {
        self.serve(&mesh);
        self.mesh.send_replace(Arc::new(mesh));
        self.error.send_replace(None);
    }

    fn serve(&self, mesh: &Mesh) {
        let mut resources = Resources::of(mesh);
        resources.add_bulk(self.bulk.load(Ordering::Relaxed));
        for (name, how) in &*self.faulty.lock() {
            resources.inject(name, how);
        }
        self.snapshot.send_modify(|snapshot| {
            snapshot.generation += 1;
            snapshot.resources = Arc::new(resources);
        });
    }
}

// === impl Faults ===

impl Faults {
    /// Makes the authority misbehave, or behave well again, from the next request on.
    pub fn ca(&self, fault: CaFault) {
        self.ca.send_replace(fault);
    }

    /// Mutes discovery streams, or ends that. A muted stream stays open without reading or sending anything.
    pub fn mute_discovery(&self, mute: bool) {
        self.mute.send_replace(mute);
    }

    /// Cuts every connection; new connections are accepted.
    pub fn cut_connections(&self) {
        self.connections.cut_all();
    }
}

/// The time of a file's last change, and the file's length; none if the file is missing.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// Reads the mesh file again each time it changes.
async fn follow(mesh: Arc<MeshState>, path: PathBuf, mut last: Option<(SystemTime, u64)>) {
    loop {
        tokio::time::sleep(POLL).await;
        let now = stamp(&path);
        if now == last || now.is_none() {
            continue;
        }
        last = now;
        match Mesh::read(&path) {
            Ok(new) => {
                tracing::info!(path = %path.display(), "mesh file taken in");
                mesh.update(new);
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), "mesh file not taken in, the mesh stays as it was: {error}");
                mesh.error.send_replace(Some(error.to_string()));
            }
        }
    }
}

fn tls(authority: &Authority, ip: IpAddr) -> Result<tokio_rustls::TlsAcceptor, ControlError> {
    let names = [HOSTNAME.to_owned(), "localhost".to_owned()];
    let mut ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), mesh_file::CONTROL_IP];
    if !ips.contains(&ip) && !ip.is_unspecified() {
        ips.push(ip);
    }
    let (chain, key) = authority.server_certificate(&names, &ips)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config).into())
}

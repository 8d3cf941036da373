//! The lab's control plane: discovery and certificates over TLS, fed from a mesh file that may be edited live.
//!
//! It serves what a node proxy asks a real one for (docs/spec/controlplane.md 2 and 3), tells what its clients
//! made of it, and can be told to misbehave.

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
/// The name clients know the control plane by.
pub const HOSTNAME: &str = "istiod.istio-system.svc";

/// How often the mesh file is looked at.
const POLL: Duration = Duration::from_millis(100);
/// What a client may send in one message: the versions it holds, after a reconnect.
const REQUEST_BYTES: usize = 200 * 1024 * 1024;

/// Where the mesh comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A mesh file, read again whenever it changes.
    File(PathBuf),
    /// The program, by [`ControlPlane::update`].
    Given(Box<Mesh>),
}

/// How to run a control plane.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 chooses one.
    pub listen: SocketAddr,
    /// A directory for [`ROOT_FILE`]; made if it is not there.
    pub state_dir: PathBuf,
    /// The mesh.
    pub mesh: Source,
    /// How certificates are made.
    pub ca: CaOptions,
    /// Workloads nobody can reach, added to see what size costs.
    pub bulk: u32,
}

/// Why no control plane runs.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The mesh file cannot be read or is wrong.
    #[error(transparent)]
    Mesh(#[from] MeshFileError),
    /// The authority cannot be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The root certificate cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Waiting for clients took too long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not every client has answered the newest state of the mesh within {0:?}: {1}")]
pub struct NotSettled(pub Duration, pub String);

/// Ways to misbehave. Cheap to clone.
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

/// The mesh and what is made of it.
struct MeshState {
    mesh: watch::Sender<Arc<Mesh>>,
    snapshot: watch::Sender<Snapshot>,
    error: watch::Sender<Option<String>>,
    faulty: Mutex<BTreeMap<String, ResourceFault>>,
    bulk: AtomicU32,
}

// === impl Options ===

impl Options {
    /// On 127.0.0.1 and any port, with certificates as long as asked for.
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
    /// Starts one on the current tokio runtime, listening in the network namespace of the calling thread.
    ///
    /// # Errors
    /// See [`ControlError`]. A mesh file that is wrong at the start is an error; one that turns wrong later is logged,
    /// and the last good mesh stays.
    pub fn start(options: Options) -> Result<Self, ControlError> {
        let Options { listen, state_dir, mesh, ca, bulk } = options;
        let mut tasks = Vec::new();
        let (first, file) = match mesh {
            // Looked at before it is read, so that a change in between is not missed.
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

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The file that holds the root certificate.
    pub fn root_pem_path(&self) -> &Path {
        &self.root_pem
    }

    /// The authority.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Ways to misbehave.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The mesh, now and as it changes.
    pub fn mesh(&self) -> watch::Receiver<Arc<Mesh>> {
        self.mesh.mesh.subscribe()
    }

    /// What is wrong with the mesh file as it stands, if anything.
    pub fn mesh_error(&self) -> watch::Receiver<Option<String>> {
        self.mesh.error.subscribe()
    }

    /// Replaces the mesh; clients are sent what differs. A mesh file that changes later replaces it again.
    pub fn update(&self, mesh: Mesh) {
        self.mesh.update(mesh);
    }

    /// Adds as many workloads nobody can reach, instead of those there are.
    pub fn set_bulk(&self, count: u32) {
        self.mesh.bulk.store(count, Ordering::Relaxed);
        let mesh = self.mesh.mesh.borrow().clone();
        self.mesh.serve(&mesh);
    }

    /// Serves the resource of that name (a workload's uid, else `namespace/name`) wrongly from now on, whether it
    /// is there already or comes later, or with `None` rightly again.
    pub fn inject(&self, name: &str, how: Option<ResourceFault>) {
        match how {
            Some(how) => drop(self.mesh.faulty.lock().insert(name.to_owned(), how)),
            None => drop(self.mesh.faulty.lock().remove(name)),
        }
        let mesh = self.mesh.mesh.borrow().clone();
        self.mesh.serve(&mesh);
    }

    /// Clients, acknowledgements and refusals, now and as they change.
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Waits until there is a client and all of them have been sent, and have answered, the mesh as it is now. An
    /// answer may be a refusal.
    ///
    /// # Errors
    /// It took longer than `limit`.
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
    /// Makes the authority misbehave, or behave again, from the next request on.
    pub fn ca(&self, fault: CaFault) {
        self.ca.send_replace(fault);
    }

    /// Keeps discovery streams open without reading or sending anything, or resumes.
    pub fn mute_discovery(&self, mute: bool) {
        self.mute.send_replace(mute);
    }

    /// Cuts every connection; new ones are accepted.
    pub fn cut_connections(&self) {
        self.connections.cut_all();
    }
}

/// When a file was last changed, and how long it is; none if it is not there.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// Takes in the mesh file each time it changes.
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

//! An east-west gateway (docs/spec/dataplane.md 3.4). It ends the tunnels of proxies on other networks, and passes each
//! stream on, unread, to the proxy of an endpoint on its own network.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Request, StatusCode};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{error::Elapsed, timeout},
};

use super::{
    apps::{self, AppError, Background, Stop, background},
    control::{
        ca::Authority,
        mesh_file::{Mesh, Pod, Service, Status},
    },
    net::{Namespace, fabric::has_ipv6},
};
use crate::protocols::{
    addr::HboneAddr,
    ca::{chain::Chain, csr},
    config::{Http2Config, TlsConfig},
    hbone::{
        frames::Role,
        io::coalesced,
        server,
        side::{Received, StreamSide},
    },
    identity::Identity,
    relay::{Meter, relay, tcp::TcpSide},
    route::HBONE_PORT,
    tls::{WorkloadCert, buffer::Buffers, handshake},
};

/// How long a handshake or a connect may take.
const WITHIN: Duration = Duration::from_secs(5);
/// The validity of the gateway's certificate, longer than any lab.
const VALIDITY: Duration = Duration::from_hours(24);
/// How often a frozen gateway looks whether it goes on.
const LOOK: Duration = Duration::from_millis(10);

/// What a gateway needs of the lab.
#[derive(Clone)]
pub(super) struct GatewayPlan {
    /// The gateway's pod, as `namespace/name`.
    pub(super) pod: String,
    /// The port that the gateway listens on.
    pub(super) port: u16,
    /// The authority that issues the gateway's certificate.
    pub(super) authority: Arc<Authority>,
    /// The mesh, in which the gateway finds its own pod and the endpoints of services.
    pub(super) mesh: watch::Receiver<Arc<Mesh>>,
    /// Whether the gateway is frozen, as by SIGSTOP.
    pub(super) frozen: watch::Receiver<bool>,
}

/// A gateway that serves.
struct Gateway {
    pod: String,
    cert: WorkloadCert,
    mesh: watch::Receiver<Arc<Mesh>>,
    buffers: Buffers,
    /// The number of streams so far, by which endpoints take turns.
    streams: Cell<usize>,
}

/// Counts nothing.
struct Uncounted;

impl Meter for Uncounted {
    fn forward(&self, _: usize) {}
    fn backward(&self, _: usize) {}
}

/// Serves in `namespace` until the value is dropped. The result counts tunnels.
pub(super) fn serve(namespace: &Namespace, plan: GatewayPlan) -> Result<Background<u64>, AppError> {
    let any = if has_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let listener = apps::listen(namespace, any, plan.port)?;
    background(namespace, move |stop| async move {
        let mut waiting = stop.clone();
        let gateway = tokio::select! {
            gateway = Gateway::new(plan.clone()) => gateway,
            () = waiting.stopped() => None,
        };
        let Some(gateway) = gateway.map(Rc::new) else { return 0 };
        let serving = apps::accept_all(listener, stop.clone(), move |stream, _| {
            let gateway = gateway.clone();
            async move {
                // A client that goes away is no failure of the gateway.
                let _ = gateway.tunnel(stream).await;
            }
        });
        tokio::select! {
            tunnels = serving => tunnels,
            () = freeze(plan.frozen, stop) => 0,
        }
    })
}

/// Stops the whole thread while the gateway is frozen, so that only the kernel goes on. Never ends.
async fn freeze(mut frozen: watch::Receiver<bool>, stop: Stop) {
    while !stop.is_stopped() && frozen.wait_for(|frozen| *frozen).await.is_ok() {
        while *frozen.borrow() && !stop.is_stopped() {
            std::thread::park_timeout(LOOK);
        }
    }
    std::future::pending().await
}

// === impl Gateway ===

impl Gateway {
    /// Waits for the gateway's pod in the mesh, and has a certificate issued for the pod. `None` if the lab is gone or
    /// issues no certificate.
    async fn new(plan: GatewayPlan) -> Option<Self> {
        let GatewayPlan { pod, authority, mut mesh, .. } = plan;
        let of = |mesh: &Arc<Mesh>| mesh.pod(&pod).map(Pod::spiffe_id);
        let identity = mesh.wait_for(|mesh| of(mesh).is_some()).await.ok().and_then(|mesh| of(&mesh))?;
        match certificate(&authority, &identity) {
            Ok(cert) => Some(Self { pod, cert, mesh, buffers: Buffers::default(), streams: Cell::new(0) }),
            Err(error) => {
                tracing::error!(pod, "the gateway has no certificate: {error}");
                None
            }
        }
    }

    /// Serves one tunnel. `None` if its handshakes failed.
    async fn tunnel(self: Rc<Self>, stream: TcpStream) -> Option<()> {
        let shake = handshake::accept(self.cert.server_config(), stream, self.buffers.clone());
        let (stream, _) = timeout(WITHIN, shake).await.ok()?.ok()?;
        let (io, mut flush) = coalesced(stream, Role::Server);
        let config = Http2Config::default();
        let shake = flush.drive(Instant::now, server::handshake(io, &config));
        let mut connection = timeout(WITHIN, shake).await.ok()?.ok()?.ok()?;
        let mut streams = JoinSet::new();
        let work = async {
            loop {
                tokio::select! {
                    accepted = connection.accept() => match accepted {
                        Some(Ok((request, respond))) => {
                            streams.spawn_local(self.clone().stream(request, respond));
                        }
                        Some(Err(_)) | None => return,
                    },
                    Some(_) = streams.join_next(), if !streams.is_empty() => {}
                }
            }
        };
        flush.drive(Instant::now, work).await.ok()
    }

    async fn stream(self: Rc<Self>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let app = match server::parse(&request).map(|connect| connect.authority) {
            Ok(HboneAddr::Host(host, _)) => self.connect(&host).await,
            Ok(HboneAddr::Ip(_)) => Err(StatusCode::NOT_FOUND),
            Err(_) => Err(StatusCode::BAD_REQUEST),
        };
        let app = match app {
            Ok(app) => app,
            Err(status) => return server::refuse(&mut respond, status),
        };
        let Ok(send) = server::accept(&mut respond, None) else { return };
        let side = StreamSide::new(send, Received::new(request.into_body()));
        // Both ends see how the other one ends.
        let _ = relay(side, TcpSide::<()>::new(app), &Uncounted, &self.buffers).await;
    }

    async fn connect(&self, host: &str) -> Result<TcpStream, StatusCode> {
        let turn = self.streams.replace(self.streams.get().wrapping_add(1));
        let to = next_hop(&self.mesh.borrow(), &self.pod, host, turn)?;
        let connected: Result<_, Elapsed> = timeout(WITHIN, TcpStream::connect(to)).await;
        let stream = connected.ok().and_then(Result::ok).ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
        // A refusal of the option only makes the connection slower.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// The proxy that a stream to the service `host` goes to: that of the service's waypoint or of a ready endpoint, on the
/// network of `gateway`. Endpoints take turns.
fn next_hop(mesh: &Mesh, gateway: &str, host: &str, turn: usize) -> Result<SocketAddr, StatusCode> {
    let own = mesh.pod(gateway).ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
    let of_host = |host: &str| mesh.services.iter().find(|service| service.hostname == host);
    let asked = of_host(host).ok_or(StatusCode::NOT_FOUND)?;
    let waypoint = asked.waypoint.as_ref().map(|waypoint| mesh.pods_behind(waypoint));
    let pods = waypoint.unwrap_or_else(|| endpoints(mesh, asked));
    let here =
        |pod: &&Pod| pod.announce.network == own.announce.network && pod.announce.status == Status::Healthy;
    let addresses: Vec<IpAddr> =
        pods.into_iter().filter(here).filter_map(|pod| pod.ips.first().copied()).collect();
    let chosen = turn.checked_rem(addresses.len()).and_then(|at| addresses.get(at));
    chosen.map(|ip| SocketAddr::new(*ip, HBONE_PORT)).ok_or(StatusCode::SERVICE_UNAVAILABLE)
}

fn endpoints<'m>(mesh: &'m Mesh, service: &Service) -> Vec<&'m Pod> {
    service.endpoints.iter().filter_map(|index| mesh.pods.get(*index)).collect()
}

fn certificate(authority: &Authority, identity: &str) -> Result<WorkloadCert, Box<dyn std::error::Error>> {
    let identity: Identity = identity.parse()?;
    let request = csr::request(&identity)?;
    let pems = authority.sign(&request.pem, Some(identity.as_str()), VALIDITY)?;
    Ok(WorkloadCert::new(Chain::parse(&pems, Some(&identity))?, &request.key, &TlsConfig::default())?)
}

#[cfg(test)]
mod tests;

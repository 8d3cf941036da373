//! The connector of a tonic channel, which connects TCP and then TLS.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout_at},
};
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::{
    error::{GrpcError, Step},
    target::GrpcTarget,
    tls,
};

/// Limit: silence of the control plane's connection before TCP probes it: 300 s; past it: TCP probes the peer.
const GRPC_KEEPALIVE_IDLE: Duration = Duration::from_secs(300);
/// Limit: time between two TCP probes of the control plane's connection: 75 s; past it: TCP probes again.
const GRPC_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(75);
/// Limit: TCP probes without an answer: 9; past it: the connection ends.
const GRPC_KEEPALIVE_PROBES: u32 = 9;

/// A connector that connects to its target, whatever the URI. Each connection reads the roots again.
#[derive(Clone)]
pub(super) struct TlsConnector {
    target: Arc<GrpcTarget>,
}

// === impl TlsConnector ===

impl TlsConnector {
    pub(super) fn new(target: GrpcTarget) -> Self {
        Self { target: Arc::new(target) }
    }
}

impl Service<http::Uri> for TlsConnector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = GrpcError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, GrpcError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), GrpcError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let target = Arc::clone(&self.target);
        Box::pin(async move { open(&target, b"h2").await.map(TokioIo::new) })
    }
}

/// Connects to `target` and performs the TLS handshake with an offer of one protocol (RFC 7301).
pub(super) async fn open(target: &GrpcTarget, protocol: &[u8]) -> Result<TlsStream<TcpStream>, GrpcError> {
    let deadline = Instant::now() + target.connect_timeout;
    let late = |step| GrpcError::TimedOut { target: target.to_string(), step, after: target.connect_timeout };

    let mut config = timeout_at(deadline, tls::config(target)).await.map_err(|_| late(Step::Roots))??;
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = tls::server_name(&target.address.host)
        .map_err(|reason| GrpcError::LocalAddress { address: target.address.host.clone(), reason })?;
    let addrs = timeout_at(deadline, resolve(target)).await.map_err(|_| late(Step::Resolve))??;
    let tcp = dial(target, &addrs, deadline).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    match timeout_at(deadline, connector.connect(name, tcp)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e)) => Err(GrpcError::PeerTls {
            host: target.address.host.clone(),
            port: target.address.port,
            source: Arc::new(e),
        }),
        Err(_) => Err(late(Step::Tls)),
    }
}

async fn resolve(target: &GrpcTarget) -> Result<Vec<SocketAddr>, GrpcError> {
    let fail = |reason: String| GrpcError::Resolve { host: target.address.host.clone(), reason };
    let found = tokio::net::lookup_host((target.address.host.as_str(), target.address.port)).await;
    let addrs: Vec<_> = found.map_err(|e| fail(e.to_string()))?.collect();
    if addrs.is_empty() { Err(fail("the name has no address".into())) } else { Ok(addrs) }
}

/// Tries the addresses in turn. Each address gets a share of the remaining time, so a dead first address leaves time
/// for the others.
async fn dial(target: &GrpcTarget, addrs: &[SocketAddr], deadline: Instant) -> Result<TcpStream, GrpcError> {
    let mut last =
        GrpcError::TimedOut { target: target.to_string(), step: Step::Tcp, after: target.connect_timeout };
    for (i, addr) in addrs.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = u32::try_from(addrs.len().saturating_sub(i)).map_or(left, |n| left / n.max(1));
        match timeout_at(Instant::now() + share, connect(*addr, target.mark)).await {
            Ok(Ok(tcp)) => match prepare(&tcp) {
                Ok(()) => return Ok(tcp),
                Err(e) => last = tcp_error(target, *addr, e),
            },
            Ok(Err(e)) => last = tcp_error(target, *addr, e),
            Err(_) => {}
        }
    }
    Err(last)
}

async fn connect(addr: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let Some(mark) = mark else { return TcpStream::connect(addr).await };
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    SockRef::from(&socket).set_mark(mark)?;
    socket.connect(addr).await
}

fn tcp_error(target: &GrpcTarget, addr: SocketAddr, source: io::Error) -> GrpcError {
    GrpcError::Tcp { host: target.address.host.clone(), addr, source: Arc::new(source) }
}

fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(GRPC_KEEPALIVE_IDLE)
        .with_interval(GRPC_KEEPALIVE_INTERVAL)
        .with_retries(GRPC_KEEPALIVE_PROBES);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}

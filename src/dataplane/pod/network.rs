//! The network of a pod: connections that are made from inside its namespace.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use smallvec::SmallVec;
use socket2::Socket;
use tokio::{net::TcpStream, time::timeout};

use super::PodId;
use crate::{
    dataplane::{config::DataPlaneConfig, stream::AppStream},
    sys::{
        netns::NetNs,
        pacing::PathScope,
        socket::{self, Connect},
    },
};

/// Why nothing is connected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectFailed {
    /// Nobody listens, or the way is barred.
    #[error("{to}: {error}")]
    Refused {
        /// Where to.
        to: SocketAddr,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// No answer to TCP.
    #[error("{to}: no answer within {after:?}")]
    TimedOut {
        /// Where to.
        to: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
}

/// Where a pod's connections are made. Tests have one without a kernel.
pub(crate) trait Network: Send + Sync + 'static {
    /// A connection.
    type Stream: AppStream;

    /// Connects to `to`, which `scope` says where it is, from `source` or from an address that the kernel chooses.
    ///
    /// # Errors
    /// The namespace is gone, nobody listens, or nobody answers within the configured time.
    fn connect(
        &self,
        to: SocketAddr,
        source: Option<IpAddr>,
        scope: PathScope,
    ) -> impl Future<Output = Result<Self::Stream, ConnectFailed>>;

    /// The address to connect to the application from, so that it sees its client.
    fn source_towards(&self, client: IpAddr, to: IpAddr) -> Option<IpAddr>;

    /// Whether `ip` is an address of the pod. The answer is kept until `version` of the mesh tables changes.
    fn owns(&self, ip: IpAddr, version: u64) -> bool;
}

/// The network namespace of a pod.
#[derive(Debug)]
pub(crate) struct PodNetwork {
    /// The namespace.
    pub(crate) netns: NetNs,
    config: Arc<DataPlaneConfig>,
    /// `SO_MARK` of the pod's sockets.
    mark: Option<u32>,
    /// Sockets may have an address that is not the pod's.
    transparent: AtomicBool,
    /// Connections of the namespace are paced unless told otherwise.
    paced: AtomicBool,
    /// Addresses that the pod was found to have, and the version of the tables at that time.
    addresses: Mutex<(u64, SmallVec<[IpAddr; 2]>)>,
}

// === impl PodNetwork ===

impl PodNetwork {
    /// The network of the pod `id` in `netns`.
    pub(crate) fn new(id: &PodId, netns: NetNs, config: Arc<DataPlaneConfig>) -> Arc<Self> {
        let mark = config.inpod.packet_mark.filter(|_| !id.is_own);
        let (transparent, paced, addresses) =
            (AtomicBool::new(false), AtomicBool::new(false), Mutex::default());
        Arc::new(Self { netns, config, mark, transparent, paced, addresses })
    }

    /// `SO_MARK` of the pod's sockets.
    pub(crate) fn mark(&self) -> Option<u32> {
        self.mark
    }

    /// Takes note of what was found out when a listener was bound.
    pub(crate) fn found_out(&self, transparent: Option<bool>, paced: bool) {
        if let Some(transparent) = transparent {
            self.transparent.store(transparent, Ordering::Relaxed);
        }
        self.paced.store(paced, Ordering::Relaxed);
    }

    /// How connections within `scope` are kept from being paced; `None` if they are left as they are.
    pub(crate) fn unpaced(&self, scope: PathScope) -> Option<PathScope> {
        let wanted = scope == PathScope::Host || !self.config.socket.unpaced_rtt.is_zero();
        (wanted && self.paced.load(Ordering::Relaxed)).then_some(scope)
    }

    /// Paces an accepted connection if its client is far.
    pub(crate) fn settle_accepted(&self, stream: &impl AsFd) {
        if let Some(scope) = self.unpaced(PathScope::Network) {
            scope.settle(stream, self.config.socket.unpaced_rtt);
        }
    }
}

impl Network for PodNetwork {
    type Stream = TcpStream;

    async fn connect(
        &self,
        to: SocketAddr,
        source: Option<IpAddr>,
        scope: PathScope,
    ) -> Result<TcpStream, ConnectFailed> {
        let unpaced = self.unpaced(scope);
        let how = Connect { mark: self.mark, source, keepalive: self.config.socket.keepalive, unpaced };
        let made = self.netns.enter_sticky(|| socket::connecting(to, &how)).and_then(|made| made);
        let socket = made.map_err(|error| ConnectFailed::Refused { to, error })?;
        let after = self.config.timeouts.connect;
        let stream = match timeout(after, established(socket, to)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(ConnectFailed::TimedOut { to, after });
            }
            Ok(Err(error)) => return Err(ConnectFailed::Refused { to, error }),
            Err(_) => return Err(ConnectFailed::TimedOut { to, after }),
        };
        if let Some(scope) = unpaced {
            scope.settle(&stream, self.config.socket.unpaced_rtt);
        }
        if source.is_some() {
            socket::settle(&stream, self.mark);
        }
        Ok(stream)
    }

    fn source_towards(&self, client: IpAddr, to: IpAddr) -> Option<IpAddr> {
        let may = self.transparent.load(Ordering::Relaxed) && client != to && !to.is_loopback();
        (may && client.is_ipv4() == to.is_ipv4()).then_some(client)
    }

    fn owns(&self, ip: IpAddr, version: u64) -> bool {
        let mut known = self.addresses.lock();
        if known.0 != version {
            *known = (version, SmallVec::new());
        }
        if known.1.contains(&ip) {
            return true;
        }
        let found = self.netns.enter_sticky(|| socket::is_own(ip)).unwrap_or(false);
        if found {
            known.1.push(ip);
        }
        found
    }
}

async fn established(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    let connected = socket::connect(&socket, to)?;
    let stream = TcpStream::from_std(socket.into())?;
    if !connected {
        // The stream is writable once it is known how the connect went.
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(stream)
}

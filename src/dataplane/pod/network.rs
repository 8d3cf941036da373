//! The network of a pod. The proxy makes the pod's connections from inside the pod's namespace.

use std::{
    future::Future,
    io::{self, ErrorKind},
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
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{PodId, source_ports::SourcePorts};
use crate::{
    dataplane::{config::DataPlaneConfig, stream::AppStream},
    protocols::{
        outcome::{Cause, Failure},
        route::failover::AttemptError,
    },
    sys::{
        descriptors,
        netns::NetNs,
        pacing::PathScope,
        socket::{self, Connect, is_taken},
    },
};

/// The number of ports that a connect in a client's name tries before the kernel chooses one.
/// Limit: ports that a connect in a client's name tries: 4; past it: the kernel chooses the port.
const PORTS_TRIED: usize = 4;
/// The pause of a connect for which there is no descriptor but those of the reserve.
/// Limit: pause of a connect without a descriptor: 50 ms; past it: it tries again, as long as a connect may take.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(50);

/// The reason why a connect failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectFailed {
    /// The kernel refused the connect, for instance because nobody listens or no route exists.
    #[error("{to}: {error}")]
    Refused {
        /// The address.
        to: SocketAddr,
        /// The kernel's error.
        #[source]
        error: io::Error,
    },
    /// No answer came in time.
    #[error("{to}: no answer within {after:?}")]
    TimedOut {
        /// The address.
        to: SocketAddr,
        /// The timeout.
        after: Duration,
    },
}

// === impl ConnectFailed ===

impl ConnectFailed {
    /// Whether the reason lies here, such as a missing route or a rule of the pod's network. Only an answer of the peer,
    /// or its silence, says something of the peer.
    pub(crate) fn is_own_fault(&self) -> bool {
        let Self::Refused { error, .. } = self else { return false };
        !matches!(
            error.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::TimedOut
        )
    }

    /// The error of an attempt without a tunnel.
    pub(crate) fn of_attempt(self) -> AttemptError {
        let own = self.is_own_fault();
        let failure = Failure::Dial(Cause::of(self));
        if own { AttemptError::OwnFault(failure) } else { AttemptError::Connect(failure) }
    }
}

/// The network in which a pod's connections are made. Tests have an implementation without a kernel.
pub(crate) trait Network: Send + Sync + 'static {
    /// The type of a connection.
    type Stream: AppStream;

    /// Connects to `to` from `source`, or from an address that the kernel chooses. `scope` says whether `to` is on the
    /// host or in the network.
    ///
    /// # Errors
    /// The namespace is gone, nobody listens, or nobody answers within the configured time.
    fn connect(
        &self,
        to: SocketAddr,
        source: Option<IpAddr>,
        scope: PathScope,
    ) -> impl Future<Output = Result<Self::Stream, ConnectFailed>>;

    /// The source address for a connect to the application, so that the application sees its client's address.
    /// The result is `None` if the kernel has to choose the address.
    fn source_towards(&self, client: IpAddr, to: IpAddr) -> Option<IpAddr>;

    /// Whether `ip` is an address of the pod. A positive answer is kept until `version` of the mesh tables changes.
    fn owns(&self, ip: IpAddr, version: u64) -> bool;
}

/// The network namespace of a pod.
#[derive(Debug)]
pub(crate) struct PodNetwork {
    /// The namespace.
    pub(crate) netns: NetNs,
    config: Arc<DataPlaneConfig>,
    /// The `SO_MARK` of the pod's sockets.
    mark: Option<u32>,
    /// Whether sockets may have an address that is not the pod's.
    transparent: AtomicBool,
    /// Whether the namespace paces connections by default.
    paced: AtomicBool,
    /// The version of the mesh tables, and the addresses that were found to be the pod's at that version.
    addresses: Mutex<(u64, SmallVec<[IpAddr; 2]>)>,
    /// The ports of connections in clients' names.
    ports: SourcePorts,
}

// === impl PodNetwork ===

impl PodNetwork {
    /// The network of the pod `id` in `netns`.
    pub(crate) fn new(id: &PodId, netns: NetNs, config: Arc<DataPlaneConfig>) -> Arc<Self> {
        let mark = config.inpod.packet_mark.filter(|_| !id.is_own());
        Self::marked(mark, netns, config)
    }

    /// The proxy's own network, `netns`, whose sockets have no mark.
    pub(crate) fn home(netns: NetNs, config: Arc<DataPlaneConfig>) -> Arc<Self> {
        Self::marked(None, netns, config)
    }

    fn marked(mark: Option<u32>, netns: NetNs, config: Arc<DataPlaneConfig>) -> Arc<Self> {
        let (transparent, paced, addresses) =
            (AtomicBool::new(false), AtomicBool::new(false), Mutex::default());
        let ports = SourcePorts::default();
        Arc::new(Self { netns, config, mark, transparent, paced, addresses, ports })
    }

    /// The `SO_MARK` of the pod's sockets.
    pub(crate) fn mark(&self) -> Option<u32> {
        self.mark
    }

    /// Stores the properties of the namespace that the bind of a listener has found.
    pub(crate) fn found_out(&self, transparent: Option<bool>, paced: bool) {
        if let Some(transparent) = transparent {
            self.transparent.store(transparent, Ordering::Relaxed);
        }
        self.paced.store(paced, Ordering::Relaxed);
    }

    /// The scope by which connections are kept from being paced; `None` if the pacing of connections is left unchanged.
    pub(crate) fn unpaced(&self, scope: PathScope) -> Option<PathScope> {
        let wanted = scope == PathScope::Host || !self.config.socket.unpaced_rtt.is_zero();
        (wanted && self.paced.load(Ordering::Relaxed)).then_some(scope)
    }

    /// Settles the pacing of an accepted connection: a connection from a far client is paced.
    pub(crate) fn settle_accepted(&self, stream: &impl AsFd) {
        if let Some(scope) = self.unpaced(PathScope::Network) {
            scope.settle(stream, self.config.socket.unpaced_rtt);
        }
    }

    /// Connects to `to` from a port of `source` that is free for `to`, or without `source` if all ports are in use.
    async fn begin(
        &self,
        to: SocketAddr,
        source: Option<IpAddr>,
        unpaced: Option<PathScope>,
    ) -> io::Result<TcpStream> {
        let (mark, keepalive) = (self.mark, self.config.socket.keepalive);
        for tried in 0..=PORTS_TRIED {
            let port = || if tried < PORTS_TRIED { self.ports.next() } else { 0 };
            let source = source.map(|ip| SocketAddr::new(ip, port()));
            let how = Connect { mark, source, keepalive, unpaced };
            match self.try_connect(to, &how).await {
                Err(error) if source.is_some() && is_taken(&error) => {}
                connected => return connected,
            }
        }
        tracing::warn!(target: "sys", ?source, %to, "no port is free to connect as the client's address");
        self.try_connect(to, &Connect { mark, source: None, keepalive, unpaced }).await
    }

    async fn try_connect(&self, to: SocketAddr, how: &Connect) -> io::Result<TcpStream> {
        loop {
            let made = self.netns.enter_sticky(|| socket::connecting(to, how)).and_then(|made| made);
            match made {
                Ok(made) if descriptors::is_of_reserve(&made) => {}
                Err(error) if descriptors::is_exhaustion(&error) => {}
                made => return established(made?, to).await,
            }
            // The caller bounds the wait.
            sleep(DESCRIPTOR_PAUSE).await;
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
        let after = self.config.timeouts.connect;
        let stream = match timeout(after, self.begin(to, source, unpaced)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == ErrorKind::TimedOut => {
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
        // The stream becomes writable once the connect has succeeded or failed.
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(stream)
}

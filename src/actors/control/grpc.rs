//! gRPC over TLS to the control plane: what the discovery stream and the certificate authority client share
//! (docs/spec/controlplane.md 2.1 and 3.1).

mod connector;
mod headers;
#[cfg(test)]
pub(crate) mod peer;
#[cfg(test)]
mod tests;
mod tls;

use std::{error::Error as StdError, fmt, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::protocols::config::{Address, RootSource, TlsConfig, Upstream};

pub use headers::AuthHeaders;

/// What a response may measure at most, decoded; set it on every client stub
/// (`max_decoding_message_size`): a full push of a big mesh is far above tonic's default of 4 MiB.
/// Limit: one response of the control plane, decoded: 200 MiB; past it: the stream ends.
pub const MAX_RESPONSE_BYTES: usize = 200 << 20;

/// How long resolving, TCP and TLS may take together.
/// Limit: name, TCP and TLS of a connection to the control plane: 5 s; past it: the attempt fails and names its step.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Limit: window of a stream of the control plane: 2 MiB; past it: the server waits.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Limit: window of the control plane's connection: 5 MiB; past it: the server waits.
const CONNECTION_WINDOW_BYTES: u32 = 5 << 20;
/// Limit: time between two PINGs to the control plane: 30 s; past it: a PING is sent.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Limit: answer of the control plane to a PING: 10 s; past it: the connection ends.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit: reading a token or root file: 5 s; past it: the attempt fails.
const FILE_TIMEOUT: Duration = Duration::from_secs(5);

/// A gRPC server to connect to, and whom to believe that it is that server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcTarget {
    /// Where it is: dialled, sent as SNI (names only), and looked for in the certificate.
    pub address: Address,
    /// Who may have signed the server's certificate. Read again for every connection.
    pub roots: RootSource,
    /// A second name the certificate may carry in place of the address's host.
    pub alt_hostname: Option<String>,
    /// What is negotiated.
    pub tls: TlsConfig,
    /// How long resolving, TCP and TLS may take together: [`CONNECT_TIMEOUT`].
    pub connect_timeout: Duration,
}

/// Where a connection attempt was when its time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reading the root certificates.
    Roots,
    /// Reading the token.
    Token,
    /// Looking up the host name.
    Resolve,
    /// Connecting TCP.
    Tcp,
    /// Shaking hands in TLS.
    Tls,
}

/// Why there is no connection, or no request could be made; each says which step failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GrpcError {
    /// The configured address is not one.
    #[error("control plane address {address:?}: {reason}")]
    LocalAddress {
        /// As configured.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The root certificates could not be read.
    #[error("cannot read root certificates from {path}: {source}")]
    LocalRootsUnreadable {
        /// The file.
        path: String,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The root certificates, or the settings that go with them, are of no use.
    #[error("root certificates from {origin}: {reason}")]
    LocalRoots {
        /// File, `SYSTEM`, or `inline PEM`.
        origin: String,
        /// What is wrong with them.
        reason: String,
    },
    /// There is no usable token.
    #[error("token from {origin}: {reason}")]
    LocalToken {
        /// The file, or `AUTH_TOKEN`.
        origin: String,
        /// What is wrong with it; never the token.
        reason: String,
    },
    /// A header to add to every request is not one.
    #[error("header {name:?}: {reason}")]
    LocalHeader {
        /// Its name, as configured.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The host name has no address.
    #[error("cannot resolve {host}: {reason}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        reason: String,
    },
    /// No TCP connection.
    #[error("cannot connect to {host} at {addr}: {source}")]
    Tcp {
        /// The name.
        host: String,
        /// The address tried last.
        addr: SocketAddr,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The TLS handshake failed: wrong root, wrong name, expired, no common version.
    #[error("TLS handshake with {host}:{port}: {source}")]
    PeerTls {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// Why.
        source: Arc<io::Error>,
    },
    /// A step took too long.
    #[error("{step} of {target} took longer than {} ms", after.as_millis())]
    TimedOut {
        /// Host and port, or file.
        target: String,
        /// Which.
        step: Step,
        /// The bound it passed.
        after: Duration,
    },
    /// TLS stands, HTTP/2 on it does not.
    #[error("HTTP/2 with {host}:{port}: {reason}")]
    PeerHttp2 {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// Why.
        reason: String,
    },
}

/// Connects to `target` and returns once TLS stands.
///
/// The channel connects again by itself when a later request finds the connection gone, by the same rules and with
/// the roots read anew; [`cause`] then finds the failed step in the status.
pub async fn connect(target: &GrpcTarget) -> Result<Channel, GrpcError> {
    let endpoint = endpoint(target)?;
    let connector = connector::TlsConnector::new(target.clone());
    endpoint.connect_with_connector(connector).await.map_err(|e| unwind(target, &e))
}

/// A channel to `target` that connects with the first request, by the rules of [`connect`].
///
/// # Errors
/// The target's address is none.
pub fn lazily(target: &GrpcTarget) -> Result<Channel, GrpcError> {
    let connector = connector::TlsConnector::new(target.clone());
    Ok(endpoint(target)?.connect_with_connector_lazy(connector))
}

/// A TLS connection to `target` for HTTP/1.1.
///
/// # Errors
/// See [`GrpcError`]; bounded by the target's timeout.
pub async fn http1(target: &GrpcTarget) -> Result<TlsStream<TcpStream>, GrpcError> {
    connector::open(target, b"http/1.1").await
}

/// The failed connection attempt behind `status`, if that is what it was.
pub fn cause(status: &tonic::Status) -> Option<GrpcError> {
    find(status)
}

// === impl GrpcTarget ===

impl GrpcTarget {
    /// A server of the control plane.
    pub fn new(upstream: &Upstream, tls: &TlsConfig) -> Self {
        Self {
            address: upstream.address.clone(),
            roots: upstream.roots.clone(),
            alt_hostname: upstream.alt_hostname.clone(),
            tls: tls.clone(),
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// The server at `address`, by TLS 1.3.
    pub fn at(address: Address, roots: RootSource) -> Self {
        let tls = TlsConfig::default();
        Self { address, roots, alt_hostname: None, tls, connect_timeout: CONNECT_TIMEOUT }
    }
}

impl fmt::Display for GrpcTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address.bracketed(), self.address.port)
    }
}

// === impl Step ===

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Roots => "reading the root certificates",
            Step::Token => "reading the token",
            Step::Resolve => "resolving the name",
            Step::Tcp => "the TCP connection",
            Step::Tls => "the TLS handshake",
        })
    }
}

// === impl GrpcError ===

impl GrpcError {
    /// Whether the fault is on this side: files and settings, not the network or the peer.
    pub fn is_local(&self) -> bool {
        match self {
            Self::LocalAddress { .. }
            | Self::LocalRootsUnreadable { .. }
            | Self::LocalRoots { .. }
            | Self::LocalToken { .. }
            | Self::LocalHeader { .. } => true,
            Self::TimedOut { step, .. } => matches!(step, Step::Roots | Step::Token),
            _ => false,
        }
    }
}

fn endpoint(target: &GrpcTarget) -> Result<Endpoint, GrpcError> {
    let endpoint = Endpoint::from_shared(format!("https://{target}"))
        .map_err(|e| GrpcError::LocalAddress { address: target.to_string(), reason: e.to_string() })?;
    Ok(endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(false))
}

/// What our connector said, from under the layers tonic wraps around it.
fn unwind(target: &GrpcTarget, error: &(dyn StdError + 'static)) -> GrpcError {
    find(error).unwrap_or_else(|| {
        let mut reason = error.to_string();
        let mut next = error.source();
        while let Some(e) = next {
            reason = format!("{reason}: {e}");
            next = e.source();
        }
        GrpcError::PeerHttp2 { host: target.address.host.clone(), port: target.address.port, reason }
    })
}

fn find(error: &(dyn StdError + 'static)) -> Option<GrpcError> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(ours) = e.downcast_ref::<GrpcError>() {
            return Some(ours.clone());
        }
        next = e.source();
    }
    None
}

/// Reads a small file without holding up the runtime, whatever its file system does.
async fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read(path));
    match tokio::time::timeout(FILE_TIMEOUT, read).await {
        Ok(Ok(result)) => result,
        Ok(Err(e)) => Err(io::Error::other(e)),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the file system does not answer")),
    }
}

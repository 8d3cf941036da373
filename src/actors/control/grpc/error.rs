//! Why there is no connection to the control plane, or no request could be made.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

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

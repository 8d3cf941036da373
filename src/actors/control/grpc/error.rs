//! The errors of a connection or request to the control plane.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

/// The step at which a connection attempt timed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The read of the root certificates.
    Roots,
    /// The read of the token.
    Token,
    /// The lookup of the host name.
    Resolve,
    /// The TCP connect.
    Tcp,
    /// The TLS handshake.
    Tls,
}

/// The error of a connection or request. Each variant names the step that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GrpcError {
    /// The configured address is invalid.
    #[error("control plane address {address:?}: {reason}")]
    LocalAddress {
        /// The address as configured.
        address: String,
        /// The defect.
        reason: String,
    },
    /// The root certificates could not be read.
    #[error("cannot read root certificates from {path}: {source}")]
    LocalRootsUnreadable {
        /// The file.
        path: String,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// The root certificates, or the settings for them, are unusable.
    #[error("root certificates from {origin}: {reason}")]
    LocalRoots {
        /// The file, `SYSTEM`, or `inline PEM`.
        origin: String,
        /// The defect of the certificates or settings.
        reason: String,
    },
    /// No usable token exists.
    #[error("token from {origin}: {reason}")]
    LocalToken {
        /// The file, or `AUTH_TOKEN`.
        origin: String,
        /// The defect of the token, which never contains the token itself.
        reason: String,
    },
    /// A header to add to every request is invalid.
    #[error("header {name:?}: {reason}")]
    LocalHeader {
        /// The name of the header, as configured.
        name: String,
        /// The defect.
        reason: String,
    },
    /// The host name has no address.
    #[error("cannot resolve {host}: {reason}")]
    Resolve {
        /// The host name.
        host: String,
        /// The cause.
        reason: String,
    },
    /// The TCP connect failed.
    #[error("cannot connect to {host} at {addr}: {source}")]
    Tcp {
        /// The host name.
        host: String,
        /// The address that was tried last.
        addr: SocketAddr,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// The TLS handshake failed, for example by a wrong root, a wrong name, an expired certificate or no common
    /// version.
    #[error("TLS handshake with {host}:{port}: {source}")]
    PeerTls {
        /// The host name.
        host: String,
        /// The port.
        port: u16,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// A step took too long.
    #[error("{step} of {target} took longer than {} ms", after.as_millis())]
    TimedOut {
        /// The host and port, or the file.
        target: String,
        /// The step.
        step: Step,
        /// The time limit of the step.
        after: Duration,
    },
    /// TLS is established, but HTTP/2 failed.
    #[error("HTTP/2 with {host}:{port}: {reason}")]
    PeerHttp2 {
        /// The host name.
        host: String,
        /// The port.
        port: u16,
        /// The cause.
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
    /// Whether the cause is local: files and settings, not the network or the peer.
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

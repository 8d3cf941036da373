//! The interface to the actors that dial tunnels, the key of a tunnel, and the errors of a dial.

use std::{error::Error, future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use crate::{
    dataplane::pod::network::ConnectFailed,
    protocols::{
        identity::Identity,
        outcome::{Cause, Failure},
        route::{Sans, failover::AttemptError},
        tls::handshake::HandshakeError,
    },
};

/// The future of a dial.
pub(crate) type Dialling<'a> = Pin<Box<dyn Future<Output = Result<(), Arc<DialError>>> + Send + 'a>>;

/// Dials tunnels for one pod. The actors that own tunnels implement the trait for the data plane.
pub(crate) trait Dialer: Send + Sync {
    /// Dials a tunnel to `key` on shard `index`. The tunnel is in the shard's pool when the future succeeds.
    fn dial<'a>(&'a self, key: &'a TunnelKey, index: usize) -> Dialling<'a>;

    /// Logs and counts the panic of a task of this kind that waited for a dial on shard `index`.
    fn panicked(&self, kind: &'static str, index: usize, message: &str);
}

/// The key of a tunnel. Streams with equal keys share tunnels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TunnelKey {
    /// The peer's HBONE address.
    pub(crate) to: SocketAddr,
    /// The pod's identity.
    pub(crate) identity: Identity,
    /// The identities that the peer may have, in order.
    pub(crate) sans: Sans,
}

/// The reason why a dial gave no tunnel. No bytes have been sent to the application.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The pod has no certificate.
    #[error("{0}")]
    Certificate(String),
    /// The TCP connect failed.
    #[error("{0}")]
    Connect(#[from] ConnectFailed),
    /// The peer is quarantined because the peer's input crashed an actor.
    #[error("{to}: {why}")]
    Quarantined {
        /// The peer's address.
        to: SocketAddr,
        /// The reason and the length of the quarantine.
        why: String,
    },
    /// The TLS handshake failed.
    #[error("{to}: {error}")]
    Tls {
        /// The peer's address.
        to: SocketAddr,
        /// The error of the handshake.
        #[source]
        error: HandshakeError,
    },
    /// The TLS handshake did not complete in time.
    #[error("{to}: TLS handshake not completed within {after:?}")]
    TlsTimedOut {
        /// The peer's address.
        to: SocketAddr,
        /// The timeout.
        after: Duration,
    },
    /// The peer did not agree on HTTP/2 inside TLS.
    #[error("{to}: peer does not speak h2")]
    Alpn {
        /// The peer's address.
        to: SocketAddr,
    },
    /// The HTTP/2 handshake failed.
    #[error("{to}: {error}")]
    Http2 {
        /// The peer's address.
        to: SocketAddr,
        /// The error of the handshake.
        error: String,
    },
    /// New tunnels kept filling up before the stream got a place.
    #[error("every tunnel to the peer is full")]
    Contended,
    /// A limit of tunnels is reached, or the shard is down.
    #[error("{0}")]
    Refused(String),
    /// The tunnel's actor is down and did not restart in time.
    #[error("{0}")]
    Lost(#[source] Box<dyn Error + Send + Sync>),
}

// === impl DialError ===

impl DialError {
    /// The error of an attempt that needed the tunnel.
    pub(crate) fn of_attempt(self: &Arc<Self>) -> AttemptError {
        match &**self {
            // The reason lies in this proxy, so another endpoint would not help.
            Self::Certificate(_) | Self::Refused(_) => AttemptError::NoTunnel(self.failure()),
            error if error.is_own_fault() => AttemptError::OwnFault(self.failure()),
            _ => AttemptError::Tunnel(self.failure()),
        }
    }

    /// Whether the reason says nothing of the peer, although another endpoint may help.
    fn is_own_fault(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_own_fault(),
            Self::Tls { error, .. } => error.is_own_fault(),
            Self::Contended | Self::Lost(_) => true,
            _ => false,
        }
    }

    /// The failure of a connection that needed the tunnel.
    fn failure(self: &Arc<Self>) -> Failure {
        let cause = Cause::shared(self);
        match &**self {
            Self::Certificate(_) => Failure::Identity(cause),
            Self::Connect(ConnectFailed::TimedOut { .. }) => Failure::HboneTimeout(cause),
            Self::Tls { .. } | Self::TlsTimedOut { .. } | Self::Alpn { .. } => Failure::TunnelTls(cause),
            Self::Http2 { .. } => Failure::H2Handshake(cause),
            Self::Connect(_)
            | Self::Quarantined { .. }
            | Self::Contended
            | Self::Refused(_)
            | Self::Lost(_) => Failure::Dial(cause),
        }
    }
}

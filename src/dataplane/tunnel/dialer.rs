//! Who dials a tunnel, where to, and why there is none.

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

/// Dials tunnels for one pod: what the data plane needs of the actors that own tunnels.
pub(crate) trait Dialer: Send + Sync {
    /// Has a tunnel to `key` dialled on shard `index`. The tunnel is in the shard's pool when the future is done.
    fn dial<'a>(&'a self, key: &'a TunnelKey, index: usize) -> Dialling<'a>;

    /// Says and counts that a task of this kind, which waited for a dial on shard `index`, has panicked.
    fn panicked(&self, kind: &'static str, index: usize, message: &str);
}

/// What makes two streams share a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TunnelKey {
    /// The peer's HBONE address.
    pub(crate) to: SocketAddr,
    /// Who the pod is.
    pub(crate) identity: Identity,
    /// Who the peer may be, in order.
    pub(crate) sans: Sans,
}

/// Why there is no tunnel. Nothing has been sent to the application.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The pod has no certificate.
    #[error("{0}")]
    Certificate(String),
    /// There is no TCP connection.
    #[error("{0}")]
    Connect(#[from] ConnectFailed),
    /// The peer is quarantined, as its input crashed an actor.
    #[error("{to}: {why}")]
    Quarantined {
        /// Where to.
        to: SocketAddr,
        /// For how long, and why.
        why: String,
    },
    /// TLS failed.
    #[error("{to}: {error}")]
    Tls {
        /// Where to.
        to: SocketAddr,
        /// What was wrong.
        #[source]
        error: HandshakeError,
    },
    /// The peer is mute in TLS.
    #[error("{to}: TLS handshake not completed within {after:?}")]
    TlsTimedOut {
        /// Where to.
        to: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// The peer speaks something else inside TLS.
    #[error("{to}: peer does not speak h2")]
    Alpn {
        /// Where to.
        to: SocketAddr,
    },
    /// HTTP/2 could not be started.
    #[error("{to}: {error}")]
    Http2 {
        /// Where to.
        to: SocketAddr,
        /// What was wrong.
        error: String,
    },
    /// Tunnels keep filling up before this stream gets its place.
    #[error("every tunnel to the peer is full")]
    Contended,
    /// A bound is reached, or the shard is down.
    #[error("{0}")]
    Refused(String),
    /// The tunnel's actor is down and does not come back in time.
    #[error("{0}")]
    Lost(#[source] Box<dyn Error + Send + Sync>),
}

// === impl DialError ===

impl DialError {
    /// The error of an attempt that needed the tunnel.
    pub(crate) fn of_attempt(self: &Arc<Self>) -> AttemptError {
        match &**self {
            // The reason is here, so that another endpoint would not help.
            Self::Certificate(_) | Self::Refused(_) => AttemptError::NoTunnel(self.failure()),
            _ => AttemptError::Tunnel(self.failure()),
        }
    }

    /// How a connection that needed the tunnel failed.
    fn failure(self: &Arc<Self>) -> Failure {
        let cause = Cause::shared(self);
        match &**self {
            Self::Certificate(_) => Failure::Identity(cause),
            Self::Connect(ConnectFailed::TimedOut { .. }) => Failure::HboneTimeout(cause),
            Self::Tls { .. } | Self::TlsTimedOut { .. } | Self::Alpn { .. } => Failure::Tls(cause),
            Self::Http2 { .. } => Failure::H2Handshake(cause),
            Self::Connect(_)
            | Self::Quarantined { .. }
            | Self::Contended
            | Self::Refused(_)
            | Self::Lost(_) => Failure::Dial(cause),
        }
    }
}

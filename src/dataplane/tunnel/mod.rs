//! Tunnels to peers, as the shards see them.

pub mod dial;
pub mod pool;

use std::{net::SocketAddr, time::Duration};

use crate::{
    actors::quarantine::{Input, SetAside},
    protocols::{identity::Identity, outcome::Failure, route::Sans, tls::handshake::HandshakeError},
    supervisor::AddressError,
};

/// What makes two streams share a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    /// The peer's HBONE address.
    pub to: SocketAddr,
    /// Who the pod is.
    pub identity: Identity,
    /// Who the peer may be, in order.
    pub sans: Sans,
}

/// Why there is no tunnel. Nothing has been sent to the application.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The pod has no certificate.
    #[error("{0}")]
    Certificate(String),
    /// Nobody listens, or the way is barred.
    #[error("{to}: {error}")]
    Connect {
        /// Where to.
        to: SocketAddr,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// No answer to TCP.
    #[error("{to}: no answer within {after:?}")]
    ConnectTimedOut {
        /// Where to.
        to: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// TLS failed.
    #[error("{to}: {error}")]
    Tls {
        /// Where to.
        to: SocketAddr,
        /// What was wrong.
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
    Lost(#[from] AddressError),
}

// === impl DialError ===

impl DialError {
    /// Whether the reason is here, so that another endpoint would not help.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Certificate(_) | Self::Refused(_))
    }

    /// How the connection that needed the tunnel ended.
    pub fn failure(&self) -> Failure {
        let text = self.to_string().into();
        match self {
            Self::Certificate(_) => Failure::Identity(text),
            Self::ConnectTimedOut { .. } => Failure::HboneTimeout(text),
            Self::Tls { .. } | Self::TlsTimedOut { .. } | Self::Alpn { .. } => Failure::Tls(text),
            Self::Http2 { .. } => Failure::H2Handshake(text),
            Self::Connect { .. } | Self::Contended | Self::Refused(_) | Self::Lost(_) => Failure::Dial(text),
        }
    }
}

// === impl TunnelKey ===

impl TunnelKey {
    /// The peer as an input; `name` is its address.
    pub fn input<'a>(&self, name: &'a str) -> Input<'a> {
        Input { kind: "peer", name, digest: 0 }
    }

    /// Nothing is dialled there for now; another endpoint may help.
    pub fn refused(&self, aside: SetAside) -> DialError {
        DialError::Connect { to: self.to, error: std::io::Error::other(aside) }
    }

    /// Name of the actor: unique for each key, readable for the first of an address.
    pub fn id(&self) -> String {
        use std::hash::{BuildHasher, Hasher};
        let mut hasher = foldhash::fast::FixedState::default().build_hasher();
        std::hash::Hash::hash(self, &mut hasher);
        format!("{}-{:016x}", self.to, hasher.finish())
    }
}

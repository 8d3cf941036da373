//! Types for addresses by their roles, so that code cannot pass a peer where it needs an original destination.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use super::peer_text::PeerText;

/// The destination of the application's connection before the redirection to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OrigDst(SocketAddr);

/// The address that opened the connection, as seen by the client's node or network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(SocketAddr);

/// The authority of an HBONE CONNECT (docs/spec/dataplane.md 2.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HboneAddr {
    /// `ip:port`, with an IPv6 address in brackets on the wire.
    Ip(SocketAddr),
    /// `hostname:port`.
    Host(Box<str>, u16),
}

/// Why a CONNECT authority is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The authority has no `:port`, or the port is not a number from 1 to 65535.
    #[error("authority {0:?} has no valid port")]
    Port(PeerText),
    /// The part before the port is empty, or holds characters that no hostname has.
    #[error("authority {0:?} has no valid host")]
    Host(PeerText),
}

// === impl OrigDst ===

impl OrigDst {
    /// Wraps `addr`. An IPv4-mapped IPv6 address becomes plain IPv4.
    pub fn new(addr: SocketAddr) -> Self {
        Self(canonical(addr))
    }

    /// The address and port.
    pub fn addr(self) -> SocketAddr {
        self.0
    }

    /// The address alone.
    pub fn ip(self) -> IpAddr {
        self.0.ip()
    }

    /// The port alone.
    pub fn port(self) -> u16 {
        self.0.port()
    }
}

// === impl ClientAddr ===

impl ClientAddr {
    /// Wraps `addr`. An IPv4-mapped IPv6 address becomes plain IPv4.
    pub fn new(addr: SocketAddr) -> Self {
        Self(canonical(addr))
    }

    /// The address and port.
    pub fn addr(self) -> SocketAddr {
        self.0
    }

    /// The address alone.
    pub fn ip(self) -> IpAddr {
        self.0.ip()
    }
}

// === impl HboneAddr ===

impl HboneAddr {
    /// The port, which both forms have.
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(addr) => addr.port(),
            Self::Host(_, port) => *port,
        }
    }
}

impl FromStr for HboneAddr {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            let addr = canonical(addr);
            return if addr.port() == 0 {
                Err(AuthorityError::Port(text.into()))
            } else {
                Ok(Self::Ip(addr))
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| AuthorityError::Port(text.into()))?;
        let port: u16 = match port.parse() {
            Ok(port) if port != 0 => port,
            _ => return Err(AuthorityError::Port(text.into())),
        };
        let label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
        if host.is_empty() || host.len() > 253 || !host.chars().all(label) {
            return Err(AuthorityError::Host(text.into()));
        }
        Ok(Self::Host(host.into(), port))
    }
}

impl fmt::Display for OrigDst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for HboneAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// Returns `addr` without flow label and scope. An IPv4-mapped IPv6 address becomes IPv4.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests;

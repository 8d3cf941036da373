//! References to waypoints and gateways as short texts.

use std::{fmt, net::IpAddr, str::FromStr};

/// The default port of HBONE.
const HBONE_PORT: u16 = 15008;

/// A waypoint or a gateway: `namespace/hostname`, `address` or `network/address`, each with `:port` if it is not 15008.
/// An IPv6 address with a port is in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// A service or a workload by its name.
    Hostname {
        /// The Kubernetes namespace.
        namespace: String,
        /// The fully qualified hostname.
        hostname: String,
        /// The gateway's HBONE port.
        port: u16,
    },
    /// A service or a workload by its address.
    Address {
        /// The network in which the address is valid; empty is the default network.
        network: String,
        /// The address of the service or workload.
        address: IpAddr,
        /// The gateway's HBONE port.
        port: u16,
    },
}

/// The error of a text that is no gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither namespace/hostname, address nor network/address, each with or without :port")]
pub struct GatewayError(pub String);

// === impl Gateway ===

impl FromStr for Gateway {
    type Err = GatewayError;

    fn from_str(text: &str) -> Result<Self, GatewayError> {
        let bad = || GatewayError(text.into());
        let (front, rest) = text.split_once('/').map_or((None, text), |(front, rest)| (Some(front), rest));
        if let Some((address, port)) = address(rest) {
            let network = front.unwrap_or_default().into();
            return Ok(Self::Address { network, address, port });
        }
        let (hostname, port) = match rest.rsplit_once(':') {
            Some((hostname, port)) => (hostname, nonzero(port).ok_or_else(bad)?),
            None => (rest, HBONE_PORT),
        };
        let namespace = front.ok_or_else(bad)?;
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '*');
        if namespace.is_empty() || hostname.is_empty() || !hostname.chars().all(name) {
            return Err(bad());
        }
        Ok(Self::Hostname { namespace: namespace.into(), hostname: hostname.into(), port })
    }
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hostname { namespace, hostname, port } => write!(f, "{namespace}/{hostname}:{port}"),
            Self::Address { network, address, port } => {
                let socket = std::net::SocketAddr::new(*address, *port);
                if network.is_empty() { write!(f, "{socket}") } else { write!(f, "{network}/{socket}") }
            }
        }
    }
}

/// An address with or without a port.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    if let Ok(address) = text.parse() {
        return Some((address, HBONE_PORT));
    }
    let socket: std::net::SocketAddr = text.parse().ok()?;
    (socket.port() != 0).then_some((socket.ip(), socket.port()))
}

fn nonzero(port: &str) -> Option<u16> {
    port.parse().ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests;

//! References to waypoints and to gateways of other networks.

use std::{fmt, net::IpAddr};

use super::decode::{self, DecodeError, ServiceName};
use crate::protocols::pb::workload as pb;

/// The address of a waypoint or of a network gateway (docs/spec/dataplane.md 3.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// The service or workload that acts as the gateway.
    pub destination: GatewayDestination,
    /// The gateway's HBONE port; for a service, the service port.
    pub hbone_port: u16,
}

/// The two ways to name a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GatewayDestination {
    /// A service's virtual address, or a workload's own.
    Address {
        /// The network the address belongs to.
        network: Box<str>,
        /// The address.
        ip: IpAddr,
    },
    /// A service's hostname, or a workload's.
    Host(ServiceName),
}

/// One of several waypoints of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedWaypoint {
    /// The waypoint.
    pub gateway: Gateway,
    /// The waypoint's share of the sum of all weights. A waypoint of weight 0 is never chosen.
    pub weight: u32,
}

/// How the proxy hands connections to the application (docs/spec/dataplane.md 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApplicationTunnel {
    /// Whether a PROXY protocol header precedes the bytes.
    pub protocol: TunnelHeader,
    /// The port that replaces the requested port of connections.
    pub port: Option<u16>,
}

/// The header that precedes the bytes of an application tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelHeader {
    /// No header.
    None,
    /// A PROXY protocol version 2 header.
    Proxy,
}

// === impl Gateway ===

impl Gateway {
    pub(super) fn decode(field: &'static str, pb: pb::GatewayAddress) -> Result<Self, DecodeError> {
        use pb::gateway_address::Destination;
        let destination = match pb.destination.ok_or(DecodeError::Missing(field))? {
            Destination::Address(address) => {
                decode::bounded(field, &address.network)?;
                GatewayDestination::Address {
                    ip: decode::ip(field, &address.address)?,
                    network: address.network.into_boxed_str(),
                }
            }
            Destination::Hostname(name) => {
                GatewayDestination::Host(ServiceName::of_parts(field, &name.namespace, &name.hostname)?)
            }
        };
        Ok(Self { destination, hbone_port: decode::port(field, pb.hbone_mtls_port)? })
    }
}

impl fmt::Display for GatewayDestination {
    /// `network/ip` or `namespace/hostname`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { network, ip } => write!(f, "{network}/{ip}"),
            Self::Host(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for Gateway {
    /// `network/ip:port` or `namespace/hostname:port`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.destination, self.hbone_port)
    }
}

// === impl ApplicationTunnel ===

impl ApplicationTunnel {
    pub(super) fn decode(pb: &pb::ApplicationTunnel) -> Result<Self, DecodeError> {
        use pb::application_tunnel::Protocol;
        const FIELD: &str = "application_tunnel";
        let protocol = match Protocol::try_from(pb.protocol) {
            Ok(Protocol::None) => TunnelHeader::None,
            Ok(Protocol::Proxy) => TunnelHeader::Proxy,
            Err(_) => return Err(DecodeError::Unknown { field: FIELD, value: pb.protocol }),
        };
        let port = decode::port(FIELD, pb.port)?;
        Ok(Self { protocol, port: (port != 0).then_some(port) })
    }
}

//! Why a connection has no route.

use crate::protocols::addr::OrigDst;

/// Why a connection has no route. Operators know these texts (docs/spec/controlplane.md 6.3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The application dialled a port of its own proxy.
    #[error("attempted recursive call to ourselves")]
    Recursive,
    /// A waypoint is in front of the destination, but neither a service nor a workload with an address is known as it.
    #[error("unknown waypoint: {0}")]
    UnknownWaypoint(String),
    /// A gateway is in front of the destination's network, but no known service or workload with an address is that
    /// gateway.
    #[error("unknown network gateway: {0}")]
    UnknownGateway(String),
    /// No endpoint of the service may be used: none there, healthy, of that port, near enough, or not yet dialled.
    #[error("no healthy upstream: {0}")]
    NoHealthyUpstream(OrigDst),
    /// The destination has neither an address, nor a name, nor a gateway.
    #[error("no ip addresses were resolved for workload: {0}")]
    NoAddress(String),
    /// The destination is on another network, to which it has no gateway.
    #[error("no network gateway to reach workload: {0}")]
    NoGateway(String),
    /// The destination is on another network, and the client did not ask for one of its services.
    #[error("workload on another network can only be reached through a service: {0}")]
    OtherNetwork(String),
}

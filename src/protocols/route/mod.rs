//! Where a connection goes. Pure functions of the mesh, the source and the original destination
//! (docs/spec/dataplane.md 3 and 4).

mod balance;
pub mod failover;
mod inbound;
mod local;
mod outbound;
mod waypoint;

#[cfg(test)]
mod balance_tests;
#[cfg(test)]
mod inbound_tests;
#[cfg(test)]
mod local_tests;
#[cfg(test)]
mod outbound_tests;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use smallvec::SmallVec;

pub use self::{
    inbound::{Inbound, InboundError, InboundHbone, inbound_hbone, inbound_plaintext, inbound_service},
    local::{is_at_destination, is_between_pods},
    outbound::outbound,
};
use super::{
    addr::{HboneAddr, OrigDst},
    identity::Identity,
    mesh::{Service, Workload},
};

/// The port HBONE is served on.
/// No limit: the port that peers listen on.
pub const HBONE_PORT: u16 = 15008;

/// Who opens a connection.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The pod, as the mesh knows it.
    pub workload: &'a Workload,
    /// The address it connects from.
    pub client: IpAddr,
}

/// What a choice among endpoints depends on besides the mesh.
pub struct Pick<'a> {
    /// Chance.
    pub rng: &'a mut dyn rand::RngCore,
    /// Addresses already dialled in vain for this connection: none of them is returned again. If nothing else is left,
    /// there is [`RouteError::NoHealthyUpstream`].
    pub excluded: &'a [SocketAddr],
}

/// Where an outbound connection goes.
#[derive(Clone, Debug)]
pub struct Route {
    /// How.
    pub hop: Hop,
    /// The workload dialled: the destination, or the waypoint or gateway in front of it. None if nobody knows it.
    pub destination: Option<Arc<Workload>>,
    /// The service the application asked for.
    pub service: Option<Arc<Service>>,
}

/// How the next hop is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// As plain TCP.
    Tcp {
        /// The destination.
        to: Upstream,
    },
    /// Through an HBONE tunnel.
    Hbone {
        /// The other end of the tunnel.
        to: Upstream,
        /// What to ask it for. A host only if `to` is one; see [`Hop::resolved`].
        authority: HboneAddr,
        /// Who the other end may be.
        sans: Sans,
    },
    /// Through an HBONE tunnel to a gateway, and within it another one to the destination.
    DoubleHbone {
        /// The gateway.
        to: Upstream,
        /// Who the gateway may be.
        gateway_sans: Sans,
        /// What to ask both for: the service.
        authority: HboneAddr,
        /// Who the other end of the inner tunnel may be.
        sans: Sans,
    },
}

/// What is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// An address.
    Ip(SocketAddr),
    /// A name, to be resolved by DNS for every connection.
    Host {
        /// The name.
        host: Arc<str>,
        /// The port.
        port: u16,
        /// Whether an IPv6 address is the better one, as the application asked for one.
        prefer_v6: bool,
    },
}

/// The identities expected of a peer, in order: those of the service it was chosen through, then its own. Cloning
/// copies references. Empty means that no peer is acceptable.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Sans {
    service: Option<Arc<[Identity]>>,
    own: Option<Identity>,
}

/// Why a connection has no route. Texts are those operators know (docs/spec/controlplane.md 6.3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The application dialled a port of its own proxy.
    #[error("attempted recursive call to ourselves")]
    Recursive,
    /// A waypoint is in front of the destination, but neither a service nor a workload with an address is known as it.
    #[error("unknown waypoint: {0}")]
    UnknownWaypoint(String),
    /// As before, of the gateway of another network.
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
    /// The destination is on another network and was not asked for by a service of its.
    #[error("workload on another network can only be reached through a service: {0}")]
    OtherNetwork(String),
}

/// The ports of the proxy's own listeners, which no connection may lead back to (docs/spec/dataplane.md 1.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IllegalPorts(SmallVec<[u16; 4]>);

// === impl Pick ===

impl Pick<'_> {
    fn excludes(&self, addr: SocketAddr) -> bool {
        self.excluded.contains(&addr)
    }
}

// === impl Hop ===

impl Hop {
    /// What is dialled.
    pub fn upstream(&self) -> &Upstream {
        match self {
            Self::Tcp { to } | Self::Hbone { to, .. } | Self::DoubleHbone { to, .. } => to,
        }
    }

    /// The same hop once DNS has answered: `ip` takes the place of the host that is dialled, and of a host in the
    /// authority of a single tunnel.
    #[must_use]
    pub fn resolved(mut self, ip: IpAddr) -> Self {
        if let Self::Hbone { authority, .. } = &mut self
            && let HboneAddr::Host(_, port) = *authority
        {
            *authority = HboneAddr::Ip(SocketAddr::new(ip, port));
        }
        match &mut self {
            Self::Tcp { to } | Self::Hbone { to, .. } | Self::DoubleHbone { to, .. } => {
                if let Upstream::Host { port, .. } = *to {
                    *to = Upstream::Ip(SocketAddr::new(ip, port));
                }
            }
        }
        self
    }
}

// === impl Sans ===

impl Sans {
    fn new(service: Option<&Service>, workload: Option<&Workload>) -> Self {
        Self {
            service: service.and_then(Service::shared_sans).cloned(),
            own: workload.map(|workload| workload.identity().clone()),
        }
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Identity> {
        self.service.iter().flat_map(|list| list.iter()).chain(&self.own)
    }

    /// Whether a peer may be `identity`.
    pub fn contains(&self, identity: &Identity) -> bool {
        self.iter().any(|expected| expected == identity)
    }

    /// Whether no peer is acceptable.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// All, as a list of their own.
    pub fn to_vec(&self) -> Vec<Identity> {
        self.iter().cloned().collect()
    }
}

impl fmt::Debug for Sans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

// === impl IllegalPorts ===

impl IllegalPorts {
    /// The given ports.
    pub fn new(ports: impl IntoIterator<Item = u16>) -> Self {
        Self(ports.into_iter().collect())
    }

    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }

    /// Refuses an outbound connection to the proxy's own listeners: a port of them on a loopback address, or on an
    /// address of the pod itself. To be asked before [`outbound`], which does not know the ports.
    ///
    /// # Errors
    /// [`RouteError::Recursive`].
    pub fn check_outbound(&self, source: &Source<'_>, dst: OrigDst) -> Result<(), RouteError> {
        let own = |ip: IpAddr| ip == source.client || source.workload.addresses().contains(&ip);
        if self.contains(dst.port()) && (dst.ip().is_loopback() || own(dst.ip())) {
            return Err(RouteError::Recursive);
        }
        Ok(())
    }
}

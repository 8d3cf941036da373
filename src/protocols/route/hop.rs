//! Routes: the next hop, and the identities that the next hop may have.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::protocols::{
    addr::HboneAddr,
    identity::Identity,
    mesh::{Service, Workload},
};

/// The port HBONE is served on.
/// No limit: the port that peers listen on.
pub const HBONE_PORT: u16 = 15008;

/// Where an outbound connection goes.
#[derive(Clone, Debug)]
pub struct Route {
    /// The next hop.
    pub hop: Hop,
    /// The workload that is dialled: the destination, or the waypoint or gateway in front of the destination. `None`
    /// if the mesh does not know the destination.
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
        /// The authority of the CONNECT. It is a host only if `to` is a host; see [`Hop::resolved`].
        authority: HboneAddr,
        /// The identities that the other end may have.
        sans: Sans,
    },
    /// Through an HBONE tunnel to a gateway, and within it another one to the destination.
    DoubleHbone {
        /// The gateway.
        to: Upstream,
        /// The identities that the gateway may have.
        gateway_sans: Sans,
        /// The authority of both CONNECT requests: the service.
        authority: HboneAddr,
        /// The identities that the other end of the inner tunnel may have.
        sans: Sans,
    },
}

/// The address or name to dial.
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

// === impl Hop ===

impl Hop {
    /// The address or name to dial.
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
    /// Joins the identities of `service` and then that of `workload`.
    pub(super) fn new(service: Option<&Service>, workload: Option<&Workload>) -> Self {
        Self {
            service: service.and_then(Service::shared_sans).cloned(),
            own: workload.map(|workload| workload.identity().clone()),
        }
    }

    /// The identity of one peer, and no other.
    pub fn only(identity: Identity) -> Self {
        Self { service: None, own: Some(identity) }
    }

    /// All identities, in order.
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

    /// All identities, copied to a list.
    pub fn to_vec(&self) -> Vec<Identity> {
        self.iter().cloned().collect()
    }
}

impl fmt::Debug for Sans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

//! The proxy that is asked: its tables, its settings, and what it knows beside.

use std::net::SocketAddr;

use crate::protocols::{
    addr::OrigDst,
    config::Ports,
    identity::Identity,
    mesh::{Mesh, Workload},
    route::Suspicion,
};

/// The settings of a proxy that matter to decisions.
#[derive(Clone, Debug)]
pub(crate) struct WhySettings {
    /// The proxy's own ports.
    pub(crate) ports: Ports,
    /// Whether an application tunnel with a PROXY header is dialled on the loopback address.
    pub(crate) localhost_app_tunnel: bool,
    /// Whether IPv6 is enabled.
    pub(crate) ipv6: bool,
    /// The namespace whose services win among equally good names.
    pub(crate) preferred_namespace: Option<String>,
    /// Whether the tables are filled on demand.
    pub(crate) on_demand: bool,
}

/// What a proxy knows beside the tables.
pub(crate) trait Here {
    /// The names of this node's pods.
    fn pods(&self) -> Vec<String>;

    /// Whether this process serves the workload.
    fn serves(&self, workload: &Workload) -> bool;

    /// The number of tunnels that `client` has open to the address. `None` if this process does not serve `client`.
    fn tunnels(&self, client: &Workload, to: SocketAddr) -> Option<usize>;

    /// Why there is no certificate for an identity. `None` if there is one, or if it is no matter of this process.
    fn lacks_certificate(&self, identity: &Identity) -> Option<String>;

    /// Whether there is no policy of this key, which the tables do not hold.
    fn is_absent(&self, policy: &str) -> bool;

    /// Calls `route` with what `client` suspects of next hops on the way to an address.
    fn suspecting(&self, client: &Workload, asked: OrigDst, route: &mut dyn FnMut(Option<Suspicion<'_>>));
}

/// The proxy that is asked.
#[derive(Clone, Copy)]
pub(crate) struct Proxy<'a> {
    /// The tables.
    pub(crate) mesh: &'a Mesh,
    /// The settings.
    pub(crate) settings: &'a WhySettings,
    /// What is known beside.
    pub(crate) here: &'a dyn Here,
}

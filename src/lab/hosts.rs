//! The hosts of a lab: the control plane, nodes, pods and outside hosts, each a network namespace on one fabric.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use super::net::{
    Namespace, NetError,
    fabric::{Fabric, Port},
    redirect::Redirection,
};

/// The role of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The control plane.
    Control,
    /// A node, which has its proxy's own ports.
    Node,
    /// A pod.
    Pod,
    /// A host outside the mesh.
    Outside,
}

/// One host.
#[derive(Debug)]
pub struct Host {
    role: Role,
    name: String,
    namespace: Namespace,
    ips: Vec<IpAddr>,
    port: Port,
    redirection: Option<Redirection>,
}

/// All hosts of one lab and the fabric between them. The networks vanish when the value is dropped and nothing
/// runs in them any more.
#[derive(Debug)]
pub struct Hosts {
    id: String,
    fabric: Fabric,
    hosts: BTreeMap<(Role, String), Host>,
}

/// The error of a host that could not be raised, found or changed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Two hosts of one role have the same name.
    #[error("there are two {role}s called {name}")]
    Twice {
        /// The role.
        role: Role,
        /// The name.
        name: String,
    },
    /// Two hosts have the same address.
    #[error("{name} and {other} both have the address {ip}")]
    SameAddress {
        /// The address.
        ip: IpAddr,
        /// The host that asks for the address.
        name: String,
        /// The host that has the address.
        other: String,
    },
    /// The host does not exist.
    #[error("there is no {role} called {name}; there are: {known}")]
    Unknown {
        /// The role.
        role: Role,
        /// The name.
        name: String,
        /// The names of the hosts that exist.
        known: String,
    },
    /// The kernel refused an operation.
    #[error(transparent)]
    Net(#[from] NetError),
}

// === impl Role ===

impl Role {
    /// The role's word in namespace names: `warren-ID-pod-NAME`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Node => "node",
            Self::Pod => "pod",
            Self::Outside => "outside",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Outside { "outside host" } else { self.word() })
    }
}

// === impl Host ===

impl Host {
    /// The host's role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The host's name, unique within its role.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace in which the host's programs run.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The host's addresses.
    pub fn ips(&self) -> &[IpAddr] {
        &self.ips
    }

    /// The redirection of the host's traffic, if there is one.
    pub fn redirection(&self) -> Option<&Redirection> {
        self.redirection.as_ref()
    }
}

// === impl Hosts ===

impl Hosts {
    /// Makes the fabric of a lab; `id` is part of the namespaces' names.
    pub fn new(id: &str) -> Result<Self, HostError> {
        let fabric = Fabric::create(format!("warren-{id}-fabric"))?;
        Ok(Self { id: id.to_owned(), fabric, hosts: BTreeMap::new() })
    }

    /// Raises a host on the fabric.
    pub fn add(&mut self, role: Role, name: &str, ips: &[IpAddr]) -> Result<&Host, HostError> {
        let key = (role, name.to_owned());
        if self.hosts.contains_key(&key) {
            return Err(HostError::Twice { role, name: name.to_owned() });
        }
        let holder = |ip: &IpAddr| self.hosts.values().find(|host| host.ips.contains(ip));
        if let Some((ip, other)) = ips.iter().find_map(|ip| Some((*ip, holder(ip)?))) {
            let (name, other) = (name.to_owned(), other.name.clone());
            return Err(HostError::SameAddress { ip, name, other });
        }
        let label = format!("warren-{}-{}-{}", self.id, role.word(), name.replace('/', "."));
        let namespace = Namespace::create(label)?;
        let port = self.fabric.attach(&namespace, ips)?;
        let host =
            Host { role, name: name.to_owned(), namespace, ips: ips.to_vec(), port, redirection: None };
        Ok(self.hosts.entry(key).or_insert(host))
    }

    /// Unplugs a host and forgets it. Programs that still run in it keep their namespace, without the fabric.
    pub fn remove(&mut self, role: Role, name: &str) -> Result<(), HostError> {
        let port = self.find(role, name)?.port;
        self.fabric.detach(port)?;
        self.hosts.remove(&(role, name.to_owned()));
        Ok(())
    }

    /// The host of that role and name.
    pub fn find(&self, role: Role, name: &str) -> Result<&Host, HostError> {
        self.hosts.get(&(role, name.to_owned())).ok_or_else(|| self.unknown(role, name))
    }

    /// All hosts, sorted by role and name.
    pub fn iter(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// Redirects a host's traffic to the proxy, as the CNI does when a pod joins the mesh.
    pub fn redirect(&mut self, role: Role, name: &str, redirection: Redirection) -> Result<(), HostError> {
        let unknown = self.unknown(role, name);
        let host = self.hosts.get_mut(&(role, name.to_owned())).ok_or(unknown)?;
        redirection.apply(&host.namespace)?;
        host.redirection = Some(redirection);
        Ok(())
    }

    /// Removes the redirection of a host, as when a pod leaves the mesh; without a redirection the call does nothing.
    pub fn release(&mut self, role: Role, name: &str) -> Result<(), HostError> {
        let unknown = self.unknown(role, name);
        let host = self.hosts.get_mut(&(role, name.to_owned())).ok_or(unknown)?;
        match host.redirection.take() {
            Some(redirection) => Ok(redirection.remove(&host.namespace)?),
            None => Ok(()),
        }
    }

    /// Disconnects a host, so that its packets are lost silently, or connects it again.
    pub fn set_connected(&self, role: Role, name: &str, connected: bool) -> Result<(), HostError> {
        Ok(self.fabric.set_connected(self.find(role, name)?.port, connected)?)
    }

    /// The network between the hosts.
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    fn unknown(&self, role: Role, name: &str) -> HostError {
        let known: Vec<&str> =
            self.hosts.keys().filter(|(known, _)| *known == role).map(|(_, name)| name.as_str()).collect();
        HostError::Unknown { role, name: name.to_owned(), known: known.join(", ") }
    }
}

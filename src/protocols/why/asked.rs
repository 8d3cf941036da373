//! Who asks and for what: pods, addresses and names, as people write them.

use std::{fmt, net::IpAddr, sync::Arc};

use super::{explanation::Sentence, proxy::Proxy};
use crate::protocols::{
    addr::OrigDst,
    dns::lookup::{self, Asker, Family},
    mesh::{Mesh, Service, Workload},
};

/// Limit: names of pods or services in the answer to an unknown one: 20; past it: the others are counted.
const NAMES_LISTED: usize = 20;

/// A client or destination that does not exist, or a port that is missing. The text says what there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskedError {
    /// No workload is meant by the name.
    #[error("no pod {asked:?}; {known}")]
    Source {
        /// The name.
        asked: String,
        /// The pods that there are.
        known: String,
    },
    /// Nothing in the mesh is meant by the name.
    #[error("the mesh has no {asked:?}, so name servers are asked for it: ask for an address; {known}")]
    Destination {
        /// The name.
        asked: String,
        /// The services that there are.
        known: String,
    },
    /// The destination has no address that the client could ask for.
    #[error("{0} has no address on the client's network")]
    NoAddress(String),
    /// The port is missing, or is no port.
    #[error("{asked} needs a port, as in {asked}:80; {known}")]
    Port {
        /// The destination.
        asked: String,
        /// The ports that there are.
        known: String,
    },
}

/// The client of a connection.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// The workload. `None` if the mesh does not know the client.
    pub(super) workload: Option<Arc<Workload>>,
    /// The address that the client connects from.
    pub(super) ip: IpAddr,
    /// Whether the address was asked for, rather than the pod.
    is_by_address: bool,
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// The address and port.
    pub(super) dst: OrigDst,
    /// How the name led there.
    pub(super) named: Vec<Sentence>,
}

/// Something that has addresses.
enum Target {
    Address(IpAddr),
    Service(Arc<Service>, IpAddr),
    Workload(Arc<Workload>, IpAddr),
    /// A name, and its first address.
    Name(IpAddr),
}

// === impl Client ===

impl Client {
    /// The client that `text` means.
    pub(super) fn find(proxy: Proxy<'_>, text: &str) -> Result<Self, AskedError> {
        let network = &proxy.mesh.local().network;
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            let ip = ip.to_canonical();
            return Ok(Self { workload: proxy.mesh.workload_by_ip(network, ip), ip, is_by_address: true });
        }
        let workload = workload(proxy.mesh, text).ok_or_else(|| AskedError::Source {
            asked: text.to_owned(),
            known: format!("pods of this node: {}", listed(proxy.here.pods())),
        })?;
        let ip = *workload.addresses().first().ok_or_else(|| AskedError::NoAddress(workload.full_name()))?;
        Ok(Self { workload: Some(workload), ip, is_by_address: false })
    }

    /// The same client with the address that it would ask for `ip` from.
    pub(super) fn towards(mut self, ip: IpAddr) -> Self {
        let own = self.workload.iter().flat_map(|workload| workload.addresses());
        let same_family = own.copied().find(|own| own.is_ipv4() == ip.is_ipv4());
        if !self.is_by_address {
            self.ip = same_family.unwrap_or(self.ip);
        }
        self
    }

    fn namespace(&self) -> &str {
        self.workload.as_deref().map_or("", Workload::namespace)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.workload {
            Some(workload) => write!(f, "{} ({})", workload.full_name(), self.ip),
            None => write!(f, "{}, which is outside the mesh", self.ip),
        }
    }
}

// === impl Asked ===

impl Asked {
    /// What `text` means to `client`.
    pub(super) fn find(proxy: Proxy<'_>, client: &Client, text: &str) -> Result<Self, AskedError> {
        let (host, port) = split(text);
        let target = Target::find(proxy, client, host)?;
        let port = match port {
            Some(port) => port,
            None => target.only_port(proxy.mesh, client, host)?,
        };
        let named = match &target {
            Target::Address(_) => None,
            Target::Service(service, ip) => Some(format!("{host} is the service {}, at {ip}", service.key())),
            Target::Workload(workload, ip) => {
                Some(format!("{host} is the workload {}, at {ip}", workload.uid()))
            }
            Target::Name(ip) => Some(format!("the name {host} stands for {ip} to this client")),
        };
        let dst = OrigDst::new((target.ip(), port).into());
        Ok(Self { dst, named: named.map(Sentence::new).into_iter().collect() })
    }
}

// === impl Target ===

impl Target {
    fn find(proxy: Proxy<'_>, client: &Client, host: &str) -> Result<Self, AskedError> {
        if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Self::Address(ip.to_canonical()));
        }
        let mesh = proxy.mesh;
        if host.contains('/') {
            if let Some(service) = service(mesh, host) {
                let ip = address_of(mesh, client, &service);
                let ip = ip.ok_or_else(|| AskedError::NoAddress(service.key().to_string()))?;
                return Ok(Self::Service(service, ip));
            }
            let found = workload(mesh, host).ok_or_else(|| unknown(mesh, client, host))?;
            let ip = *found.addresses().first().ok_or_else(|| AskedError::NoAddress(found.full_name()))?;
            return Ok(Self::Workload(found, ip));
        }
        let asker = Asker {
            namespace: client.namespace(),
            network: client.workload.as_deref().map_or(&mesh.local().network, Workload::network),
            domain: &mesh.local().cluster_domain,
            search: None,
            preferred_namespace: proxy.settings.preferred_namespace.as_deref(),
            ipv6: proxy.settings.ipv6,
        };
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let families = [Family::V4, Family::V6].into_iter();
        let mut found = families.filter_map(|family| lookup::find(mesh, &asker, host, family)).peekable();
        if found.peek().is_none() {
            return Err(unknown(mesh, client, host));
        }
        let ip = found.find_map(|found| found.addresses.into_iter().min());
        ip.map(Self::Name).ok_or_else(|| AskedError::NoAddress(host.to_owned()))
    }

    fn ip(&self) -> IpAddr {
        match self {
            Self::Address(ip) | Self::Service(_, ip) | Self::Workload(_, ip) | Self::Name(ip) => *ip,
        }
    }

    /// The port of a service with one port.
    fn only_port(&self, mesh: &Mesh, client: &Client, host: &str) -> Result<u16, AskedError> {
        let service = match self {
            Self::Service(service, _) => Some(service.clone()),
            Self::Workload(..) => None,
            Self::Address(ip) | Self::Name(ip) => {
                mesh.service_by_vip(&mesh.local().network, *ip, client.namespace())
            }
        };
        let ports: Vec<u16> =
            service.iter().flat_map(|service| service.ports().iter()).map(|(port, _)| port).collect();
        if let [port] = ports.as_slice() {
            return Ok(*port);
        }
        let known = match &service {
            Some(service) => {
                let ports = ports.iter().map(ToString::to_string).collect();
                format!("ports of the service {}: {}", service.key(), listed(ports))
            }
            None => "it is no service".to_owned(),
        };
        Err(AskedError::Port { asked: host.to_owned(), known })
    }
}

/// The workload of a uid, of `namespace/name`, or of a name that only one workload has.
fn workload(mesh: &Mesh, text: &str) -> Option<Arc<Workload>> {
    if let Some(found) = mesh.workload(text) {
        return Some(found);
    }
    let all = mesh.all_workloads();
    match text.split_once('/') {
        Some((namespace, pod)) => by_name(&all, namespace, pod).next().cloned(),
        None => {
            let mut named = all.iter().filter(|workload| workload.name() == text);
            named.next().filter(|_| named.next().is_none()).cloned()
        }
    }
}

/// The service of `namespace/hostname`, or of `namespace/name`.
fn service(mesh: &Mesh, text: &str) -> Option<Arc<Service>> {
    let (namespace, host) = text.split_once('/')?;
    mesh.service(namespace, host).or_else(|| {
        let mut named: Vec<Arc<Service>> = mesh.all_services();
        named.retain(|service| service.namespace() == namespace && service.name() == host);
        named.into_iter().min_by(|a, b| a.key().cmp(b.key()))
    })
}

/// The address by which the client would ask for a service: one of the client's network, or an endpoint's.
fn address_of(mesh: &Mesh, client: &Client, service: &Service) -> Option<IpAddr> {
    let network = client.workload.as_deref().map_or(&*mesh.local().network, Workload::network);
    let own = service.vips().iter().filter(|vip| *vip.network == *network).map(|vip| vip.ip);
    let best = own.min_by_key(IpAddr::is_ipv6);
    if best.is_some() || !service.vips().is_empty() {
        return best;
    }
    let endpoints = mesh.endpoints(service)?;
    let admitted = endpoints.workloads().iter().filter(|workload| service.admits(workload));
    admitted.filter_map(|workload| workload.addresses().first().copied()).min()
}

/// Host and port of `host:port`; the host alone if there is no port.
fn split(text: &str) -> (&str, Option<u16>) {
    let is_address = text.parse::<IpAddr>().is_ok();
    match text.rsplit_once(':') {
        Some((host, port)) if !is_address => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (text, None),
        },
        _ => (text, None),
    }
}

fn unknown(mesh: &Mesh, client: &Client, host: &str) -> AskedError {
    let mut all = mesh.all_services();
    let namespace = client.namespace();
    all.retain(|service| service.visible_to(namespace));
    all.sort_by(|a, b| (a.namespace() != namespace, a.key()).cmp(&(b.namespace() != namespace, b.key())));
    let known = listed(all.iter().map(|service| service.key().to_string()).collect());
    AskedError::Destination { asked: host.to_owned(), known: format!("services: {known}") }
}

/// A list of names, cut where it is long.
pub(super) fn listed(names: Vec<String>) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let more = names.len().saturating_sub(NAMES_LISTED);
    let shown = names.into_iter().take(NAMES_LISTED).collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// The workloads of this namespace and name.
fn by_name<'a>(
    all: &'a [Arc<Workload>],
    namespace: &'a str,
    name: &'a str,
) -> impl Iterator<Item = &'a Arc<Workload>> {
    all.iter().filter(move |workload| workload.name() == name && workload.namespace() == namespace)
}

//! Names of the mesh.

use std::{net::IpAddr, sync::Arc};

use super::names::{Place, candidates, wildcards};
use crate::protocols::mesh::{Mesh, Service, service::IpFamilies};

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4, by A.
    V4,
    /// IPv6, by AAAA.
    V6,
}

/// Who asks, and how it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The network it is on: only addresses of that are of use to it.
    pub network: &'a str,
    /// The cluster's domain.
    pub domain: &'a str,
    /// Whose service goes before others that are as good.
    pub preferred_namespace: Option<&'a str>,
    /// Whether there is IPv6 at all.
    pub ipv6: bool,
}

/// What a name stands for. It may have no address of the family asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The addresses, in no order that means anything.
    pub addresses: Vec<IpAddr>,
    /// The name that the addresses belong to, if it is another than the one asked for.
    pub alias: Option<String>,
}

/// What `name`, in lower case and without a dot at its end, stands for in the mesh; `None` if it is none of its names.
pub(crate) fn find(mesh: &Mesh, asker: &Asker<'_>, name: &str, family: Family) -> Option<Found> {
    let place = Place { namespace: asker.namespace, domain: asker.domain };
    candidates(name, &place).into_iter().find_map(|candidate| {
        let (service, is_wildcard) = service(mesh, asker, &candidate.host)?;
        let alias = candidate.stripped.filter(|_| !is_wildcard).map(str::to_owned);
        Some(Found { addresses: addresses(mesh, asker, &service, family), alias })
    })
}

/// The service of that host or of a wildcard around it, and whether it is the latter.
fn service(mesh: &Mesh, asker: &Asker<'_>, host: &str) -> Option<(Arc<Service>, bool)> {
    let exact = best(mesh, asker, host).map(|service| (service, false));
    exact.or_else(|| wildcards(host).find_map(|host| Some((best(mesh, asker, &host)?, true))))
}

/// The service that the asker means by `host`: of its namespace, else canonical, else of the preferred namespace, else
/// the first.
fn best(mesh: &Mesh, asker: &Asker<'_>, host: &str) -> Option<Arc<Service>> {
    let in_cluster = host.strip_suffix(asker.domain).is_some_and(|rest| rest.ends_with(".svc."));
    let mut services = mesh.services_by_host(host, asker.namespace);
    // Without an address of its own only what Kubernetes calls headless is answered; the rest is somebody else's name.
    services.retain(|service| in_cluster || !service.vips().is_empty());
    let first = services.first()?;
    let preferred = |service: &&Arc<Service>| Some(service.namespace()) == asker.preferred_namespace;
    if first.namespace() == asker.namespace || first.canonical() {
        return Some(first.clone());
    }
    Some(services.iter().find(preferred).unwrap_or(first).clone())
}

fn addresses(mesh: &Mesh, asker: &Asker<'_>, service: &Service, family: Family) -> Vec<IpAddr> {
    let limit = match service.ip_families() {
        Some(IpFamilies::V4) => family == Family::V4,
        Some(IpFamilies::V6) => family == Family::V6,
        Some(IpFamilies::Dual) | None => true,
    };
    if !limit || (family == Family::V6 && !asker.ipv6) {
        return Vec::new();
    }
    let is_asked_for = |ip: &IpAddr| ip.is_ipv4() == (family == Family::V4);
    if !service.vips().is_empty() {
        let own = service.vips().iter().filter(|vip| *vip.network == *asker.network);
        return own.map(|vip| vip.ip).filter(is_asked_for).collect();
    }
    let Some(endpoints) = mesh.endpoints(service) else { return Vec::new() };
    let ready = endpoints.workloads().iter().filter(|workload| service.admits(workload));
    ready.filter_map(|workload| workload.addresses().iter().copied().find(is_asked_for)).collect()
}

//! Lookup of DNS names in the mesh tables.

use std::{net::IpAddr, sync::Arc};

use super::names::{Place, candidates, wildcards};
use crate::protocols::mesh::{Mesh, Service, service::IpFamilies};

/// The address family of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4, queried by type A.
    V4,
    /// IPv6, queried by type AAAA.
    V6,
}

/// The pod that sends a query, and the settings for its answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's network. Only addresses of this network are answered.
    pub network: &'a str,
    /// The cluster's domain.
    pub domain: &'a str,
    /// The search domains of the pod's resolver; `None` stands for those that Kubernetes sets.
    pub search: Option<&'a [String]>,
    /// The namespace whose service wins against equally good services of other namespaces.
    pub preferred_namespace: Option<&'a str>,
    /// Whether IPv6 is enabled.
    pub ipv6: bool,
}

/// The addresses of a name. There may be no address of the queried family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The addresses, in arbitrary order.
    pub addresses: Vec<IpAddr>,
    /// The name that owns the addresses, if that name differs from the queried name.
    pub alias: Option<String>,
}

/// Looks up `name`, which is in lower case and has no final dot. The result is `None` if the mesh does not know `name`.
pub(crate) fn find(mesh: &Mesh, asker: &Asker<'_>, name: &str, family: Family) -> Option<Found> {
    let place = Place { namespace: asker.namespace, domain: asker.domain, search: asker.search };
    candidates(name, &place).into_iter().find_map(|candidate| {
        let (service, is_wildcard) = service(mesh, asker, &candidate.host)?;
        let alias = candidate.stripped.filter(|_| !is_wildcard).map(str::to_owned);
        Some(Found { addresses: addresses(mesh, asker, &service, family), alias })
    })
}

/// Finds the service of `host` or of a wildcard that covers `host`. The second value tells whether a wildcard matched.
fn service(mesh: &Mesh, asker: &Asker<'_>, host: &str) -> Option<(Arc<Service>, bool)> {
    let exact = best(mesh, asker, host).map(|service| (service, false));
    exact.or_else(|| wildcards(host).find_map(|host| Some((best(mesh, asker, &host)?, true))))
}

/// Finds the service that the asker means by `host`. The order of preference is: a service of the asker's namespace, a
/// canonical service, a service of the preferred namespace, the first service.
fn best(mesh: &Mesh, asker: &Asker<'_>, host: &str) -> Option<Arc<Service>> {
    let in_cluster = host.strip_suffix(asker.domain).is_some_and(|rest| rest.ends_with(".svc."));
    let mut services = mesh.services_by_host(host, asker.namespace);
    // A service without virtual addresses is answered only if it is a headless service of Kubernetes. The name of
    // any other such service belongs to another name server.
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

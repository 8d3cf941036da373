//! The tables of the mesh: workloads, services and policies.
//!
//! Every connection reads the [`Mesh`], and [`MeshWriter`] changes it. A reader locks one entry of one index at a time
//! and only clones a reference under the lock. A push holds such a lock only while it replaces one reference.
//! Endpoints of services are derived from the workloads, so the order of pushes does not matter. Endpoints may come
//! before their service, the service may be deleted and made again, and its health policy may change.

pub(crate) mod decode;
#[cfg(any(test, fuzzing))]
pub(crate) mod fixtures;
pub(crate) mod gateway;
mod index;
mod ledger;
mod named;
pub mod policy;
pub(crate) mod service;
mod tables;
pub(crate) mod workload;
pub(crate) mod writer;

#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
};

use ipnet::IpNet;
use smallvec::SmallVec;

use self::tables::Tables;
pub use self::{
    decode::{DecodeError, Ports, ServiceName},
    gateway::{ApplicationTunnel, Gateway, GatewayDestination, TunnelHeader, WeightedWaypoint},
    policy::PolicyTable,
    service::{Endpoints, Service},
    tables::LocalNode,
    workload::{Membership, Place, TunnelProtocol, Workload},
    writer::{Applied, CHANGES_PER_TURN, Change, MeshWriter, push_order},
};

/// The number of looks for a service that moves to other addresses meanwhile.
/// Limit: looks for a service while services move to other addresses: 8; past it: what the last look found counts.
const STEADY_LOOKS: usize = 8;

/// The tables of the mesh. Cloning copies a reference.
#[derive(Clone)]
pub struct Mesh(Arc<Tables>);

/// A pod as the node's CNI plugin names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkloadInfo {
    /// The pod's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
}

// === impl Mesh ===

impl Mesh {
    /// Makes empty tables.
    pub fn new(local: LocalNode) -> Self {
        Self(Arc::new(Tables::new(local)))
    }

    /// Makes a writer of these tables. There should be one writer at a time; see [`MeshWriter`].
    pub fn writer(&self) -> MeshWriter {
        MeshWriter::new(Arc::clone(&self.0))
    }

    /// The node that this proxy runs on.
    pub fn local(&self) -> &LocalNode {
        &self.0.local
    }

    /// The workload with the given uid.
    pub fn workload(&self, uid: &str) -> Option<Arc<Workload>> {
        self.0.workload(uid)
    }

    /// The workload that owns an address of a network. Among several workloads a pod wins, then a workload reached by
    /// HBONE, then the workload added last. Workloads in the host's network own no address.
    pub fn workload_by_ip(&self, network: &str, ip: IpAddr) -> Option<Arc<Workload>> {
        let owns = |workload: &Workload| workload.network() == network && workload.addresses().contains(&ip);
        let key = self.0.keys.address(network, ip);
        self.0.by_address.best(key, owns, |a, b| a.claim().cmp(&b.claim()))
    }

    /// The workload with the given namespace and hostname. Several workloads are ranked as in [`Self::workload_by_ip`].
    pub fn workload_by_hostname(&self, name: &ServiceName) -> Option<Arc<Workload>> {
        let (namespace, hostname) = name.parts();
        let is_it = |workload: &Workload| {
            workload.namespace() == namespace && workload.hostname().is_some_and(|own| **own == *hostname)
        };
        let key = self.0.keys.service(namespace, hostname);
        self.0.by_hostname.best(key, is_it, |a, b| a.claim().cmp(&b.claim()))
    }

    /// The workload of a pod of this node: an exact match among the workloads of the own node
    /// (docs/spec/dataplane.md 0).
    pub fn local_workload(&self, info: &WorkloadInfo) -> Option<Arc<Workload>> {
        let is_it = |workload: &Workload| {
            workload.name() == info.name
                && workload.namespace() == info.namespace
                && workload.service_account() == info.service_account
        };
        let key = self.0.keys.pod(&info.namespace, &info.name, &info.service_account);
        self.0.local_pods.best(key, is_it, |a, b| a.claim().cmp(&b.claim()))
    }

    /// All workloads of the own node. Without a node's name these are all workloads.
    pub(crate) fn local_workloads(&self) -> Vec<Arc<Workload>> {
        self.0.local_pods.values()
    }

    /// The service that a client of `client_namespace` means by an address: a service with exactly that address, else a
    /// service with a range around the address (docs/spec/dataplane.md 3.3). Services hidden from the client are
    /// skipped.
    pub fn service_by_vip(&self, network: &str, ip: IpAddr, client_namespace: &str) -> Option<Arc<Service>> {
        self.steadily(|| {
            self.service_by_exact_vip(network, ip, client_namespace, Sight::Client)
                .or_else(|| self.service_by_cidr_vip(network, ip, client_namespace, Sight::Client))
        })
    }

    /// The result of `look`, which looks in several places. If a service has moved from one of them to another and nothing
    /// was found, `look` looks again.
    pub(in crate::protocols) fn steadily<T>(&self, look: impl Fn() -> Option<T>) -> Option<T> {
        let moves = || self.0.services.moves.load(Ordering::Acquire);
        for _ in 1..STEADY_LOOKS {
            let before = moves();
            let found = look();
            if found.is_some() || moves() == before {
                return found;
            }
        }
        look()
    }

    /// The service with exactly the given address.
    pub(in crate::protocols) fn service_by_exact_vip(
        &self,
        network: &str,
        ip: IpAddr,
        client_namespace: &str,
        sight: Sight,
    ) -> Option<Arc<Service>> {
        let has = |service: &Service| {
            sight.sees(service, client_namespace)
                && service.vips().iter().any(|vip| vip.ip == ip && *vip.network == *network)
        };
        let key = self.0.keys.address(network, ip);
        self.0.services.by_vip.best(key, has, |a, b| a.preference(b, client_namespace))
    }

    /// The service with a range around the address. A service of the client's namespace wins, then the narrowest range.
    pub(in crate::protocols) fn service_by_cidr_vip(
        &self,
        network: &str,
        ip: IpAddr,
        client_namespace: &str,
        sight: Sight,
    ) -> Option<Arc<Service>> {
        let tables = &self.0.services;
        let mut best: Option<Arc<Service>> = None;
        for length in tables.prefixes.iter(ip.is_ipv6()) {
            let Ok(cidr) = IpNet::new(ip, length).map(|cidr| cidr.trunc()) else { continue };
            let has = |service: &Service| {
                sight.sees(service, client_namespace)
                    && service.cidr_vips().iter().any(|vip| vip.cidr == cidr && *vip.network == *network)
            };
            let key = self.0.keys.cidr(network, &cidr);
            let found = tables.by_cidr.best(key, has, |a, b| a.preference(b, client_namespace));
            let own = |service: &Arc<Service>| service.namespace() == client_namespace;
            // The prefix lengths ascend, so a later match is narrower.
            best = match (best, found) {
                (Some(wider), Some(found)) if own(&wider) && !own(&found) => Some(wider),
                (wider, found) => found.or(wider),
            };
        }
        best
    }

    /// The service that a client of `client_namespace` means by a hostname. The comparison is case-sensitive.
    pub fn service_by_host(&self, hostname: &str, client_namespace: &str) -> Option<Arc<Service>> {
        self.services_by_host(hostname, client_namespace).into_iter().next()
    }

    /// All services of a hostname that a client of `client_namespace` may see. A service of the client's namespace
    /// comes first, then canonical services, then the others by namespace.
    pub fn services_by_host(&self, hostname: &str, client_namespace: &str) -> SmallVec<[Arc<Service>; 2]> {
        let mut found: SmallVec<[Arc<Service>; 2]> = SmallVec::new();
        self.0.services.by_host.each(self.0.keys.name(hostname), |service| {
            if service.hostname() == hostname && service.visible_to(client_namespace) {
                found.push(Arc::clone(service));
            }
        });
        found.sort_by(|a, b| b.preference(a, client_namespace));
        found
    }

    /// The service with the given namespace and hostname, whatever its visibility.
    pub fn service(&self, namespace: &str, hostname: &str) -> Option<Arc<Service>> {
        self.0.service(namespace, hostname)
    }

    /// The healthy and unhealthy endpoints of a service, if there are any. Check [`Service::admits`] before using one.
    pub fn endpoints(&self, service: &Service) -> Option<Arc<Endpoints>> {
        self.0.endpoints(service.key())
    }

    /// The known services of which `workload` is an endpoint.
    pub fn services_of(&self, workload: &Workload) -> impl Iterator<Item = Arc<Service>> {
        workload.services().iter().filter_map(|membership| {
            let (namespace, hostname) = membership.service.parts();
            self.service(namespace, hostname)
        })
    }

    /// The current policies.
    pub fn policies(&self) -> Arc<PolicyTable> {
        self.0.policies.load_full()
    }

    /// Whether the control plane has answered about policies since a workload of the own node names the policy `key`.
    pub fn has_answered(&self, key: &str) -> bool {
        self.0.named_policies.is_answered(key)
    }

    /// The number of known workloads.
    pub fn workload_count(&self) -> usize {
        self.0.workload_count.load(Ordering::Relaxed)
    }

    /// The number of known services.
    pub fn service_count(&self) -> usize {
        self.0.service_count.load(Ordering::Relaxed)
    }

    /// All workloads, for dumps. The call walks the whole table, but never locks more than one part of the table.
    pub fn all_workloads(&self) -> Vec<Arc<Workload>> {
        self.0.workloads.values()
    }

    /// All services, for dumps.
    pub fn all_services(&self) -> Vec<Arc<Service>> {
        self.0.services.by_name.values()
    }

    /// The endpoints of all services, including services not known yet, for dumps.
    pub fn all_endpoints(&self) -> Vec<Arc<Endpoints>> {
        self.0.endpoints.values()
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn named_policies(&self) -> usize {
        self.0.named_policies.len()
    }

    #[cfg(test)]
    pub(crate) fn interned(&self) -> (usize, usize, usize) {
        self.0.ledger.lock().parts.counts()
    }
}

/// The viewer for whom a service is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocols) enum Sight {
    /// A client, from whom some services are hidden.
    Client,
    /// The control plane, which refers to a waypoint or gateway. No service is hidden from the control plane.
    ControlPlane,
}

// === impl Sight ===

impl Sight {
    fn sees(self, service: &Service, client_namespace: &str) -> bool {
        self == Self::ControlPlane || service.visible_to(client_namespace)
    }
}

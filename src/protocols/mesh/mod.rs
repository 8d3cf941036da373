//! What is known of the mesh: workloads, services, policies.
//!
//! [`Mesh`] is read by every connection; [`MeshWriter`] changes it. A reader takes the lock of one entry of one index at
//! a time, for as long as it takes to clone a reference; no push holds such a lock longer than it takes to replace one.
//! Endpoints of services are derived from the workloads, so that they are right whatever order things come in: before
//! their service, after it was deleted and made again, or when its health policy changes.

pub(crate) mod decode;
#[cfg(test)]
pub(crate) mod fixtures;
pub(crate) mod gateway;
mod index;
mod ledger;
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

/// Everything known of the mesh. Cloning copies a reference.
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
    /// Nothing known yet.
    pub fn new(local: LocalNode) -> Self {
        Self(Arc::new(Tables::new(local)))
    }

    /// A writer of these tables. There should be one at a time; see [`MeshWriter`].
    pub fn writer(&self) -> MeshWriter {
        MeshWriter::new(Arc::clone(&self.0))
    }

    /// Where this proxy runs.
    pub fn local(&self) -> &LocalNode {
        &self.0.local
    }

    /// The workload of that uid.
    pub fn workload(&self, uid: &str) -> Option<Arc<Workload>> {
        self.0.workload(uid)
    }

    /// The workload that owns an address of a network. Of several, a pod goes before anything else, then one that is
    /// reached by HBONE, then the one known last. Workloads of the host's network own no address.
    pub fn workload_by_ip(&self, network: &str, ip: IpAddr) -> Option<Arc<Workload>> {
        let owns = |workload: &Workload| workload.network() == network && workload.addresses().contains(&ip);
        let key = self.0.keys.address(network, ip);
        self.0.by_address.best(key, owns, |a, b| a.claim().cmp(&b.claim()))
    }

    /// The workload of that namespace and hostname; of several, as for addresses.
    pub fn workload_by_hostname(&self, name: &ServiceName) -> Option<Arc<Workload>> {
        let (namespace, hostname) = name.parts();
        let is_it = |workload: &Workload| {
            workload.namespace() == namespace && workload.hostname().is_some_and(|own| **own == *hostname)
        };
        let key = self.0.keys.service(namespace, hostname);
        self.0.by_hostname.best(key, is_it, |a, b| a.claim().cmp(&b.claim()))
    }

    /// The workload a pod of this node is: an exact match among those of the own node
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

    /// The service a client of `client_namespace` means by an address: one with exactly that address, else one with a
    /// range around it (docs/spec/dataplane.md 3.3). Services it may not see are passed over.
    pub fn service_by_vip(&self, network: &str, ip: IpAddr, client_namespace: &str) -> Option<Arc<Service>> {
        self.service_by_exact_vip(network, ip, client_namespace, Sight::Client)
            .or_else(|| self.service_by_cidr_vip(network, ip, client_namespace, Sight::Client))
    }

    /// Only those with exactly that address.
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

    /// Only those with a range around it: one of the client's namespace goes first, then the narrowest.
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
            // Lengths ascend: what is found later is narrower.
            best = match (best, found) {
                (Some(wider), Some(found)) if own(&wider) && !own(&found) => Some(wider),
                (wider, found) => found.or(wider),
            };
        }
        best
    }

    /// The service a client of `client_namespace` means by a hostname, which is compared as it is.
    pub fn service_by_host(&self, hostname: &str, client_namespace: &str) -> Option<Arc<Service>> {
        self.services_by_host(hostname, client_namespace).into_iter().next()
    }

    /// All services of that hostname a client of `client_namespace` may see: first one of its own namespace, then
    /// canonical ones, then by namespace.
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

    /// The service of that namespace and hostname, whoever may see it.
    pub fn service(&self, namespace: &str, hostname: &str) -> Option<Arc<Service>> {
        self.0.service(namespace, hostname)
    }

    /// The endpoints of a service, if it has any, healthy or not. Ask [`Service::admits`] before using one.
    pub fn endpoints(&self, service: &Service) -> Option<Arc<Endpoints>> {
        self.0.endpoints(service.key())
    }

    /// The services `workload` is an endpoint of, as far as they are known.
    pub fn services_of(&self, workload: &Workload) -> impl Iterator<Item = Arc<Service>> {
        workload.services().iter().filter_map(|membership| {
            let (namespace, hostname) = membership.service.parts();
            self.service(namespace, hostname)
        })
    }

    /// The policies of this moment.
    pub fn policies(&self) -> Arc<PolicyTable> {
        self.0.policies.load_full()
    }

    /// How many workloads are known.
    pub fn workload_count(&self) -> usize {
        self.0.workload_count.load(Ordering::Relaxed)
    }

    /// How many services are known.
    pub fn service_count(&self) -> usize {
        self.0.service_count.load(Ordering::Relaxed)
    }

    /// All workloads. For dumps: it walks the whole table, though without ever locking more than a part of it.
    pub fn all_workloads(&self) -> Vec<Arc<Workload>> {
        self.0.workloads.values()
    }

    /// All services. For dumps.
    pub fn all_services(&self) -> Vec<Arc<Service>> {
        self.0.services.by_name.values()
    }

    /// The endpoints of all services, also of those not known yet. For dumps.
    pub fn all_endpoints(&self) -> Vec<Arc<Endpoints>> {
        self.0.endpoints.values()
    }

    #[cfg(test)]
    pub(crate) fn interned(&self) -> (usize, usize, usize) {
        self.0.ledger.lock().parts.counts()
    }
}

/// Whose eyes look for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocols) enum Sight {
    /// A client's, from whom some services are hidden.
    Client,
    /// The control plane's, which refers to a waypoint or gateway: nothing is hidden.
    ControlPlane,
}

// === impl Sight ===

impl Sight {
    fn sees(self, service: &Service, client_namespace: &str) -> bool {
        self == Self::ControlPlane || service.visible_to(client_namespace)
    }
}

//! The tables that a mesh consists of.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{
    decode::ServiceName,
    index::{Index, Keys, PrefixLengths, Version},
    ledger::Ledger,
    named::NamedPolicies,
    policy::PolicyTable,
    service::{Endpoints, Service},
    workload::Workload,
};

/// The node that this proxy runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalNode {
    /// The node's network. An empty name is the default network.
    pub network: String,
    /// The node's name. Without a name every workload counts as local, and no certificate is prefetched.
    pub node: Option<String>,
    /// The DNS domain of the cluster.
    pub cluster_domain: String,
}

/// All tables. A reader locks one entry at a time, and the writer replaces values in place.
pub(super) struct Tables {
    pub(super) local: LocalNode,
    pub(super) keys: Keys,
    pub(super) workloads: Index<Workload>,
    pub(super) by_address: Index<Workload>,
    pub(super) by_hostname: Index<Workload>,
    pub(super) local_pods: Index<Workload>,
    pub(super) services: ServiceTables,
    pub(super) endpoints: Index<Endpoints>,
    pub(super) policies: ArcSwap<PolicyTable>,
    pub(super) named_policies: NamedPolicies,
    pub(super) workload_count: AtomicUsize,
    pub(super) service_count: AtomicUsize,
    pub(super) ledger: Mutex<Ledger>,
}

/// The services, indexed by each of their keys.
#[derive(Default)]
pub(super) struct ServiceTables {
    pub(super) by_name: Index<Service>,
    pub(super) by_host: Index<Service>,
    pub(super) by_vip: Index<Service>,
    pub(super) by_cidr: Index<Service>,
    pub(super) prefixes: PrefixLengths,
    /// How often a service took on other names or addresses, counted before the old ones go.
    pub(super) moves: AtomicU64,
}

// === impl Tables ===

impl Tables {
    /// Makes empty tables.
    pub(super) fn new(local: LocalNode) -> Self {
        Self {
            local,
            keys: Keys::default(),
            workloads: Index::default(),
            by_address: Index::default(),
            by_hostname: Index::default(),
            local_pods: Index::default(),
            services: ServiceTables::default(),
            endpoints: Index::default(),
            policies: ArcSwap::default(),
            named_policies: NamedPolicies::default(),
            workload_count: AtomicUsize::new(0),
            service_count: AtomicUsize::new(0),
            ledger: Mutex::default(),
        }
    }

    pub(super) fn workload(&self, uid: &str) -> Option<Arc<Workload>> {
        self.workloads.find(self.keys.name(uid), |workload| workload.uid() == uid)
    }

    pub(super) fn service(&self, namespace: &str, hostname: &str) -> Option<Arc<Service>> {
        let key = self.keys.service(namespace, hostname);
        self.services.by_name.find(key, |service| service.key().parts() == (namespace, hostname))
    }

    pub(super) fn endpoints(&self, service: &ServiceName) -> Option<Arc<Endpoints>> {
        let (namespace, hostname) = service.parts();
        self.endpoints.find(self.keys.service(namespace, hostname), |found| found.service() == service)
    }

    pub(super) fn is_local(&self, workload: &Workload) -> bool {
        self.local.node.as_deref().is_none_or(|node| node == workload.node())
    }

    pub(super) fn is_on_named_node(&self, workload: &Workload) -> bool {
        self.local.node.as_deref() == Some(workload.node())
    }
}

// === impl Version ===

impl Version for Workload {
    fn same(&self, other: &Self) -> bool {
        self.uid() == other.uid()
    }
}

impl Version for Service {
    fn same(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Version for Endpoints {
    fn same(&self, other: &Self) -> bool {
        self.service() == other.service()
    }
}

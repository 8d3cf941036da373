//! The only writer of the tables.

#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use foldhash::{HashSet, HashSetExt};
use smallvec::SmallVec;

use super::{
    decode::DecodeError,
    index::{Index, Version},
    ledger::Ledger,
    policy::PolicyTable,
    service::{CidrVip, Service},
    tables::{ServiceTables, Tables},
    workload::Workload,
};
use crate::protocols::{identity::Identity, pb::workload as pb};

/// The number of changes in a slice, which takes a fraction of a millisecond.
/// Limit: changes of a push that are applied in one turn: 256; past it: other actors go first.
pub const CHANGES_PER_TURN: usize = 256;

/// A change of one resource.
#[derive(Clone, Debug)]
pub enum Change {
    /// Adds a workload, or replaces the workload with the same uid.
    Workload(Workload),
    /// Adds a service, or replaces the service with the same namespace and hostname.
    Service(Arc<Service>),
    /// Removes the resource with this name.
    Remove(Box<str>),
}

/// Changes the tables of a [`Mesh`](super::Mesh).
///
/// There should be one writer at a time. If two writers exist, their slices wait for each other and stay correct. A
/// writer holds no state of its own, so a new writer continues where a crashed writer stopped.
/// Limit: workloads, services and policies: as many as the control plane sends, without a bound here; past it: memory
/// grows.
pub struct MeshWriter {
    tables: Arc<Tables>,
}

/// The changes that a slice made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The number of workloads added or changed. Workloads that were pushed again unchanged do not count.
    pub workloads: usize,
    /// The number of services added or changed.
    pub services: usize,
    /// The number of workloads and services removed.
    pub removed: usize,
    /// The identities of the own node that newly need a certificate, for HBONE or for a native tunnel.
    pub identities_appeared: Vec<Identity>,
    /// The identities without any workload left on the own node.
    pub identities_vanished: Vec<Identity>,
    /// Whether a workload of the own node was added, changed or removed. Without a node name every workload counts.
    pub local_changed: bool,
}

type RowKeys = SmallVec<[u64; 2]>;

// === impl Change ===

impl Change {
    /// Decodes a top-level resource.
    ///
    /// # Errors
    /// The errors of [`Workload::decode`] and [`Service::decode`], or the resource is neither.
    pub fn decode(pb: pb::Address) -> Result<Self, DecodeError> {
        match pb.r#type.ok_or(DecodeError::Missing("type"))? {
            pb::address::Type::Workload(pb) => Workload::decode(pb).map(Self::Workload),
            pb::address::Type::Service(pb) => Service::decode(pb).map(Arc::new).map(Self::Service),
        }
    }

    /// The resource's name: a uid or `namespace/hostname`.
    pub fn name(&self) -> &str {
        match self {
            Self::Workload(workload) => workload.uid(),
            Self::Service(service) => service.key().as_str(),
            Self::Remove(name) => name,
        }
    }
}

/// The order in which a push is applied: updates, then removals. A removal of a resource that the same push updates is
/// left out, so the update stays (docs/spec/controlplane.md 2.4, docs/spec/dataplane.md 10).
pub fn push_order(updates: Vec<Change>, removals: Vec<String>) -> impl Iterator<Item = Change> {
    let mut brought: HashSet<Box<str>> = HashSet::new();
    if !removals.is_empty() {
        let gone: HashSet<&str> = removals.iter().map(String::as_str).collect();
        brought =
            updates.iter().map(Change::name).filter(|name| gone.contains(name)).map(Box::from).collect();
    }
    let removals = removals.into_iter().map(String::into_boxed_str);
    let removals = removals.filter(move |name| !brought.contains(name)).map(Change::Remove);
    updates.into_iter().chain(removals)
}

// === impl MeshWriter ===

impl MeshWriter {
    /// Makes a writer of `tables`.
    pub(super) fn new(tables: Arc<Tables>) -> Self {
        Self { tables }
    }

    /// Applies `changes` in order. A large push must not hold up the thread, so pass
    /// `changes.by_ref().take(CHANGES_PER_TURN)` until no change is left, and yield in between. The changes of a slice
    /// are visible when the slice ends. Readers are never stopped.
    pub fn apply(&mut self, changes: impl Iterator<Item = Change>) -> Applied {
        let tables = &*self.tables;
        let ledger = &mut *tables.ledger.lock();
        let mut applied = Applied::default();
        for change in changes {
            match change {
                Change::Workload(workload) => tables.upsert_workload(ledger, workload, &mut applied),
                Change::Service(service) => tables.upsert_service(ledger, &service, &mut applied),
                Change::Remove(name) => tables.remove(ledger, &name, &mut applied),
            }
        }
        ledger.pending.flush(
            |service| tables.endpoints(service),
            |endpoints| {
                let (namespace, hostname) = endpoints.service().parts();
                let key = tables.keys.service(namespace, hostname);
                if endpoints.workloads().is_empty() {
                    tables.endpoints.remove(key, &endpoints);
                } else {
                    tables.endpoints.put(key, &Arc::new(endpoints));
                }
            },
        );
        (applied.identities_appeared, applied.identities_vanished) = ledger.locals.settle();
        applied
    }

    /// Replaces the policies.
    pub fn set_policies(&mut self, policies: Arc<PolicyTable>) {
        self.tables.policies.store(policies);
    }

    /// Notes that an answer of the control plane about policies was applied as a whole.
    pub fn answered_policies(&mut self) {
        self.tables.named_policies.answered();
    }
}

// === impl Applied ===

impl Applied {
    /// Adds the changes of the next slice.
    pub fn merge(&mut self, next: Self) {
        self.workloads += next.workloads;
        self.services += next.services;
        self.removed += next.removed;
        self.local_changed |= next.local_changed;
        self.identities_appeared.retain(|identity| !next.identities_vanished.contains(identity));
        self.identities_vanished.retain(|identity| !next.identities_appeared.contains(identity));
        self.identities_appeared.extend(next.identities_appeared);
        self.identities_vanished.extend(next.identities_vanished);
    }
}

// === impl Tables ===

impl Tables {
    fn upsert_workload(&self, ledger: &mut Ledger, workload: Workload, applied: &mut Applied) {
        let new = ledger.parts.share(workload);
        let old = self.workload(new.uid());
        if old.as_deref() == Some(&new) {
            return;
        }
        let new = Arc::new(new);
        if self.workloads.put(self.keys.name(new.uid()), &new) {
            self.workload_count.fetch_add(1, Ordering::Relaxed);
        }
        self.reindex_workload(ledger, old.as_ref(), Some(&new));
        applied.workloads += 1;
        applied.local_changed |= self.is_local(&new) || old.is_some_and(|old| self.is_local(&old));
    }

    fn remove_workload(&self, ledger: &mut Ledger, old: &Arc<Workload>, applied: &mut Applied) {
        self.reindex_workload(ledger, Some(old), None);
        if self.workloads.remove(self.keys.name(old.uid()), old) {
            decrement(&self.workload_count);
        }
        applied.removed += 1;
        applied.local_changed |= self.is_local(old);
    }

    fn reindex_workload(
        &self,
        ledger: &mut Ledger,
        old: Option<&Arc<Workload>>,
        new: Option<&Arc<Workload>>,
    ) {
        reindex(&self.by_address, old, new, |workload| self.address_keys(workload));
        reindex(&self.by_hostname, old, new, |workload| self.hostname_keys(workload));
        reindex(&self.local_pods, old, new, |workload| self.pod_keys(workload));
        if let Some(new) = new {
            ledger.pending.add(new);
            if self.is_local(new) {
                self.named_policies.add(new);
            }
            if self.is_on_named_node(new) {
                ledger.locals.add(new);
            }
        }
        if let Some(old) = old {
            ledger.pending.remove(old);
            if self.is_local(old) {
                self.named_policies.remove(old);
            }
            if self.is_on_named_node(old) {
                ledger.locals.remove(old);
            }
            ledger.parts.retire();
        }
    }

    fn address_keys(&self, workload: &Workload) -> RowKeys {
        if workload.host_network() {
            return RowKeys::new();
        }
        let network = workload.network();
        workload.addresses().iter().map(|&ip| self.keys.address(network, ip)).collect()
    }

    fn hostname_keys(&self, workload: &Workload) -> RowKeys {
        let hostname = workload.hostname().into_iter();
        hostname.map(|hostname| self.keys.service(workload.namespace(), hostname)).collect()
    }

    fn pod_keys(&self, workload: &Workload) -> RowKeys {
        if !self.is_local(workload) {
            return RowKeys::new();
        }
        let (namespace, service_account) = (workload.namespace(), workload.service_account());
        RowKeys::from_iter([self.keys.pod(namespace, workload.name(), service_account)])
    }

    fn upsert_service(&self, ledger: &mut Ledger, new: &Arc<Service>, applied: &mut Applied) {
        let old = self.service(new.namespace(), new.hostname());
        if old.as_ref() == Some(new) {
            return;
        }
        if self.services.by_name.put(self.keys.service(new.namespace(), new.hostname()), new) {
            self.service_count.fetch_add(1, Ordering::Relaxed);
        }
        self.reindex_service(ledger, old.as_ref(), Some(new));
        applied.services += 1;
    }

    fn remove_service(&self, ledger: &mut Ledger, old: &Arc<Service>, applied: &mut Applied) {
        self.reindex_service(ledger, Some(old), None);
        if self.services.by_name.remove(self.keys.service(old.namespace(), old.hostname()), old) {
            decrement(&self.service_count);
        }
        applied.removed += 1;
    }

    /// Puts `new` at all its places before `old` goes from those that `new` does not have: whoever looks meanwhile finds
    /// one of them.
    fn reindex_service(&self, ledger: &mut Ledger, old: Option<&Arc<Service>>, new: Option<&Arc<Service>>) {
        let ServiceTables { by_host, by_vip, moves, .. } = &self.services;
        let hosts = |service: &Service| RowKeys::from_iter([self.keys.name(service.hostname())]);
        let vips = |service: &Service| -> RowKeys {
            service.vips().iter().map(|vip| self.keys.address(&vip.network, vip.ip)).collect()
        };
        let host_keys = put_rows(by_host, new, hosts);
        let vip_keys = put_rows(by_vip, new, vips);
        self.put_ranges(ledger, new);
        let Some(old) = old else { return };
        moves.fetch_add(1, Ordering::AcqRel);
        drop_rows(by_host, old, hosts(old), &host_keys);
        drop_rows(by_vip, old, vips(old), &vip_keys);
        self.drop_ranges(ledger, old, new);
    }

    fn put_ranges(&self, ledger: &mut Ledger, new: Option<&Arc<Service>>) {
        for (new, vip) in new.into_iter().flat_map(|new| new.cidr_vips().iter().map(move |vip| (new, vip))) {
            let (v6, length) = family(vip);
            self.services.prefixes.set(v6, length);
            if self.services.by_cidr.put(self.keys.cidr(&vip.network, &vip.cidr), new) {
                *ledger.prefixes.entry((v6, length)).or_default() += 1;
            }
        }
    }

    fn drop_ranges(&self, ledger: &mut Ledger, old: &Arc<Service>, new: Option<&Arc<Service>>) {
        for vip in old.cidr_vips() {
            if new.is_some_and(|new| new.cidr_vips().contains(vip)) {
                continue;
            }
            if self.services.by_cidr.remove(self.keys.cidr(&vip.network, &vip.cidr), old) {
                let (v6, length) = family(vip);
                let uses = ledger.prefixes.entry((v6, length)).or_default();
                *uses = uses.saturating_sub(1);
                if *uses == 0 {
                    ledger.prefixes.remove(&(v6, length));
                    self.services.prefixes.clear(v6, length);
                }
            }
        }
    }

    /// Removes the resource `name`. A known uid names a workload, and any other name with exactly one `/` names a
    /// service. Any other name is the uid of an unknown workload.
    fn remove(&self, ledger: &mut Ledger, name: &str, applied: &mut Applied) {
        if let Some(workload) = self.workload(name) {
            self.remove_workload(ledger, &workload, applied);
        } else if let Some((namespace, hostname)) = name.split_once('/')
            && let Some(service) = self.service(namespace, hostname)
        {
            self.remove_service(ledger, &service, applied);
        }
    }
}

/// Stores `new` under its keys, then removes `old` from the keys that `new` does not have.
fn reindex<T: Version>(
    index: &Index<T>,
    old: Option<&Arc<T>>,
    new: Option<&Arc<T>>,
    keys: impl Fn(&T) -> RowKeys,
) {
    let new_keys = put_rows(index, new, &keys);
    if let Some(old) = old {
        drop_rows(index, old, keys(old), &new_keys);
    }
}

/// Stores `new` under its keys, which are returned.
fn put_rows<T: Version>(index: &Index<T>, new: Option<&Arc<T>>, keys: impl Fn(&T) -> RowKeys) -> RowKeys {
    let Some(new) = new else { return RowKeys::new() };
    let keys = keys(new);
    for &key in &keys {
        index.put(key, new);
    }
    keys
}

/// Removes `old` from those of its keys that `kept` does not have.
fn drop_rows<T: Version>(index: &Index<T>, old: &T, keys: RowKeys, kept: &RowKeys) {
    for key in keys.into_iter().filter(|key| !kept.contains(key)) {
        index.remove(key, old);
    }
}

fn family(vip: &CidrVip) -> (bool, u8) {
    (vip.cidr.addr().is_ipv6(), vip.cidr.prefix_len())
}

/// Decrements a count. Counts are only written under the ledger's lock.
fn decrement(count: &AtomicUsize) {
    count.store(count.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
}

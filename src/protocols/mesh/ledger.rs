//! The writer's own state: shared parts of workloads, pending changes of endpoints, and local identities.

use std::{mem, sync::Arc};

use foldhash::{HashMap, HashSet};

use super::{
    decode::ServiceName,
    service::Endpoints,
    workload::{Place, Template, TunnelProtocol, Workload},
};
use crate::protocols::identity::Identity;

/// The number of replaced or removed workloads below which the shared parts are not searched for unused parts.
/// Limit: shared parts of workloads that are not in use: 1024, or half of those known; past it: the unused parts are
/// freed.
const SWEEP_MIN: usize = 1024;

/// The writer's own state. The ledger lives with the tables, so a new writer continues where the last writer ended,
/// even in the middle of a change.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) parts: Parts,
    pub(super) pending: PendingEndpoints,
    pub(super) locals: Locals,
    /// The number of CIDR addresses for each pair of (is IPv6, prefix length).
    pub(super) prefixes: HashMap<(bool, u8), usize>,
}

/// Interned parts of workloads. A later sweep frees unused parts.
#[derive(Default)]
pub(super) struct Parts {
    templates: HashSet<Arc<Template>>,
    places: HashSet<Arc<Place>>,
    identities: HashSet<Identity>,
    retired: usize,
}

/// Endpoints that were added or removed since the last flush, by service. A flush builds one list for each service.
#[derive(Default)]
pub(super) struct PendingEndpoints(HashMap<ServiceName, Pending>);

#[derive(Default)]
struct Pending {
    added: Vec<Arc<Workload>>,
    removed: Vec<Arc<Workload>>,
}

/// The identities of the own node's workloads, and the number of workloads with each identity.
#[derive(Default)]
pub(super) struct Locals {
    uses: HashMap<Identity, Uses>,
    /// The uses as they were before the current slice.
    before: HashMap<Identity, Uses>,
}

#[derive(Clone, Copy, Default)]
struct Uses {
    all: usize,
    /// The number of workloads that need a certificate, because they are reached by HBONE or speak HBONE themselves.
    tunnelled: usize,
}

// === impl Parts ===

impl Parts {
    /// Replaces the parts of `workload` by equal known parts. An unknown part is stored for later workloads.
    pub(super) fn share(&mut self, workload: Workload) -> Workload {
        let Self { templates, places, identities, .. } = self;
        let template = |mut template: Arc<Template>| match templates.get(&*template) {
            Some(known) => Arc::clone(known),
            None => {
                match (identities.get(&template.identity), Arc::get_mut(&mut template)) {
                    (Some(known), Some(template)) => template.identity = known.clone(),
                    (Some(_), None) => {}
                    (None, _) => {
                        identities.insert(template.identity.clone());
                    }
                }
                templates.insert(Arc::clone(&template));
                template
            }
        };
        let place = |place: Arc<Place>| match places.get(&*place) {
            Some(known) => Arc::clone(known),
            None => {
                places.insert(Arc::clone(&place));
                place
            }
        };
        workload.map_parts(template, place)
    }

    /// Notes that a workload was replaced or removed. Now and then the call frees parts that no workload uses.
    pub(super) fn retire(&mut self) {
        self.retired += 1;
        if self.retired >= SWEEP_MIN.max(self.templates.len().max(self.places.len()) / 2) {
            self.sweep();
        }
    }

    fn sweep(&mut self) {
        self.retired = 0;
        self.templates.retain(|part| Arc::strong_count(part) > 1);
        self.places.retain(|part| Arc::strong_count(part) > 1);
        self.identities = self.templates.iter().map(|template| template.identity.clone()).collect();
        self.templates.shrink_to_fit();
        self.places.shrink_to_fit();
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        (self.templates.len(), self.places.len(), self.identities.len())
    }
}

// === impl PendingEndpoints ===

impl PendingEndpoints {
    fn note(&mut self, service: &ServiceName, note: impl FnOnce(&mut Pending)) {
        if let Some(pending) = self.0.get_mut(service) {
            note(pending);
        } else {
            note(self.0.entry(service.clone()).or_default());
        }
    }

    /// Adds `workload` as an endpoint of all its services from the next flush on.
    pub(super) fn add(&mut self, workload: &Arc<Workload>) {
        for membership in workload.services() {
            self.note(&membership.service, |pending| pending.added.push(Arc::clone(workload)));
        }
    }

    /// Removes this version of `workload` as an endpoint.
    pub(super) fn remove(&mut self, workload: &Arc<Workload>) {
        for membership in workload.services() {
            self.note(&membership.service, |pending| pending.removed.push(Arc::clone(workload)));
        }
    }

    /// Hands `publish` the new endpoints of each service that changed, given the `current` ones.
    pub(super) fn flush(
        &mut self,
        current: impl Fn(&ServiceName) -> Option<Arc<Endpoints>>,
        publish: impl Fn(Endpoints),
    ) {
        for (service, pending) in mem::take(&mut self.0) {
            let before = current(&service);
            let held = before.as_ref().map(|endpoints| endpoints.workloads()).unwrap_or_default();
            // `pending` keeps the removed workloads alive, so no newer workload can have the same memory address.
            let removed: HashSet<*const Workload> = pending.removed.iter().map(Arc::as_ptr).collect();
            let mut workloads = Vec::with_capacity(held.len() + pending.added.len());
            let all = held.iter().chain(&pending.added);
            workloads.extend(all.filter(|workload| !removed.contains(&Arc::as_ptr(workload))).cloned());
            workloads.shrink_to_fit();
            publish(Endpoints::new(service, workloads));
        }
    }
}

// === impl Locals ===

impl Locals {
    fn change(&mut self, workload: &Workload, by: impl Fn(usize) -> usize) {
        let identity = workload.identity();
        let uses = self.uses.entry(identity.clone()).or_default();
        self.before.entry(identity.clone()).or_insert(*uses);
        uses.all = by(uses.all);
        if workload.protocol() == TunnelProtocol::Hbone || workload.native_tunnel() {
            uses.tunnelled = by(uses.tunnelled);
        }
    }

    pub(super) fn add(&mut self, workload: &Workload) {
        self.change(workload, |uses| uses + 1);
    }

    pub(super) fn remove(&mut self, workload: &Workload) {
        self.change(workload, |uses| uses.saturating_sub(1));
    }

    /// Returns the identities that appeared and those that vanished since the last call.
    pub(super) fn settle(&mut self) -> (Vec<Identity>, Vec<Identity>) {
        let (mut appeared, mut vanished) = (Vec::new(), Vec::new());
        for (identity, before) in mem::take(&mut self.before) {
            let now = self.uses.get(&identity).copied().unwrap_or_default();
            if now.all == 0 {
                self.uses.remove(&identity);
                if before.all > 0 {
                    vanished.push(identity);
                }
            } else if before.tunnelled == 0 && now.tunnelled > 0 {
                appeared.push(identity);
            }
        }
        (appeared, vanished)
    }
}

//! The table of certificates that connections read. The table outlives the actor, so a restarted actor continues with
//! it.

use std::{collections::HashSet, sync::Arc, time::SystemTime};

use dashmap::DashMap;
use tokio::sync::watch;

use super::lacking::Lacking;
use crate::protocols::{ca::IssueError, identity::Identity, tls::WorkloadCert};

/// The newest certificate of each identity.
pub(super) struct Store {
    entries: DashMap<Identity, Published, foldhash::fast::RandomState>,
    /// The removed identities that the actor has not handled.
    unheard: parking_lot::Mutex<HashSet<Identity>>,
    changes: watch::Sender<u64>,
}

/// The newest certificate and failure of one identity.
#[derive(Clone, Default)]
pub(super) struct Published {
    pub(super) cert: Option<Arc<WorkloadCert>>,
    pub(super) failure: Option<Arc<IssueError>>,
}

// === impl Store ===

impl Store {
    pub(super) fn new() -> Self {
        Self { entries: DashMap::default(), unheard: Default::default(), changes: watch::Sender::new(0) }
    }

    /// The certificate of `id`, unless the certificate has expired.
    pub(super) fn current(&self, id: &Identity, wall: SystemTime) -> Option<Arc<WorkloadCert>> {
        let entry = self.entries.get(id)?;
        entry.cert.as_ref().filter(|c| !c.is_expired_at(wall)).cloned()
    }

    pub(super) fn knows(&self, id: &Identity) -> bool {
        self.entries.contains_key(id)
    }

    /// Replaces the state of `id` and returns the former state.
    pub(super) fn publish(&self, id: Identity, state: Published) -> Option<Published> {
        let before = self.entries.insert(id, state);
        self.changes.send_modify(|n| *n += 1);
        before
    }

    pub(super) fn remove(&self, id: &Identity) {
        if self.entries.remove(id).is_some() {
            self.changes.send_modify(|n| *n += 1);
        }
    }

    /// Notes for the actor that `id` was removed. Returns whether no other removal waits.
    pub(super) fn forget_later(&self, id: Identity) -> bool {
        let mut unheard = self.unheard.lock();
        let first = unheard.is_empty();
        unheard.insert(id);
        first
    }

    pub(super) fn take_unheard(&self) -> HashSet<Identity> {
        std::mem::take(&mut *self.unheard.lock())
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn all(&self) -> Vec<(Identity, Published)> {
        self.entries.iter().map(|e| (e.key().clone(), e.value().clone())).collect()
    }

    /// The identities without a valid certificate whose last request failed.
    pub(super) fn lacking(&self, wall: SystemTime) -> Lacking {
        let mut lacking = Lacking::default();
        for entry in &self.entries {
            let Published { cert, failure } = entry.value();
            let valid = cert.as_ref().is_some_and(|cert| !cert.is_expired_at(wall));
            lacking.add(entry.key(), failure.as_ref().filter(|_| !valid));
        }
        lacking
    }

    /// The age of the oldest certificate and the time until the next one expires, in seconds. `None` without a
    /// certificate.
    pub(super) fn times(&self, wall: SystemTime) -> Option<(f64, f64)> {
        let since = |past: SystemTime| match wall.duration_since(past) {
            Ok(since) => since.as_secs_f64(),
            Err(ahead) => -ahead.duration().as_secs_f64(),
        };
        let held = self.entries.iter().filter_map(|entry| entry.value().cert.clone());
        let times = held.map(|cert| (since(cert.not_before()), -since(cert.not_after())));
        times.reduce(|(age, left), (other_age, other_left)| (age.max(other_age), left.min(other_left)))
    }

    pub(super) fn by_state(&self, wall: SystemTime) -> [(&'static str, u64); 3] {
        let (mut available, mut unavailable, mut initializing) = (0, 0, 0);
        for entry in &self.entries {
            let Published { cert, failure } = entry.value();
            match cert {
                Some(cert) if !cert.is_expired_at(wall) => available += 1,
                _ if failure.is_some() => unavailable += 1,
                _ => initializing += 1,
            }
        }
        [("available", available), ("unavailable", unavailable), ("initializing", initializing)]
    }
}

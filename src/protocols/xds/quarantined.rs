//! Resources that are quarantined: refused for now, and tried again after a time. The control plane sends a resource
//! again only when the resource changes. Quarantined resources are forgotten with their stream, as the next stream brings
//! everything that was refused.

use std::{collections::BTreeMap, time::Instant};

use prost::Message;

use super::resource::ResourceType;
use crate::protocols::pb::ads::Resource;

/// How many resources are kept. A further one is tried again when the control plane sends it.
/// Limit: resources that are quarantined: 1024; past it: tried when the control plane sends them again.
const QUARANTINED_MAX: usize = 1024;
/// How many bytes the resources that are kept may have together.
/// Limit: bytes of resources that are quarantined: 16 MiB; past it: tried when the control plane sends them
/// again.
const QUARANTINED_BYTES_MAX: usize = 16 << 20;

/// The quarantined resources, by type and name.
#[derive(Debug, Default)]
pub(super) struct Quarantined {
    kept: BTreeMap<(ResourceType, String), Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    resource: Resource,
    bytes: usize,
    due: Instant,
}

// === impl Quarantined ===

impl Quarantined {
    /// Keeps `resource` until `due` and returns true, or returns false if there is no room.
    pub(super) fn keep(&mut self, kind: ResourceType, resource: Resource, due: Instant) -> bool {
        self.forget(kind, &resource.name);
        let bytes = resource.encoded_len();
        if self.kept.len() >= QUARANTINED_MAX || bytes > QUARANTINED_BYTES_MAX.saturating_sub(self.bytes) {
            return false;
        }
        self.bytes += bytes;
        self.kept.insert((kind, resource.name.clone()), Entry { resource, bytes, due });
        true
    }

    /// Forgets the resource `name`: another version has come, or the control plane has removed the resource.
    pub(super) fn forget(&mut self, kind: ResourceType, name: &str) {
        if self.kept.is_empty() {
            return;
        }
        if let Some(entry) = self.kept.remove(&(kind, name.to_owned())) {
            self.bytes = self.bytes.saturating_sub(entry.bytes);
        }
    }

    /// When the next resource is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.kept.values().map(|entry| entry.due).min()
    }

    /// Takes the resources of one type that are due at `now`.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(ResourceType, Vec<Resource>)> {
        let (kind, _) = self.kept.iter().find(|(_, entry)| entry.due <= now)?.0.clone();
        let is_due = |(of, _): &(ResourceType, String), entry: &mut Entry| *of == kind && entry.due <= now;
        let due: Vec<Entry> = self.kept.extract_if(.., is_due).map(|(_, entry)| entry).collect();
        self.bytes = self.bytes.saturating_sub(due.iter().map(|entry| entry.bytes).sum());
        Some((kind, due.into_iter().map(|entry| entry.resource).collect()))
    }
}

#[cfg(test)]
mod tests;

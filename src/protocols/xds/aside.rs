//! Resources that are refused for now, and tried again by the clock: the control plane sends one again only when it
//! changes. They are forgotten with their stream, for the next one brings whatever was refused on it.

use std::{collections::BTreeMap, time::Instant};

use prost::Message;

use super::resource::Kind;
use crate::protocols::pb::ads::Resource;

/// Resources kept to be tried again; past it one is tried when the control plane sends it.
const ASIDE_MAX: usize = 1024;
/// Their bytes.
const ASIDE_BYTES_MAX: usize = 16 << 20;

/// The resources, by type and name.
#[derive(Debug, Default)]
pub(super) struct Aside {
    kept: BTreeMap<(Kind, String), Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    resource: Resource,
    bytes: usize,
    due: Instant,
}

// === impl Aside ===

impl Aside {
    /// Keeps `resource` until `due`, unless there is no room. Whether it is kept.
    pub(super) fn keep(&mut self, kind: Kind, resource: Resource, due: Instant) -> bool {
        self.forget(kind, &resource.name);
        let bytes = resource.encoded_len();
        if self.kept.len() >= ASIDE_MAX || bytes > ASIDE_BYTES_MAX.saturating_sub(self.bytes) {
            return false;
        }
        self.bytes += bytes;
        self.kept.insert((kind, resource.name.clone()), Entry { resource, bytes, due });
        true
    }

    /// Another version of it has come, or it is gone.
    pub(super) fn forget(&mut self, kind: Kind, name: &str) {
        if self.kept.is_empty() {
            return;
        }
        if let Some(entry) = self.kept.remove(&(kind, name.to_owned())) {
            self.bytes = self.bytes.saturating_sub(entry.bytes);
        }
    }

    /// When the next is to be tried.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.kept.values().map(|entry| entry.due).min()
    }

    /// Those of one type that are to be tried at `now`.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(Kind, Vec<Resource>)> {
        let (kind, _) = self.kept.iter().find(|(_, entry)| entry.due <= now)?.0.clone();
        let is_due = |(of, _): &(Kind, String), entry: &mut Entry| *of == kind && entry.due <= now;
        let due: Vec<Entry> = self.kept.extract_if(.., is_due).map(|(_, entry)| entry).collect();
        self.bytes = self.bytes.saturating_sub(due.iter().map(|entry| entry.bytes).sum());
        Some((kind, due.into_iter().map(|entry| entry.resource).collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost_types::Any;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn resource(name: &str, bytes: usize) -> Resource {
        let value = vec![0; bytes];
        Resource { name: name.into(), resource: Some(Any { value, ..Any::default() }), ..Resource::default() }
    }

    #[test]
    fn each_is_due_at_its_time_once_and_a_later_version_takes_its_place() {
        let (mut aside, start) = (Aside::default(), Instant::now());
        assert_eq!((aside.next_due(), aside.take_due(start)), (None, None));
        assert!(aside.keep(Kind::Address, resource("a", 1), start + 3 * SECOND));
        assert!(aside.keep(Kind::Authorization, resource("a", 1), start + 2 * SECOND));
        assert!(aside.keep(Kind::Address, resource("b", 1), start + SECOND));
        assert!(aside.keep(Kind::Address, resource("c", 1), start + SECOND));
        aside.forget(Kind::Address, "c");
        assert_eq!((aside.next_due(), aside.take_due(start)), (Some(start + SECOND), None));
        assert_eq!(aside.take_due(start + SECOND), Some((Kind::Address, vec![resource("b", 1)])));
        assert!(aside.keep(Kind::Authorization, resource("a", 9), start + 2 * SECOND), "in its place");
        let then = start + 5 * SECOND;
        assert_eq!(aside.take_due(then), Some((Kind::Address, vec![resource("a", 1)])));
        assert_eq!(aside.take_due(then), Some((Kind::Authorization, vec![resource("a", 9)])));
        assert_eq!((aside.take_due(then), aside.bytes), (None, 0));
    }

    #[test]
    fn there_is_room_for_so_many_and_for_so_many_bytes() {
        let (mut aside, now) = (Aside::default(), Instant::now());
        assert!(!aside.keep(Kind::Address, resource("large", ASIDE_BYTES_MAX), now));
        for n in 0..ASIDE_MAX {
            assert!(aside.keep(Kind::Address, resource(&n.to_string(), 10), now));
        }
        assert!(!aside.keep(Kind::Address, resource("one more", 10), now));
        assert!(aside.keep(Kind::Address, resource("7", ASIDE_BYTES_MAX / 2), now));
        assert!(!aside.keep(Kind::Address, resource("8", ASIDE_BYTES_MAX / 2), now), "and 8 is let go of");
        assert_eq!(aside.take_due(now).unwrap().1.len(), ASIDE_MAX - 1);
        assert_eq!(aside.bytes, 0);
    }
}

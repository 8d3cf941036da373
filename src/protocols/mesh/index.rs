//! Indexes that are read while they are written.
//!
//! Every index maps the hash of a key to the values with that key. An index does not store the key: the caller checks
//! each value, so values of different keys with one hash may share an entry. An entry takes 24 bytes whatever the key
//! is. The writer replaces a value in place, and holds only the lock of the entry's shard.

use std::{
    cmp::Ordering,
    hash::{BuildHasher, Hasher},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{self, AtomicU64},
    },
};

use dashmap::{DashMap, Entry};
use ipnet::IpNet;

/// The number of shards. With this number a shard stays small, so no reader waits long while a shard grows.
/// Limit: parts of an index, each with a lock: 64; past it: keys share a part and its lock.
const INDEX_SHARDS: usize = 64;

/// A value that is a version of a resource.
pub(super) trait Version {
    /// Whether both values are versions of one resource.
    fn same(&self, other: &Self) -> bool;
}

/// Values by the hash of one of their keys.
pub(super) struct Index<T> {
    entries: DashMap<u64, Holders<T>, Prehashed>,
}

/// The values of one entry, nearly always a single value.
enum Holders<T> {
    One(Arc<T>),
    Many(Box<[Arc<T>]>),
}

/// The hasher of keys. Each process hashes differently, so that an attacker cannot prepare collisions.
#[derive(Default)]
pub(super) struct Keys {
    state: foldhash::quality::RandomState,
}

/// The prefix lengths of all CIDR addresses, as bits, for lookups of the longest prefix.
#[derive(Default)]
pub(super) struct PrefixLengths {
    v4: AtomicU64,
    v6: [AtomicU64; 3],
}

/// A hasher that returns the key, because keys are already hashes.
#[derive(Clone, Copy, Default)]
struct Prehashed;

#[derive(Default)]
struct TakeHash(u64);

// === impl Index ===

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { entries: DashMap::with_hasher_and_shard_amount(Prehashed, INDEX_SHARDS) }
    }
}

impl<T> Index<T> {
    /// The entries. In a test another thread may have its turn before they are looked at.
    fn entries(&self) -> &DashMap<u64, Holders<T>, Prehashed> {
        #[cfg(test)]
        super::tests::orders::turn();
        &self.entries
    }
}

impl<T: Version> Index<T> {
    /// Replaces an earlier version by `value`, or stores `value` behind the other values of the key. Returns whether
    /// there was no earlier version.
    pub(super) fn put(&self, key: u64, value: &Arc<T>) -> bool {
        // The replaced value is dropped after the lock is released.
        let replaced = match self.entries().entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Holders::One(Arc::clone(value)));
                None
            }
            Entry::Occupied(mut entry) => entry.get_mut().put(value),
        };
        replaced.is_none()
    }

    /// Removes any version of the resource of `value`. Returns whether there was a version.
    pub(super) fn remove(&self, key: u64, value: &T) -> bool {
        let mut removed = None;
        let empty = self.entries().remove_if_mut(&key, |_, holders| match holders {
            Holders::One(held) => held.same(value),
            Holders::Many(_) => {
                removed = holders.remove(value);
                false
            }
        });
        removed.is_some() || empty.is_some()
    }

    /// Finds the value for which `is_meant` returns true.
    pub(super) fn find(&self, key: u64, is_meant: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let entry = self.entries().get(&key)?;
        entry.as_slice().iter().find(|value| is_meant(value)).cloned()
    }

    /// Finds the greatest value for which `is_meant` returns true. Among equal values the last stored one is returned.
    pub(super) fn best(
        &self,
        key: u64,
        is_meant: impl Fn(&T) -> bool,
        order: impl Fn(&T, &T) -> Ordering,
    ) -> Option<Arc<T>> {
        let entry = self.entries().get(&key)?;
        let meant = entry.as_slice().iter().filter(|value| is_meant(value));
        meant.max_by(|a, b| order(a, b)).cloned()
    }

    /// Calls `each` with every value of the key. `each` must not access the index.
    pub(super) fn each(&self, key: u64, mut each: impl FnMut(&Arc<T>)) {
        if let Some(entry) = self.entries().get(&key) {
            entry.as_slice().iter().for_each(&mut each);
        }
    }

    /// Copies all values, for dumps and counts only. Each shard is locked only while it is copied.
    pub(super) fn values(&self) -> Vec<Arc<T>> {
        self.entries().iter().flat_map(|entry| entry.as_slice().to_vec()).collect()
    }
}

// === impl Holders ===

impl<T: Version> Holders<T> {
    fn as_slice(&self) -> &[Arc<T>] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }

    fn put(&mut self, value: &Arc<T>) -> Option<Arc<T>> {
        let held = match self {
            Self::One(held) => std::slice::from_mut(held),
            Self::Many(held) => held,
        };
        if let Some(earlier) = held.iter_mut().find(|held| held.same(value)) {
            return Some(std::mem::replace(earlier, Arc::clone(value)));
        }
        *self = Self::Many(held.iter().chain([value]).map(Arc::clone).collect());
        None
    }

    fn remove(&mut self, value: &T) -> Option<Arc<T>> {
        let removed = self.as_slice().iter().find(|held| held.same(value)).cloned()?;
        let mut left: Vec<_> =
            self.as_slice().iter().filter(|held| !held.same(value)).map(Arc::clone).collect();
        *self = match left.pop() {
            Some(last) if left.is_empty() => Self::One(last),
            Some(last) => {
                left.push(last);
                Self::Many(left.into_boxed_slice())
            }
            // `Many` never holds fewer than two values.
            None => return Some(removed),
        };
        Some(removed)
    }
}

// === impl Keys ===

impl Keys {
    pub(super) fn name(&self, name: &str) -> u64 {
        self.state.hash_one(name)
    }

    pub(super) fn service(&self, namespace: &str, hostname: &str) -> u64 {
        self.state.hash_one((namespace, hostname))
    }

    pub(super) fn pod(&self, namespace: &str, name: &str, service_account: &str) -> u64 {
        self.state.hash_one((namespace, name, service_account))
    }

    pub(super) fn address(&self, network: &str, ip: IpAddr) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write(network.as_bytes());
        match ip {
            IpAddr::V4(ip) => hasher.write_u32(ip.to_bits()),
            IpAddr::V6(ip) => hasher.write_u128(ip.to_bits()),
        }
        hasher.finish()
    }

    pub(super) fn cidr(&self, network: &str, cidr: &IpNet) -> u64 {
        self.state.hash_one((network, cidr))
    }
}

// === impl PrefixLengths ===

impl PrefixLengths {
    fn word(&self, v6: bool, length: u8) -> Option<(&AtomicU64, u64)> {
        let bit = 1_u64 << (length % 64);
        if v6 { self.v6.get(usize::from(length / 64)).map(|word| (word, bit)) } else { Some((&self.v4, bit)) }
    }

    pub(super) fn set(&self, v6: bool, length: u8) {
        if let Some((word, bit)) = self.word(v6, length) {
            word.fetch_or(bit, atomic::Ordering::AcqRel);
        }
    }

    pub(super) fn clear(&self, v6: bool, length: u8) {
        if let Some((word, bit)) = self.word(v6, length) {
            word.fetch_and(!bit, atomic::Ordering::AcqRel);
        }
    }

    /// The prefix lengths of one address family, in ascending order.
    pub(super) fn iter(&self, v6: bool) -> impl Iterator<Item = u8> + '_ {
        let words = if v6 { self.v6.as_slice() } else { std::slice::from_ref(&self.v4) };
        (0_u8..).step_by(64).zip(words).flat_map(|(base, word)| {
            let mut left = word.load(atomic::Ordering::Acquire);
            std::iter::from_fn(move || {
                let bit = u8::try_from(left.trailing_zeros()).ok().filter(|&bit| bit < 64)?;
                left &= left - 1;
                Some(base + bit)
            })
        })
    }
}

// === impl Prehashed ===

impl BuildHasher for Prehashed {
    type Hasher = TakeHash;

    fn build_hasher(&self) -> TakeHash {
        TakeHash::default()
    }
}

impl Hasher for TakeHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

#[cfg(test)]
mod tests;

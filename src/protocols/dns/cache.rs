//! The addresses of names, each kept as long as its answer lives.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::HashMap;

/// The names that are kept.
/// Limit: names of endpoints whose answers are kept: 4096; past it: the answer that would end first is forgotten.
const CACHED_NAMES: usize = 4096;
/// The shortest life of an answer. Answers of failed lookups live that long.
/// Limit: life of an answer to a lookup of an endpoint, at least: 1 s; past it: the name is asked for again.
pub(crate) const SHORTEST_LIFE: Duration = Duration::from_secs(1);
/// The longest life of an answer.
/// Limit: life of an answer to a lookup of an endpoint, at most: 300 s; past it: the name is asked for again.
pub(crate) const LONGEST_LIFE: Duration = Duration::from_secs(300);

/// The answers to lookups, by name. An answer may have no addresses.
#[derive(Debug, Default)]
pub(crate) struct NameCache(HashMap<Arc<str>, Kept>);

#[derive(Debug)]
struct Kept {
    addresses: Arc<[IpAddr]>,
    until: Instant,
}

// === impl NameCache ===

impl NameCache {
    /// The addresses of `name`, if they are known and still live at `now`.
    pub(crate) fn get(&self, name: &str, now: Instant) -> Option<Arc<[IpAddr]>> {
        self.0.get(name).filter(|kept| now < kept.until).map(|kept| kept.addresses.clone())
    }

    /// Keeps the addresses of `name` for `life`, within the bounds.
    pub(crate) fn put(&mut self, name: Arc<str>, addresses: Arc<[IpAddr]>, life: Duration, now: Instant) {
        if self.0.len() >= CACHED_NAMES && !self.0.contains_key(&name) {
            self.0.retain(|_, kept| now < kept.until);
        }
        if self.0.len() >= CACHED_NAMES && !self.0.contains_key(&name) {
            let first = self.0.iter().min_by_key(|(_, kept)| kept.until).map(|(name, _)| name.clone());
            first.map(|name| self.0.remove(&name));
        }
        let until = now + life.clamp(SHORTEST_LIFE, LONGEST_LIFE);
        self.0.insert(name, Kept { addresses, until });
    }
}

#[cfg(test)]
mod tests;

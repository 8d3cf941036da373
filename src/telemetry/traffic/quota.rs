//! How many label sets a peer may make by its own words.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// The number of descriptions that an identity may have of itself.
///
/// Limit: descriptions of itself by one identity that make label sets, in an hour: 128; past it: counted under the
/// identity alone.
const WORDS_MAX: usize = 128;
/// The number of identities that may describe themselves.
///
/// Limit: identities that describe themselves in label sets, in an hour: 4096; past it: counted under the identity alone.
const IDENTITIES_MAX: usize = 4096;

/// The descriptions that peers have given of themselves in this hour, by identity.
#[derive(Debug)]
pub(super) struct PeerQuota {
    hasher: RandomState,
    hour: Mutex<Hour>,
    refused: AtomicU64,
}

#[derive(Debug)]
struct Hour {
    since: Instant,
    /// The hashes of the descriptions.
    words: HashMap<Box<str>, HashSet<u64, RandomState>, RandomState>,
}

// === impl PeerQuota ===

impl PeerQuota {
    /// Whether the peer `identity` may have label sets with these words of its own. A refusal is counted.
    pub(super) fn admits(&self, identity: &str, words: &[&str]) -> bool {
        let hash = self.hasher.hash_one(words);
        let known = &mut self.hour.lock().words;
        let room = known.len() < IDENTITIES_MAX;
        let admitted = match known.get_mut(identity) {
            Some(words) => words.contains(&hash) || (words.len() < WORDS_MAX && words.insert(hash)),
            None if room => {
                known.insert(identity.into(), HashSet::from_iter([hash]));
                true
            }
            None => false,
        };
        if !admitted {
            self.refused.fetch_add(1, Relaxed);
        }
        admitted
    }

    /// The number of refusals.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Begins a new hour once the last one is over. `hour` is the time after which label sets of idle words are dropped.
    pub(super) fn sweep(&self, now: Instant, hour: Duration) {
        let mut current = self.hour.lock();
        if now.saturating_duration_since(current.since) >= hour {
            *current = Hour { since: now, words: HashMap::default() };
        }
    }
}

impl Default for PeerQuota {
    fn default() -> Self {
        let hour = Hour { since: Instant::now(), words: HashMap::default() };
        Self { hasher: RandomState::default(), hour: Mutex::new(hour), refused: AtomicU64::new(0) }
    }
}

#[cfg(test)]
mod tests;

//! What a pod's connections have learned of next hops that failed.
//!
//! A suspicion concerns the way to a next hop, or one destination that was asked for there. Choices among endpoints of
//! equal rank pass suspects over while an endpoint without suspicion is left. A suspicion is short at first and doubles
//! while the suspect keeps failing. When its time is over, one connection at a time may try. The first success ends the
//! suspicion, and so does a push of the workload: another value of the workload is another next hop.

#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use foldhash::HashMap;

use super::hop::{Route, Upstream};
use crate::protocols::{addr::OrigDst, mesh::Workload};

/// The length of a new suspicion.
/// Limit: a new suspicion of a next hop: 100 ms; past it: one connection at a time tries the next hop.
const SUSPECT_FOR: Duration = Duration::from_millis(100);
/// The maximum length of a suspicion.
/// Limit: a suspicion of a next hop that keeps failing: 10 s; past it: one connection at a time tries the next hop.
const SUSPECT_AT_MOST: Duration = Duration::from_secs(10);
/// The time for which a suspicion that is over and that nobody has tried is remembered.
/// Limit: memory of a suspicion that is over: 10 s; past it: the suspicion is forgotten.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);
/// The number of suspicions of one pod.
/// Limit: suspicions of next hops of a pod: 256; past it: the suspicion that ends first is forgotten.
const MAX_SUSPICIONS: usize = 256;

/// What an attempt has taught of its next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The destination was reached through the next hop.
    Reached,
    /// The next hop was not reached.
    HopFailed,
    /// The next hop was reached, and could not reach the destination.
    DestinationFailed,
    /// The reason lies elsewhere, so nothing is known of the next hop.
    Nothing,
}

/// The suspicions of one pod.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    entries: HashMap<Key, Entry>,
    trials: u64,
}

/// The suspicions as one choice among endpoints sees them.
#[derive(Clone, Copy, Debug)]
pub struct Suspicion<'a> {
    suspects: &'a Suspects,
    asked: SocketAddr,
    now: Instant,
}

/// The next hop of an attempt, and the destination that was asked for there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tried<'a> {
    /// The workload at the next hop.
    pub(crate) workload: &'a Arc<Workload>,
    /// The address of the next hop.
    pub(crate) hop: SocketAddr,
    /// The address and port that the application asked for.
    pub(crate) asked: OrigDst,
}

/// The number of a connection's trial of suspects whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrialNumber(u64);

/// The subject of a suspicion: the way to a next hop, or a destination that was asked for there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// The place of the workload in memory, which no other workload takes while the entry holds a reference. Several
    /// workloads may share a next hop.
    workload: usize,
    hop: SocketAddr,
    asked: Option<SocketAddr>,
}

#[derive(Debug)]
struct Entry {
    workload: Weak<Workload>,
    length: Duration,
    until: Instant,
    trial: Option<TrialNumber>,
}

// === impl Suspects ===

impl Suspects {
    /// Whether nothing is suspect.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets suspicions that are over and that nobody tries, and suspicions of workloads that no longer exist.
    pub(crate) fn tidy(&mut self, now: Instant) {
        self.entries.retain(|_, entry| {
            let is_over =
                entry.trial.is_none() && now.saturating_duration_since(entry.until) >= REMEMBERED_FOR;
            entry.workload.strong_count() > 0 && !is_over
        });
    }

    /// The suspicions that matter to a connection to `asked`.
    pub(crate) fn of(&self, asked: OrigDst, now: Instant) -> Suspicion<'_> {
        Suspicion { suspects: self, asked: asked.addr(), now }
    }

    /// Begins the trial of the suspects of `route` whose time is over. `None` if there are none.
    pub(crate) fn begin(&mut self, route: &Route, asked: OrigDst, now: Instant) -> Option<TrialNumber> {
        let (Some(workload), Upstream::Ip(hop)) = (&route.destination, route.hop.upstream()) else {
            return None;
        };
        let number = TrialNumber(self.trials);
        let mut begun = None;
        for key in Key::both(workload, *hop, asked.addr()) {
            if let Some(entry) = self.entries.get_mut(&key)
                && entry.may_be_tried(now)
            {
                entry.trial = Some(number);
                begun = Some(number);
            }
        }
        self.trials += u64::from(begun.is_some());
        begun
    }

    /// Ends a trial. The suspects may be tried by another connection, unless the trial's findings say otherwise.
    pub(crate) fn end(&mut self, trial: TrialNumber) {
        for entry in self.entries.values_mut().filter(|entry| entry.trial == Some(trial)) {
            entry.trial = None;
        }
    }

    /// Takes note of what an attempt has taught.
    pub(crate) fn learn(&mut self, tried: &Tried<'_>, finding: Finding, now: Instant) {
        let [way, destination] = Key::both(tried.workload, tried.hop, tried.asked.addr());
        match finding {
            Finding::Reached => {
                self.entries.remove(&way);
                self.entries.remove(&destination);
            }
            Finding::HopFailed => self.failed(way, tried.workload, now),
            Finding::DestinationFailed => {
                self.entries.remove(&way);
                self.failed(destination, tried.workload, now);
            }
            Finding::Nothing => {}
        }
    }

    /// The next hops of all suspicions.
    #[cfg(test)]
    pub(crate) fn hops(&self) -> Vec<SocketAddr> {
        self.entries.keys().map(|key| key.hop).collect()
    }

    fn failed(&mut self, key: Key, workload: &Arc<Workload>, now: Instant) {
        let length = match self.entries.get(&key) {
            // The connection began before the suspicion, or had no other endpoint.
            Some(entry) if now < entry.until => return,
            Some(entry) => entry.length.saturating_mul(2).min(SUSPECT_AT_MOST),
            None => SUSPECT_FOR,
        };
        if self.entries.len() >= MAX_SUSPICIONS && !self.entries.contains_key(&key) {
            let first = self.entries.iter().min_by_key(|(_, entry)| entry.until).map(|(key, _)| *key);
            first.and_then(|key| self.entries.remove(&key));
        }
        let entry = Entry { workload: Arc::downgrade(workload), length, until: now + length, trial: None };
        self.entries.insert(key, entry);
    }
}

// === impl Suspicion ===

impl Suspicion<'_> {
    /// Whether `workload`, dialled at `hop`, is passed over while there is another choice.
    pub(super) fn falls_on(&self, workload: &Arc<Workload>, hop: SocketAddr) -> bool {
        let is_suspect =
            |key: Key| self.suspects.entries.get(&key).is_some_and(|entry| !entry.may_be_tried(self.now));
        Key::both(workload, hop, self.asked).into_iter().any(is_suspect)
    }
}

// === impl Key ===

impl Key {
    /// The way to `workload` at `hop`, and the destination `asked` there.
    fn both(workload: &Arc<Workload>, hop: SocketAddr, asked: SocketAddr) -> [Self; 2] {
        let workload = Arc::as_ptr(workload).addr();
        [Self { workload, hop, asked: None }, Self { workload, hop, asked: Some(asked) }]
    }
}

// === impl Entry ===

impl Entry {
    fn may_be_tried(&self, now: Instant) -> bool {
        now >= self.until && self.trial.is_none()
    }
}

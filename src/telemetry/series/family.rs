//! Families whose label values come from outside (workloads, hostnames, type URLs), so that they need a bound.
//!
//! A label set is looked up by the bytes of its values, without an allocation if the set is known. Cardinality is
//! bounded twice: a sweep drops idle sets, and past the limit new sets are counted under `unknown`.

use std::{
    borrow::Borrow,
    cell,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use dashmap::{DashMap, Entry};
use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::{
    cell::{Cell, Counter, Timer},
    declaration::Declaration,
    labels::{Labels, SetLabels, Values},
    sample::{Group, Sample, Sampled},
};
use crate::protocols::labels::or_unknown;

/// One family, or several that share their label sets.
#[derive(Debug)]
pub(crate) struct Family<C> {
    declarations: &'static [&'static Declaration],
    limit: usize,
    sets: DashMap<SetKey<C>, (), RandomState>,
    kept: AtomicUsize,
    overflowed: AtomicU64,
}

/// A label set and its counters.
#[derive(Debug)]
pub(crate) struct Set<C> {
    values: Box<[u8]>,
    cell: C,
    /// The time when a sweep first saw the set idle, and the set's total at that time.
    idle: Mutex<Option<(Instant, u64)>>,
}

/// A set as the map's key, which compares only the values.
#[derive(Debug)]
struct SetKey<C>(Arc<Set<C>>);

thread_local! {
    /// The buffer for the label set being looked up, which every lookup uses again.
    static VALUES: cell::Cell<Values> = const { cell::Cell::new(Values::new()) };
}

// === impl Family ===

impl<C: Cell> Family<C> {
    /// A family without sets. It keeps at most `limit` sets, besides those that count the overflow.
    pub(crate) fn new(declarations: &'static [&'static Declaration], limit: usize) -> Self {
        let sets = DashMap::with_hasher(RandomState::default());
        Self { declarations, limit, sets, kept: AtomicUsize::new(0), overflowed: AtomicU64::new(0) }
    }

    /// Runs `work` with the set of the values that `fill` puts. If there is no room for that set, `work` gets the set
    /// of the values that `overflow` puts.
    pub(crate) fn with<R>(
        &self,
        fill: impl FnOnce(&mut Values),
        overflow: impl FnOnce(&mut Values),
        work: impl FnOnce(&Arc<Set<C>>) -> R,
    ) -> R {
        let mut values = VALUES.take();
        values.clear();
        fill(&mut values);
        let result = self.find(values.bytes(), overflow, work);
        VALUES.set(values);
        result
    }

    fn find<R>(
        &self,
        values: &[u8],
        overflow: impl FnOnce(&mut Values),
        work: impl FnOnce(&Arc<Set<C>>) -> R,
    ) -> R {
        // The work runs while the map's lock is held, so that no sweep drops the set in between.
        if let Some(set) = self.sets.get(values) {
            return work(&set.key().0);
        }
        if self.kept.load(Relaxed) < self.limit {
            return self.insert(values, work);
        }
        self.overflowed.fetch_add(1, Relaxed);
        let mut values = Values::new();
        overflow(&mut values);
        match self.sets.get(values.bytes()) {
            Some(set) => work(&set.key().0),
            None => self.insert(values.bytes(), work),
        }
    }

    fn insert<R>(&self, values: &[u8], work: impl FnOnce(&Arc<Set<C>>) -> R) -> R {
        let set = Arc::new(Set::new(values, self.declarations));
        match self.sets.entry(SetKey(set)) {
            Entry::Occupied(entry) => work(&entry.key().0),
            Entry::Vacant(entry) => {
                self.kept.fetch_add(1, Relaxed);
                work(&entry.insert(()).key().0)
            }
        }
    }

    /// Runs `work` with the set of `values`, in the order of the labels; missing and empty values are `unknown`.
    fn of<R>(&self, values: &[&str], work: impl FnOnce(&C) -> R) -> R {
        let labels = self.declarations.first().map_or(0, |declaration| declaration.labels.len());
        let fill = |set: &mut Values| {
            (0..labels).for_each(|at| set.put(or_unknown(values.get(at).copied())));
        };
        let unknown = |set: &mut Values| (0..labels).for_each(|_| set.put(or_unknown(None)));
        self.with(fill, unknown, |set| work(&set.cell))
    }

    /// The number of label sets kept.
    pub(crate) fn len(&self) -> usize {
        self.kept.load(Relaxed)
    }

    /// The number of lookups whose label set found no room.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Relaxed)
    }

    /// Drops the sets that sweeps saw idle for `idle`, and returns their number.
    pub(crate) fn sweep(&self, now: Instant, idle: Duration) -> usize {
        let mut dropped = 0;
        self.sets.retain(|set, ()| {
            let keep = set.0.is_wanted(now, idle);
            dropped += usize::from(!keep);
            keep
        });
        self.kept.fetch_sub(dropped, Relaxed);
        dropped
    }

    /// The sets that are kept now.
    pub(crate) fn group(&self) -> Group {
        // The sets are cloned, because encoding takes long and a new set must not wait for it.
        let sets = self.sets.iter().map(|set| Arc::clone(&set.key().0) as Arc<dyn Sampled>).collect();
        Group { declarations: self.declarations, sets }
    }
}

impl Family<Counter> {
    /// Adds `by` to the counter of `values`, in the order of the labels; missing and empty values are `unknown`.
    pub(crate) fn add(&self, values: &[&str], by: u64) {
        self.of(values, |counter| counter.add(by));
    }
}

impl Family<Timer> {
    /// Counts a time for `values`, in the form of [`Family::add`].
    pub(crate) fn observe(&self, values: &[&str], time: Duration) {
        self.of(values, |timer| timer.observe(time));
    }
}

// === impl Set ===

impl<C: Cell> Set<C> {
    fn new(values: &[u8], declarations: &[&Declaration]) -> Self {
        Self { values: values.into(), cell: C::new(declarations), idle: Mutex::new(None) }
    }

    /// The counters of the set.
    pub(crate) fn cell(&self) -> &C {
        &self.cell
    }

    fn is_wanted(&self, now: Instant, idle: Duration) -> bool {
        let mut seen = self.idle.lock();
        let Some(counted) = self.cell.counted() else {
            *seen = None;
            return true;
        };
        match *seen {
            Some((since, then)) if then == counted => now.saturating_duration_since(since) < idle,
            _ => {
                *seen = Some((now, counted));
                true
            }
        }
    }
}

impl<C: Cell> Sampled for Set<C> {
    fn samples(&self, declaration: &Declaration, emit: &mut dyn FnMut(&Sample<'_>)) {
        self.cell.samples(declaration, &mut |inserted, value| {
            let names = declaration.labels;
            let labels = Labels::Set(SetLabels { names, values: &self.values, inserted });
            emit(&Sample { labels, value });
        });
    }
}

// === impl SetKey ===

impl<C> Borrow<[u8]> for SetKey<C> {
    fn borrow(&self) -> &[u8] {
        &self.0.values
    }
}

impl<C> PartialEq for SetKey<C> {
    fn eq(&self, other: &Self) -> bool {
        self.0.values == other.0.values
    }
}

impl<C> Eq for SetKey<C> {}

impl<C> Hash for SetKey<C> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The hash must equal that of a lookup's bytes.
        self.0.values.hash(state);
    }
}

#[cfg(test)]
mod tests;

//! What shards carry, and which of them takes a connection.
//!
//! Whichever shard wakes first accepts, so a pod's connections could all end up with the same one. How many a shard has
//! says little of what it has to do: a thousand of them may be idle, and one may fill a processor. So a connection goes by
//! the processor time that the shards have used lately, and by how many connections each was given since that was last
//! looked at, of which nothing else is known yet.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::sys::cputime::ThreadTime;

/// Processor time is looked at again after this at the earliest.
/// Limit: time between two looks at the processor time of shards, when connections come: 10 ms; past it: the last
/// sample counts.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);
/// All of a processor, and all of the connections given lately.
/// No limit: the unit of shares.
const PERMILLE: u64 = 1000;
/// A shard keeps what it has accepted unless it is ahead of another by more: handing over wakes another thread.
/// Limit: lead of a shard over another: a tenth of a processor, and of the connections given lately; past it: the
/// shard hands over what it accepts.
const BUSY_MARGIN: u64 = PERMILLE / 10;
/// Hand-overs that wait for a shard until it is given no more: a few turns' worth, and few where it turns out to be stuck.
/// Limit: hand-overs that wait for a shard: 64; past it: the shard is given no more until it takes them.
const MOST_WAITING: usize = 64;
/// Tunnels go to the shard with the fewest among those that are busy to the same quarter.
/// No limit: the steps in which processor time is compared for a tunnel.
const BUSY_QUARTER: u64 = PERMILLE / 4;

/// What a shard carries now, read by whoever chooses one.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// Connections of applications.
    pub conns: AtomicUsize,
    /// Tunnels, by either end.
    pub tunnels: AtomicUsize,
    /// Connections and tunnels since the start.
    pub placed: AtomicU64,
    /// What other shards have handed over and this one has not taken yet.
    waiting: AtomicUsize,
    /// What it has taken of that.
    taken: AtomicU64,
}

/// Something on its way to another shard, until it is taken or lost.
#[derive(Debug)]
pub(crate) struct HandedOver(Arc<ShardStats>);

/// Counts one thing a shard carries, until dropped.
#[derive(Debug)]
pub struct LoadGuard(Arc<ShardStats>, fn(&ShardStats) -> &AtomicUsize);

/// Chooses the shard of a connection.
#[derive(Debug)]
pub struct Balancer(Mutex<Samples>);

#[derive(Debug)]
struct Samples {
    at: Instant,
    /// Which shard was given a connection last, and how many were over there by then.
    last: Option<(usize, u64)>,
    shards: Vec<ShardSample>,
}

/// What is known of a shard.
#[derive(Debug, Default)]
struct ShardSample {
    load: Arc<ShardStats>,
    /// Of the thread that serves; none before the first.
    time: Option<ThreadTime>,
    used: Duration,
    /// What the threads before have used, as far as it was seen.
    before: Duration,
    /// Parts of a processor used, of [`PERMILLE`]; `None` if no thread serves.
    busy: Option<u64>,
    /// Connections given since.
    assigned: u64,
    /// How many of all it ever had were over.
    closed: u64,
    /// Tunnels given since: it may be some time until they are counted.
    tunnels: usize,
    /// What it had taken.
    taken: u64,
    /// Something waits, and nothing has been taken between two looks. A thread that is stuck uses no time at all.
    stuck: bool,
}

// === impl ShardStats ===

impl ShardStats {
    /// How many connections and tunnels have come and gone.
    fn closed(&self) -> u64 {
        let now = |count: &AtomicUsize| count.load(Ordering::Relaxed) as u64;
        self.placed.load(Ordering::Relaxed).saturating_sub(now(&self.conns) + now(&self.tunnels))
    }
}

// === impl LoadGuard ===

impl LoadGuard {
    /// One more of what `field` counts.
    pub fn new(load: &Arc<ShardStats>, field: fn(&ShardStats) -> &AtomicUsize) -> Self {
        field(load).fetch_add(1, Ordering::Relaxed);
        load.placed.fetch_add(1, Ordering::Relaxed);
        Self(load.clone(), field)
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        // A replaced shard starts counting at zero while tasks of the old one are still being dropped.
        let _ = (self.1)(&self.0).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }
}

// === impl HandedOver ===

impl HandedOver {
    /// One more on its way to the shard of `load`.
    pub(crate) fn new(load: &Arc<ShardStats>) -> Self {
        load.waiting.fetch_add(1, Ordering::Relaxed);
        Self(load.clone())
    }

    /// The shard has taken it.
    pub(crate) fn taken(self) {
        self.0.taken.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Balancer ===

impl Balancer {
    /// Of shards with these loads that nobody serves yet.
    pub fn new(loads: impl IntoIterator<Item = Arc<ShardStats>>) -> Self {
        let shards = loads.into_iter().map(|load| ShardSample { load, ..ShardSample::default() }).collect();
        Self(Mutex::new(Samples { at: Instant::now(), last: None, shards }))
    }

    /// A new thread serves shard `index`.
    pub fn serves(&self, index: usize, time: Option<ThreadTime>) {
        if let Some(shard) = self.0.lock().shards.get_mut(index) {
            let (load, before) = (shard.load.clone(), shard.before + shard.used);
            *shard = ShardSample { load, time, before, busy: Some(0), ..ShardSample::default() };
        }
    }

    /// Looks what the shards have used. Also to be called for one that asks long after, for whom that would be an average,
    /// and where a connection ends: what it used says nothing of what comes.
    pub fn look(&self) {
        self.0.lock().look(Instant::now());
    }

    /// Processor time that the threads of shard `index` have used.
    pub fn used(&self, index: usize) -> Duration {
        self.look();
        let samples = self.0.lock();
        samples.shards.get(index).map(|shard| shard.before + shard.used).unwrap_or_default()
    }

    /// The shard for a connection that `home` has accepted.
    pub fn connection(&self, home: usize) -> usize {
        let mut samples = self.0.lock();
        samples.look(Instant::now());
        let to = samples.lightest(home);
        samples.assign(to);
        to
    }

    /// The shard for a tunnel that `home` has accepted.
    pub fn tunnel(&self, home: usize) -> usize {
        let mut samples = self.0.lock();
        samples.look(Instant::now());
        let to = samples.fewest_tunnels().unwrap_or(home);
        if let Some(shard) = samples.shards.get_mut(to) {
            shard.tunnels += 1;
        }
        to
    }
}

// === impl Samples ===

impl Samples {
    fn look(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        if passed < SAMPLE_INTERVAL {
            return;
        }
        self.at = now;
        for shard in &mut self.shards {
            shard.look(passed);
        }
    }

    fn lightest(&self, home: usize) -> usize {
        let assigned: u64 = self.shards.iter().map(|shard| shard.assigned).sum();
        let count = self.shards.len() as u64;
        // Few connections say less than many. Twice an equal part of them is all of a shard, as with two shards.
        let weight = |shard: &ShardSample| {
            Some(shard.busy? + PERMILLE * shard.still_there() * count / (2 * assigned + 4))
        };
        let Some(here) = self.shards.get(home) else { return home };
        let Some(mine) = weight(here) else { return home };
        let others = self.able().filter(|(index, _)| *index != home);
        let Some((least, to)) = others.filter_map(|(index, shard)| Some((weight(shard)?, index))).min()
        else {
            return home;
        };
        // Two that are opened one after the other go to two shards, also where a third before them has nothing to do, and
        // however long the first has had nothing to do yet. Not where they come and go: those are shared out in the long
        // run, and to hand one over takes longer than to serve it.
        let all_there = here.still_there() == here.assigned && self.last == Some((home, here.load.closed()));
        let in_turn = all_there && here.busy < Some(BUSY_QUARTER);
        if mine > least + BUSY_MARGIN || in_turn && mine + BUSY_MARGIN >= least { to } else { home }
    }

    fn assign(&mut self, to: usize) {
        if let Some(shard) = self.shards.get_mut(to) {
            shard.assigned += 1;
            self.last = Some((to, shard.load.closed()));
        }
    }

    fn fewest_tunnels(&self) -> Option<usize> {
        let key = |shard: &ShardSample| {
            let count = |field: &AtomicUsize| field.load(Ordering::Relaxed);
            let tunnels = count(&shard.load.tunnels) + shard.tunnels;
            Some((shard.busy? / BUSY_QUARTER, tunnels, count(&shard.load.conns)))
        };
        self.able().filter_map(|(index, shard)| Some((key(shard)?, index))).min().map(|(_, index)| index)
    }

    /// Those that take what they are given.
    fn able(&self) -> impl Iterator<Item = (usize, &ShardSample)> {
        let waiting = |shard: &ShardSample| shard.load.waiting.load(Ordering::Relaxed);
        let able = move |shard: &ShardSample| !shard.stuck && waiting(shard) < MOST_WAITING;
        self.shards.iter().enumerate().filter(move |(_, shard)| able(shard))
    }
}

// === impl ShardSample ===

impl ShardSample {
    /// How many of the connections given lately may be there still.
    fn still_there(&self) -> u64 {
        self.assigned.saturating_sub(self.load.closed().saturating_sub(self.closed))
    }

    /// What has become of the shard since `passed` ago.
    fn look(&mut self, passed: Duration) {
        (self.assigned, self.tunnels, self.closed) = (0, 0, self.load.closed());
        self.busy = match self.time.map(ThreadTime::used) {
            Some(used) => used.map(|used| {
                let more = used.saturating_sub(mem::replace(&mut self.used, used));
                parts(more, passed)
            }),
            // By connections alone.
            None => self.busy.map(|_| 0),
        };
        let taken = self.load.taken.load(Ordering::Relaxed);
        let waits = self.load.waiting.load(Ordering::Relaxed) > 0;
        self.stuck = waits && taken == mem::replace(&mut self.taken, taken);
    }
}

fn parts(used: Duration, passed: Duration) -> u64 {
    let parts = used.as_micros() * u128::from(PERMILLE) / passed.as_micros().max(1);
    // A look may come a little late.
    u64::try_from(parts).unwrap_or(PERMILLE).min(PERMILLE)
}

#[cfg(test)]
mod tests;

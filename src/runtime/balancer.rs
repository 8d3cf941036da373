//! The load of the shards, and the choice of the shard that takes a connection.
//!
//! The shard that wakes first accepts a connection, so one shard could accept all connections of a pod. The number of
//! a shard's connections says little about the shard's load: a thousand connections may be idle, and one connection
//! may fill a processor. So the choice follows the processor time that each shard used between the last two samples.
//! The choice also counts the connections that each shard was assigned since the last sample: no sample shows their
//! load yet.

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

/// The least time between two samples of processor time.
/// Limit: time between two samples of the processor time of shards, when connections come: 10 ms; past it: the last
/// sample counts.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);
/// The whole of a processor, or of the connections assigned since the last sample.
/// No limit: the unit of shares.
const PERMILLE: u64 = 1000;
/// A shard hands an accepted connection over only if the shard's load exceeds another shard's by more than this
/// margin. A hand-over wakes another thread.
/// Limit: lead of a shard over another: a tenth of a processor, and of the connections assigned since the last
/// sample; past it: the shard hands over the connections that it accepts.
const BUSY_MARGIN: u64 = PERMILLE / 10;
/// The number of waiting hand-overs at which a shard is assigned no more. The number is a few turns' worth of work,
/// and few connections wait if the shard turns out to be stuck.
/// Limit: hand-overs that wait for a shard: 64; past it: the shard is given no more until it takes them.
const MOST_WAITING: usize = 64;
/// A tunnel goes to the shard with the fewest tunnels among the shards that are busy to the same quarter.
/// No limit: the steps in which processor time is compared for a tunnel.
const BUSY_QUARTER: u64 = PERMILLE / 4;

/// Counts of what a shard carries now. The balancer reads the counts when it chooses a shard.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// The number of live connections of applications.
    pub conns: AtomicUsize,
    /// The number of live tunnels, whichever end opened the tunnel.
    pub tunnels: AtomicUsize,
    /// The number of connections and tunnels since the start of the process.
    pub placed: AtomicU64,
    /// The number of hand-overs from other shards that this shard has not taken yet.
    waiting: AtomicUsize,
    /// The number of hand-overs that this shard has taken.
    taken: AtomicU64,
}

/// A hand-over to another shard. The hand-over counts as waiting until the shard takes it or it is lost.
#[derive(Debug)]
pub(crate) struct HandedOver(Arc<ShardStats>);

/// Counts one connection or tunnel of a shard until the guard is dropped.
#[derive(Debug)]
pub struct LoadGuard(Arc<ShardStats>, fn(&ShardStats) -> &AtomicUsize);

/// Chooses the shard of a connection.
#[derive(Debug)]
pub struct Balancer(Mutex<Samples>);

#[derive(Debug)]
struct Samples {
    at: Instant,
    /// The shard that was assigned a connection last, and the number of its closed connections by then.
    last: Option<(usize, u64)>,
    shards: Vec<ShardSample>,
}

/// The last sample of a shard, and what the shard was assigned since the sample.
#[derive(Debug, Default)]
struct ShardSample {
    load: Arc<ShardStats>,
    /// The processor time of the thread that serves; `None` before the first thread.
    time: Option<ThreadTime>,
    used: Duration,
    /// The processor time that the former threads of the shard used until their last sample.
    before: Duration,
    /// The share of a processor that the shard used, in [`PERMILLE`]; `None` if no thread serves.
    busy: Option<u64>,
    /// The number of connections assigned since the sample.
    assigned: u64,
    /// The number of the shard's connections and tunnels that were closed at the sample.
    closed: u64,
    /// The number of tunnels assigned since the sample: some time may pass until [`ShardStats`] counts a tunnel.
    tunnels: usize,
    /// The number of hand-overs that the shard had taken at the sample.
    taken: u64,
    /// Whether hand-overs wait and the shard took none between two samples. A stuck thread uses no processor time.
    stuck: bool,
}

// === impl ShardStats ===

impl ShardStats {
    /// The number of connections and tunnels that are closed.
    fn closed(&self) -> u64 {
        let now = |count: &AtomicUsize| count.load(Ordering::Relaxed) as u64;
        self.placed.load(Ordering::Relaxed).saturating_sub(now(&self.conns) + now(&self.tunnels))
    }
}

// === impl LoadGuard ===

impl LoadGuard {
    /// Counts one more in `field`.
    pub fn new(load: &Arc<ShardStats>, field: fn(&ShardStats) -> &AtomicUsize) -> Self {
        field(load).fetch_add(1, Ordering::Relaxed);
        load.placed.fetch_add(1, Ordering::Relaxed);
        Self(load.clone(), field)
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        // A shard with a new thread counts from zero while tasks of the old thread are still being dropped.
        let _ = (self.1)(&self.0).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }
}

// === impl HandedOver ===

impl HandedOver {
    /// Counts one more hand-over to the shard of `load`.
    pub(crate) fn new(load: &Arc<ShardStats>) -> Self {
        load.waiting.fetch_add(1, Ordering::Relaxed);
        Self(load.clone())
    }

    /// Counts the hand-over as taken by the shard.
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
    /// Makes a balancer of shards with these `loads`. No thread serves the shards yet.
    pub fn new(loads: impl IntoIterator<Item = Arc<ShardStats>>) -> Self {
        let shards = loads.into_iter().map(|load| ShardSample { load, ..ShardSample::default() }).collect();
        Self(Mutex::new(Samples { at: Instant::now(), last: None, shards }))
    }

    /// Notes that a new thread serves shard `index`, with the processor time of the thread.
    pub fn serves(&self, index: usize, time: Option<ThreadTime>) {
        if let Some(shard) = self.0.lock().shards.get_mut(index) {
            let (load, before) = (shard.load.clone(), shard.before + shard.used);
            *shard = ShardSample { load, time, before, busy: Some(0), ..ShardSample::default() };
        }
    }

    /// Samples the processor time of the shards, at most once in `SAMPLE_INTERVAL`.
    ///
    /// Callers also sample now and then while nothing is assigned, so that the next choice does not see a long
    /// average. A caller also samples when a connection ends: its processor time says nothing about the next
    /// connections.
    pub fn look(&self) {
        self.0.lock().look(Instant::now());
    }

    /// The processor time that all threads of shard `index` have used.
    pub fn used(&self, index: usize) -> Duration {
        self.look();
        let samples = self.0.lock();
        samples.shards.get(index).map(|shard| shard.before + shard.used).unwrap_or_default()
    }

    /// Chooses the shard for a connection that shard `home` has accepted.
    pub fn connection(&self, home: usize) -> usize {
        let mut samples = self.0.lock();
        samples.look(Instant::now());
        let to = samples.lightest(home);
        samples.assign(to);
        to
    }

    /// Chooses the shard for a tunnel that shard `home` has accepted.
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
        // Few connections say less than many, so 4 is added to the divisor. A shard that was assigned twice an equal
        // part weighs as much as a full processor.
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
        // Two connections that are opened one after the other go to two shards. Idle earlier connections do not
        // matter, nor does the idle time of the first connection. Short connections are excepted: samples spread them
        // in the long run, and a hand-over takes longer than such a connection.
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

    /// The shards that take hand-overs: their index and sample.
    fn able(&self) -> impl Iterator<Item = (usize, &ShardSample)> {
        let waiting = |shard: &ShardSample| shard.load.waiting.load(Ordering::Relaxed);
        let able = move |shard: &ShardSample| !shard.stuck && waiting(shard) < MOST_WAITING;
        self.shards.iter().enumerate().filter(move |(_, shard)| able(shard))
    }
}

// === impl ShardSample ===

impl ShardSample {
    /// The number of connections assigned since the sample that may still be open.
    fn still_there(&self) -> u64 {
        self.assigned.saturating_sub(self.load.closed().saturating_sub(self.closed))
    }

    /// Takes a sample of the shard. `passed`: the time since the last sample.
    fn look(&mut self, passed: Duration) {
        (self.assigned, self.tunnels, self.closed) = (0, 0, self.load.closed());
        self.busy = match self.time.map(ThreadTime::used) {
            Some(used) => used.map(|used| {
                let more = used.saturating_sub(mem::replace(&mut self.used, used));
                parts(more, passed)
            }),
            // Without the thread's processor time the choice goes by connections alone.
            None => self.busy.map(|_| 0),
        };
        let taken = self.load.taken.load(Ordering::Relaxed);
        let waits = self.load.waiting.load(Ordering::Relaxed) > 0;
        self.stuck = waits && taken == mem::replace(&mut self.taken, taken);
    }
}

fn parts(used: Duration, passed: Duration) -> u64 {
    let parts = used.as_micros() * u128::from(PERMILLE) / passed.as_micros().max(1);
    // A thread's time may be read a little after `passed` was, so the share can exceed the whole.
    u64::try_from(parts).unwrap_or(PERMILLE).min(PERMILLE)
}

#[cfg(test)]
mod tests;

//! The traffic metrics (docs/spec/controlplane.md 5.2 and 5.3).
//!
//! A connection's labels are looked up once, when the connection opens. From then on the connection holds its label
//! set and adds to plain atomics.

mod quota;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use self::quota::PeerQuota;
use super::series::{
    Cell, Declaration, Family, Group, Set, Value, Values,
    declared::{CLOSED, FAILED, OPENED, RECEIVED, SENT},
};
use crate::protocols::{
    labels::{FLAG_AT, TrafficLabels, or_unknown},
    outcome::ResponseFlag,
};

/// The number of label sets kept at a time.
///
/// Limit: label sets of traffic: 20,000; past it: counted as `unknown`.
pub const SERIES_LIMIT: usize = 20_000;

/// How long a label set without connections is kept.
///
/// Limit: a label set without connections: 1 h; past it: the label set is forgotten.
pub const SERIES_IDLE: Duration = Duration::from_secs(3600);

/// All series, which all shards share.
#[derive(Debug)]
pub struct TrafficTable {
    sets: Family<Connections>,
    quota: PeerQuota,
}

/// A connection's counters. A drop without [`Traffic::close`] counts the connection as closed by this proxy, flag `-`.
#[derive(Debug)]
pub struct Traffic {
    set: Arc<Set<Connections>>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The connection's first attempts may fail unseen, and then count elsewhere or not at all.
    Begun,
    Open,
    Ended,
}

/// The counters of one label set.
#[derive(Debug, Default)]
struct Connections {
    /// The attempts to open a connection. The set is in use until each is withdrawn or its connection is closed.
    begun: AtomicU64,
    withdrawn: AtomicU64,
    opened: AtomicU64,
    /// Connections that another process has opened and handed over.
    adopted: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    closed: [AtomicU64; ResponseFlag::ALL.len()],
}

// === impl TrafficTable ===

impl TrafficTable {
    /// An empty table for at most `limit` label sets.
    pub fn new(limit: usize) -> Self {
        let sets = Family::new(&[OPENED, CLOSED, FAILED, RECEIVED, SENT], limit);
        Self { sets, quota: PeerQuota::default() }
    }

    /// Counts a connection as opened and returns its counters.
    pub fn open(&self, labels: &TrafficLabels<'_>) -> Traffic {
        let mut traffic = self.begin(labels);
        traffic.open();
        traffic
    }

    /// The counters of a connection that may be opened, or withdrawn.
    pub fn begin(&self, labels: &TrafficLabels<'_>) -> Traffic {
        // This one set of the reporter is kept past the limit.
        let unknown = TrafficLabels::unknown(labels.reporter);
        self.sets.with(|set| put(set, labels), |set| put(set, &unknown), Traffic::begin)
    }

    /// The counters of a connection whose source describes itself, which may be opened. Past the quota of the source's
    /// `identity` the connection counts by the labels of the identity `alone`.
    pub fn begin_described(
        &self,
        identity: &str,
        labels: &TrafficLabels<'_>,
        alone: &TrafficLabels<'_>,
    ) -> Traffic {
        let source = &labels.source;
        let [a, b, c, d, e, f, g, h] = source.values();
        let words = [a, b, c, d, e, f, g, h, or_unknown(source.region), or_unknown(source.zone)];
        self.begin(if self.quota.admits(identity, &words) { labels } else { alone })
    }

    /// The number of connections that counted by their identity alone, past its quota.
    pub fn undescribed(&self) -> u64 {
        self.quota.refused()
    }

    /// The number of label sets kept.
    pub fn len(&self) -> usize {
        self.sets.len()
    }

    /// Whether no label set is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of connections whose label set found no room.
    pub fn overflowed(&self) -> u64 {
        self.sets.overflowed()
    }

    /// Drops the series that sweeps saw without a connection for `idle`, and returns their number.
    pub fn sweep(&self, now: Instant, idle: Duration) -> usize {
        self.quota.sweep(now, idle);
        self.sets.sweep(now, idle)
    }

    /// The series that are kept now.
    pub(super) fn group(&self) -> Group {
        self.sets.group()
    }
}

impl Default for TrafficTable {
    fn default() -> Self {
        Self::new(SERIES_LIMIT)
    }
}

/// Adds the values of a label set, without the response flag, which the sample adds.
fn put(set: &mut Values, labels: &TrafficLabels<'_>) {
    // Plain loops are used, because chained iterators take twice the time.
    for value in labels.before_flag() {
        set.put(value);
    }
    set.put(labels.security.as_str());
    if let Some(locality) = labels.locality() {
        for value in locality {
            set.put(value);
        }
    }
}

// === impl Traffic ===

impl Traffic {
    fn begin(set: &Arc<Set<Connections>>) -> Self {
        set.cell().begun.fetch_add(1, Relaxed);
        Self { set: Arc::clone(set), state: State::Begun }
    }

    /// Counts the connection as opened, once. Returns whether this call has done so.
    pub fn open(&mut self) -> bool {
        let opens = self.state == State::Begun;
        if opens {
            self.state = State::Open;
            self.set.cell().opened.fetch_add(1, Relaxed);
        }
        opens
    }

    /// Takes the connection over from another process, which has counted it as opened.
    pub fn adopt(&mut self) {
        if self.state == State::Begun {
            self.state = State::Open;
            self.set.cell().adopted.fetch_add(1, Relaxed);
        }
    }

    /// Leaves the connection to another process, which will count it as closed.
    pub fn hand_over(mut self) {
        self.state = State::Ended;
        self.set.cell().withdrawn.fetch_add(1, Relaxed);
    }

    /// Ends an attempt that another one follows. A connection that was not opened is not counted.
    pub fn withdraw(mut self) {
        if self.state == State::Begun {
            self.state = State::Ended;
            self.set.cell().withdrawn.fetch_add(1, Relaxed);
        }
    }

    /// Adds bytes that went from client to server.
    pub fn received(&self, bytes: u64) {
        self.set.cell().received.fetch_add(bytes, Relaxed);
    }

    /// Adds bytes that went from server to client.
    pub fn sent(&self, bytes: u64) {
        self.set.cell().sent.fetch_add(bytes, Relaxed);
    }

    /// Counts the connection as closed, and as failed unless `flag` is `-`.
    pub fn close(mut self, flag: ResponseFlag) {
        self.end(flag);
    }

    fn end(&mut self, flag: ResponseFlag) {
        self.open();
        if std::mem::replace(&mut self.state, State::Ended) == State::Ended {
            return;
        }
        if let Some(closed) = self.set.cell().closed.get(flag.index()) {
            closed.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end(ResponseFlag::Ok);
    }
}

// === impl Connections ===

impl Cell for Connections {
    fn new(_: &[&Declaration]) -> Self {
        Self::default()
    }

    /// The number of attempts, once all of them are withdrawn or closed.
    fn counted(&self) -> Option<u64> {
        let begun = self.begun.load(Relaxed);
        let closed: u64 = self.closed.iter().map(|closed| closed.load(Relaxed)).sum();
        (closed + self.withdrawn.load(Relaxed) >= begun).then_some(begun)
    }

    fn samples(&self, of: &Declaration, emit: &mut dyn FnMut(Option<(usize, &'static str)>, Value)) {
        let mut sample = |flag: ResponseFlag, count| {
            emit(Some((FLAG_AT, flag.as_str())), Value::Count(count));
        };
        if self.opened.load(Relaxed) + self.adopted.load(Relaxed) == 0 {
            return;
        }
        let one = [(OPENED, &self.opened), (RECEIVED, &self.received), (SENT, &self.sent)];
        if let Some((_, count)) = one.iter().find(|(family, _)| family.name == of.name) {
            return sample(ResponseFlag::Ok, count.load(Relaxed));
        }
        // The ends are counted by flag; an end with a normal flag is no failure.
        for flag in ResponseFlag::ALL {
            let count = self.closed.get(flag.index()).map_or(0, |closed| closed.load(Relaxed));
            if count > 0 && (of.name == CLOSED.name || flag != ResponseFlag::Ok) {
                sample(flag, count);
            }
        }
    }
}

#[cfg(test)]
mod tests;

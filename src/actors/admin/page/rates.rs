//! Rates, out of the counts of two looks.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::view::{PodCounts, PodView};

/// Limit: rates of the node that the page draws: 60; past it: the oldest is forgotten.
const HISTORY: usize = 60;
/// Limit: time between two looks whose difference is a rate: 30 s; past it: there is no rate until the next look.
const COMPARED_WITHIN: Duration = Duration::from_secs(30);

/// The counts of the last look, and the rates of those before it.
#[derive(Debug, Default)]
pub(super) struct Rates {
    before: HashMap<u64, PodCounts>,
    at: Option<Instant>,
    history: VecDeque<f64>,
}

/// What happens in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    /// Connections that begin.
    pub(super) opened: f64,
    /// Bytes from clients to servers.
    pub(super) received: f64,
    /// Bytes from servers to clients.
    pub(super) sent: f64,
}

/// The rates of a look. Without a look shortly before there are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    /// The rates of pods by serial.
    pub(super) pods: HashMap<u64, Rate>,
    /// The rate of the node.
    pub(super) node: Option<Rate>,
    /// Bytes of the node in a second, the newest last.
    pub(super) history: Vec<f64>,
}

// === impl Rates ===

impl Rates {
    /// The rates since the last look.
    pub(super) fn measure(&mut self, pods: &[PodView], now: Instant) -> Measured {
        let elapsed = self.at.map(|at| now.duration_since(at)).filter(|elapsed| !elapsed.is_zero());
        let compared = elapsed.filter(|elapsed| *elapsed <= COMPARED_WITHIN);
        let counts = pods.iter().filter_map(|pod| Some((pod.serial?, pod.counts)));
        let counts: HashMap<u64, PodCounts> = counts.collect();
        let before = std::mem::replace(&mut self.before, counts);
        self.at = Some(now);
        let Some(elapsed) = compared else {
            self.history.clear();
            return Measured::default();
        };
        let seconds = elapsed.as_secs_f64();
        let rates = self.before.iter().filter_map(|(serial, counts)| {
            let before = before.get(serial)?;
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            let rate = Rate {
                opened: rate(counts.opened, before.opened),
                received: rate(counts.received, before.received),
                sent: rate(counts.sent, before.sent),
            };
            Some((*serial, rate))
        });
        let pods: HashMap<u64, Rate> = rates.collect();
        let node = pods.values().fold(Rate::default(), |all, rate| Rate {
            opened: all.opened + rate.opened,
            received: all.received + rate.received,
            sent: all.sent + rate.sent,
        });
        self.history.push_back(node.received + node.sent);
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        Measured { pods, node: Some(node), history: self.history.iter().copied().collect() }
    }
}

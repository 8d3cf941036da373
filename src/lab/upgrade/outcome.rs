//! What a row has seen, held to what is promised.

use std::time::Duration;

use serde::Serialize;

use super::{fleet::Cost, traffic::Flow};

/// How much more memory either process may have during a hand-over, in bytes.
const GROWN: u64 = 32 << 20;

/// What a row has seen.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    /// The row.
    pub(super) name: &'static str,
    /// What was done.
    pub(super) what: &'static str,
    /// The number of streams.
    pub(super) streams: u64,
    /// The number of upgrades of all nodes.
    pub(super) upgrades: u64,
    /// The number of streams that were lost.
    pub(super) lost: u64,
    /// The number of streams that had to be lost.
    pub(super) had_to: u64,
    /// The number of streams with other bytes than those that were sent.
    pub(super) wrong: u64,
    /// The number of bytes that were checked.
    pub(super) bytes: u64,
    /// The number of new connections.
    pub(super) new: u64,
    /// The number of new connections that failed.
    pub(super) refused: u64,
    /// The slowest new connection, in milliseconds.
    pub(super) slowest_new_ms: f64,
    /// The longest stall of a stream in an upgrade, in milliseconds: of half of them, of 99 %, and of all.
    pub(super) stalls_ms: [f64; 3],
    /// The way of the stream with the longest of these stalls.
    pub(super) stalled_longest: String,
    /// The longest stall of a stream while nothing was done, in milliseconds.
    pub(super) calm_ms: f64,
    /// The growth of the old process and of the new one, in bytes.
    pub(super) grown_bytes: [u64; 2],
    /// The time from SIGTERM to the end of the old process, in milliseconds: of half of them, and the longest.
    pub(super) hand_over_ms: [f64; 2],
    /// What was promised and not held.
    pub(super) complaints: Vec<String>,
}

// === impl Outcome ===

impl Outcome {
    /// Whether everything that is promised was held.
    pub(super) fn holds(&self) -> bool {
        self.complaints.is_empty()
    }

    /// Takes in what has become of the traffic, `had_to` of whose streams had to be lost.
    pub(super) fn flow(&mut self, flow: &Flow, had_to: u64) {
        let sum = flow.sum(|_| true);
        (self.streams, self.lost, self.wrong, self.bytes) = (sum.streams, sum.broken, sum.wrong, sum.bytes);
        self.had_to = had_to;
        self.stalls_ms = [50.0, 99.0, 100.0].map(|percent| match percent {
            100.0 => milliseconds(sum.stalls.slowest()),
            percent => milliseconds(sum.stalls.percentile(percent)),
        });
        self.calm_ms = milliseconds(sum.calm.slowest());
        let longest = flow.streams.iter().max_by_key(|(_, report)| report.stalls.slowest());
        self.stalled_longest = longest.map(|(way, _)| way.to_string()).unwrap_or_default();
        let new = flow.sum_new();
        (self.new, self.refused) = (new.requests, new.failures);
        self.slowest_new_ms = milliseconds(new.latencies.slowest());
        let problem = sum.first_problem.unwrap_or_default();
        if self.lost != had_to {
            self.complain(format!("{} streams lost in the place of {had_to}: {problem}", self.lost));
        }
        if self.wrong > 0 {
            self.complain(format!("{} streams with wrong bytes: {problem}", self.wrong));
        }
        if self.refused > 0 {
            let first = new.first_failure.unwrap_or_default();
            self.complain(format!("{} new connections failed: {first}", self.refused));
        }
    }

    /// Takes in what the hand-overs have cost.
    pub(super) fn costs(&mut self, costs: &[Cost]) {
        let mut times: Vec<f64> = costs.iter().map(|cost| milliseconds(cost.time)).collect();
        times.sort_by(f64::total_cmp);
        let at = |index: usize| times.get(index).copied().unwrap_or_default();
        self.hand_over_ms = [at(times.len() / 2), at(times.len().saturating_sub(1))];
        let most = |of: fn(&Cost) -> u64| costs.iter().map(of).max().unwrap_or_default();
        self.grown_bytes = [most(|cost| cost.old_grown), most(|cost| cost.new_grown)];
        self.upgrades = costs.len() as u64;
        for (who, grown) in ["old", "new"].into_iter().zip(self.grown_bytes) {
            if grown > GROWN {
                self.complain(format!("the {who} process had {} MiB more than before", grown >> 20));
            }
        }
    }

    /// Holds the longest stall to a limit, beyond what streams stall for without an upgrade.
    pub(super) fn stall_within(&mut self, limit: Duration) {
        let ([.., longest], calm) = (self.stalls_ms, self.calm_ms);
        if longest > milliseconds(limit) + calm {
            self.complain(format!(
                "a stall of {longest:.0} ms ({}), more than {limit:?} beyond the {calm:.0} ms without an upgrade",
                self.stalled_longest
            ));
        }
    }

    pub(super) fn complain(&mut self, complaint: String) {
        self.complaints.push(complaint);
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

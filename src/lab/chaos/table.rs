//! Formats the matrix as text.

use std::time::Duration;

use super::{allowed::Fault, trial::Outcome};
use crate::lab::show::seconds;

/// The width, in columns, of a row's name.
const NAME: usize = 18;

/// The worst of several outcomes of a kind.
struct Worst<'a> {
    kind: &'a str,
    faults: Vec<&'a Outcome>,
}

/// The names of the columns of [`cells`].
pub(super) fn header() -> String {
    line(["streams lost", "requests failed", "stall", "noticed", "repaired", "readiness"])
}

/// The cells of one outcome.
pub(super) fn cells(outcome: &Outcome) -> String {
    let Outcome { streams, streams_lost, requests, requests_failed, .. } = outcome;
    line([
        &format!("{streams_lost} of {streams}"),
        &format!("{requests_failed} of {requests}"),
        &time(outcome.stall),
        &time(outcome.detect),
        &time(outcome.repair),
        &outcome.readiness,
    ])
}

/// The worst outcomes of each kind.
pub(super) fn by_kind(outcomes: &[Outcome]) -> Vec<String> {
    let mut kinds: Vec<Worst<'_>> = Vec::new();
    for outcome in outcomes {
        match kinds.iter_mut().find(|worst| worst.kind == outcome.kind) {
            Some(worst) => worst.faults.push(outcome),
            None => kinds.push(Worst { kind: &outcome.kind, faults: vec![outcome] }),
        }
    }
    let mut lines = vec![format!("  {:NAME$} {}", "", header())];
    lines.extend(kinds.iter().map(|worst| format!("  {:NAME$} {}", worst.kind, worst.cells())));
    lines
}

fn line([lost, failed, stall, noticed, repaired, readiness]: [&str; 6]) -> String {
    format!("{lost:>12} {failed:>15} {stall:>9} {noticed:>9} {repaired:>9}  {readiness}")
}

fn time(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), seconds)
}

impl Worst<'_> {
    fn cells(&self) -> String {
        let most = |of: fn(&Outcome) -> u64| self.faults.iter().map(|outcome| of(outcome)).max().unwrap_or(0);
        let slowest = |of: fn(&Outcome) -> Option<Duration>| {
            let restarts = self.faults.iter().filter(|outcome| outcome.fault != Fault::Start);
            time(restarts.filter_map(|outcome| of(outcome)).max())
        };
        let mut said: Vec<&str> = self.faults.iter().map(|outcome| &*outcome.readiness).collect();
        said.sort_unstable();
        said.dedup();
        line([
            &format!("{} of {}", most(|outcome| outcome.streams_lost), most(|outcome| outcome.streams)),
            &most(|outcome| outcome.requests_failed).to_string(),
            &slowest(|outcome| outcome.stall),
            &slowest(|outcome| outcome.detect),
            &slowest(|outcome| outcome.repair),
            &said.join(", "),
        ])
    }
}

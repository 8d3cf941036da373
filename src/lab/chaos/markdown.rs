//! Formats the matrix as Markdown: a short table of kills and a full one, with a row for each kind of actor.

use std::{fmt::Write as _, time::Duration};

use super::{
    allowed::{Allowed, Fault},
    trial::Outcome,
};
use crate::lab::show::seconds;

/// Both tables, with the rows in the order of the allowed file; the cell of a fault that was not tried is empty.
pub(super) fn tables(allowed: &Allowed, outcomes: &[Outcome]) -> String {
    let rows: Vec<Row<'_>> = allowed.kinds.iter().filter_map(|row| Row::of(&row.kind, outcomes)).collect();
    let mut text = String::new();
    let headings = "| Actor | Streams lost | Requests failed | Noticed | Repaired | Longest stall, any fault but \
                    `start` | Longest repair |\n|---|---|---|---|---|---|---|\n";
    text.push_str(headings);
    rows.iter().for_each(|row| text.push_str(&row.short()));
    text.push('\n');
    let faults: Vec<String> = Fault::ALL.iter().map(|fault| format!(" `{fault}` |")).collect();
    let _ =
        writeln!(text, "| Actor |{} Readiness |\n|---|{}---|", faults.concat(), "---|".repeat(faults.len()));
    rows.iter().for_each(|row| text.push_str(&row.whole()));
    text
}

/// A kind of actor, and the outcome of each fault that was tried.
struct Row<'a> {
    kind: &'a str,
    tried: Vec<&'a Outcome>,
}

impl<'a> Row<'a> {
    fn of(kind: &'a str, outcomes: &'a [Outcome]) -> Option<Self> {
        let tried: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.kind == kind).collect();
        (!tried.is_empty()).then_some(Self { kind, tried })
    }

    /// The outcome of a fault; the last outcome if the fault was tried more than once.
    fn tried(&self, fault: Fault) -> Option<&'a Outcome> {
        self.tried.iter().rev().find(|outcome| outcome.fault == fault).copied()
    }

    /// The kill, and the longest times of all faults. The times of failing starts are left out, because the trial
    /// itself sets them.
    fn short(&self) -> String {
        let longest = |of: fn(&Outcome) -> Option<Duration>| {
            let faults = Fault::ALL.iter().filter(|fault| **fault != Fault::Start);
            time(faults.filter_map(|fault| of(self.tried(*fault)?)).max())
        };
        let kill = self.tried(Fault::Kill);
        let of_kill = |cell: fn(&Outcome) -> String| kill.map_or_else(String::new, cell);
        let lost = of_kill(|kill| format!("{} of {}", kill.streams_lost, kill.streams));
        let failed = of_kill(|kill| format!("{} of {}", kill.requests_failed, kill.requests));
        let (noticed, repaired) = (of_kill(|kill| time(kill.detect)), of_kill(|kill| time(kill.repair)));
        let (stall, repair) = (longest(|outcome| outcome.stall), longest(|outcome| outcome.repair));
        format!("| {} | {lost} | {failed} | {noticed} | {repaired} | {stall} | {repair} |\n", self.kind)
    }

    fn whole(&self) -> String {
        let cells = Fault::ALL.iter().map(|fault| self.tried(*fault).map_or_else(String::new, cell));
        let mut said: Vec<&str> = self.tried.iter().map(|outcome| &*outcome.readiness).collect();
        said.sort_unstable();
        said.dedup();
        format!("| {} | {} | {} |\n", self.kind, cells.collect::<Vec<_>>().join(" | "), said.join(", "))
    }
}

/// `streams + requests lost; stall; noticed → repaired`.
fn cell(outcome: &Outcome) -> String {
    let Outcome { streams_lost, requests_failed, stall, detect, repair, .. } = outcome;
    let mut text = format!("{streams_lost} + {requests_failed}; {}", time(*stall));
    if repair.is_some() {
        let _ = write!(text, "; {} → {}", time(*detect), time(*repair));
    }
    if outcome.holds() { text } else { format!("{text} **does not hold**") }
}

fn time(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), seconds)
}

#[cfg(test)]
mod tests;

//! The allowed cost of each kind of actor's loss, from a file, and the mapping of actors to kinds.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::flow::Flow;
use crate::lab::node::ActorStatus;

/// The file that holds unless the command line names another.
pub(super) const STANDARD: &str = include_str!("allowed.yaml");

/// How a trial breaks an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Fault {
    /// The actor is killed.
    Kill,
    /// A handler panics.
    Panic,
    /// A handler does not return for 10 s.
    Hang,
    /// The actor handles each message late, for some seconds.
    Slow,
    /// The actor is killed, and its next five starts fail.
    Start,
}

/// The file of allowed costs.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Allowed {
    limits: BTreeMap<Fault, Limits>,
    /// The rows of the file.
    pub(super) kinds: Vec<Kind>,
}

/// Time limits; an effect without a limit must not happen.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Limits {
    detect_ms: Option<u64>,
    repair_ms: Option<u64>,
    stall_ms: Option<u64>,
}

/// A row of the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Kind {
    /// The name of the kind.
    pub(super) kind: String,
    path: String,
    /// The pod whose actor the row means.
    pub(super) of: Option<String>,
    /// The peer whose actor the row means.
    pub(super) to: Option<String>,
    #[serde(default)]
    loses: Vec<Flow>,
    #[serde(default)]
    hang: Hang,
    /// The expected readiness during the fault.
    #[serde(default)]
    pub(super) readiness: ExpectedReadiness,
    /// The reason why trials spare this kind.
    pub(super) spared: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Hang {
    #[default]
    Found,
    Endured,
}

/// The readiness of the node while an actor is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum ExpectedReadiness {
    /// The node is ready all the time.
    #[default]
    Stays,
    /// The node reports that something is missing.
    Says,
    /// The node's admin port does not answer.
    Away,
}

/// The error of a wrong file, or of a file that does not fit the tree.
#[derive(Debug, thiserror::Error)]
pub(super) enum AllowedError {
    #[error("what is allowed cannot be read: {0}")]
    Unreadable(String),
    #[error("what is allowed does not fit the tree:\n{}", .0.join("\n"))]
    Unfit(Vec<String>),
}

// === impl Fault ===

impl Fault {
    /// All faults.
    pub(super) const ALL: [Self; 5] = [Self::Kill, Self::Panic, Self::Hang, Self::Slow, Self::Start];

    /// How long a hang lasts.
    pub(super) const HANG: Duration = Duration::from_secs(10);
    /// How long an actor is slow.
    pub(super) const SLOW: Duration = Duration::from_secs(3);
    /// The number of starts that fail.
    pub(super) const STARTS: u32 = 5;

    /// The fault's word on the command line and in tables.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Panic => "panic",
            Self::Hang => "hang",
            Self::Slow => "slow",
            Self::Start => "start",
        }
    }

    /// The admin requests that cause the fault, as `/actors/ID/REQUEST`.
    pub(super) fn requests(self) -> Vec<String> {
        match self {
            Self::Kill => vec!["kill".to_owned()],
            Self::Panic => vec!["panic".to_owned()],
            Self::Hang => vec![format!("hang?ms={}", Self::HANG.as_millis())],
            Self::Slow => vec![format!("slow?ms=200&for={}", Self::SLOW.as_secs())],
            Self::Start => vec![format!("fail-starts?times={}", Self::STARTS), "kill".to_owned()],
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

// === impl Allowed ===

impl Allowed {
    /// Reads the file's text.
    pub(super) fn parse(text: &str) -> Result<Self, AllowedError> {
        serde_saphyr::from_str(text).map_err(|error| AllowedError::Unreadable(error.to_string()))
    }

    /// The same limits, with all times multiplied by `factor`.
    pub(super) fn times(mut self, factor: u64) -> Self {
        for limits in self.limits.values_mut() {
            for limit in [&mut limits.detect_ms, &mut limits.repair_ms, &mut limits.stall_ms] {
                *limit = limit.map(|ms| ms * factor);
            }
        }
        self
    }

    /// Checks the rows against the tree: each actor is in one row, and each row has an actor.
    pub(super) fn check(&self, tree: &[ActorStatus]) -> Result<(), AllowedError> {
        let mut faults = Vec::new();
        for seen in tree {
            let rows: Vec<&str> =
                self.kinds.iter().filter(|row| row.covers(&seen.path)).map(|row| &*row.kind).collect();
            match rows.as_slice() {
                [_] => {}
                [] => faults.push(format!("{} is in no row: add one for its kind", seen.path)),
                many => faults.push(format!("{} is in several rows: {}", seen.path, many.join(", "))),
            }
        }
        for row in &self.kinds {
            if !tree.iter().any(|seen| row.covers(&seen.path)) {
                faults.push(format!("{}: the tree has nothing at {}", row.kind, row.path));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(AllowedError::Unfit(faults)) }
    }

    /// The row of an actor.
    pub(super) fn row_of(&self, path: &str) -> Option<&Kind> {
        self.kinds.iter().find(|row| row.covers(path))
    }

    /// The time limit for the supervisor to notice a fault.
    pub(super) fn detect(&self, fault: Fault) -> Option<Duration> {
        self.limit(fault, |limits| limits.detect_ms)
    }

    /// The time limit for the repair of a fault.
    pub(super) fn repair(&self, fault: Fault) -> Option<Duration> {
        self.limit(fault, |limits| limits.repair_ms)
    }

    /// The time limit for a stall of bytes and requests.
    pub(super) fn stall(&self, fault: Fault) -> Option<Duration> {
        self.limit(fault, |limits| limits.stall_ms)
    }

    fn limit(&self, fault: Fault, which: fn(&Limits) -> Option<u64>) -> Option<Duration> {
        self.limits.get(&fault).and_then(which).map(Duration::from_millis)
    }
}

// === impl Kind ===

impl Kind {
    /// Whether the actor at `path` is of this kind.
    pub(super) fn covers(&self, path: &str) -> bool {
        let (mut pattern, mut parts) = (self.path.split('/'), path.split('/'));
        loop {
            match (pattern.next(), parts.next()) {
                (None, None) => return true,
                (Some(pattern), Some(part)) if fits(pattern, part) => {}
                _ => return false,
            }
        }
    }

    /// Whether the fault ends the actor. Other faults pass by themselves.
    pub(super) fn ends(&self, fault: Fault) -> bool {
        match fault {
            Fault::Kill | Fault::Panic | Fault::Start => true,
            Fault::Hang => self.hang == Hang::Found,
            Fault::Slow => false,
        }
    }

    /// Whether the flow may lose streams to the fault.
    pub(super) fn may_lose(&self, fault: Fault, flow: Flow) -> bool {
        self.ends(fault) && self.loses.contains(&flow)
    }
}

/// Whether a part of a path matches a part of a pattern.
fn fits(pattern: &str, part: &str) -> bool {
    match pattern.split_once('*') {
        Some((before, after)) => {
            part.len() > before.len() + after.len() && part.starts_with(before) && part.ends_with(after)
        }
        None => pattern == part,
    }
}

#[cfg(test)]
mod tests;

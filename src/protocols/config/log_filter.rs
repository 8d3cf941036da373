//! Which lines are logged: `RUST_LOG`, and changes of it while the process runs (docs/spec/controlplane.md 6.4
//! and 7.3).

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Serialize, Serializer};
use tracing::level_filters::LevelFilter;

/// Every filter starts with this: the actor library wraps each actor's life in a span of its own.
const BUILT_IN: (&str, LevelFilter) = ("ractor", LevelFilter::OFF);
/// The longest list of clauses that is taken, in bytes.
/// Limit: a list of log filter clauses: 4096 bytes; past it: the list is refused.
const LIST_BYTES_MAX: usize = 4096;
/// The most targets that a filter may have.
/// Limit: targets of the log filter: 64; past it: the change is refused.
const TARGETS_MAX: usize = 64;
/// How many characters of a bad clause are shown.
/// Limit: a bad clause of a log filter in an error: 128 characters; past it: the clause is cut.
const SHOWN_FILTER_CHARS: usize = 128;

/// Which lines are logged. The most specific target that is a prefix of a line's target decides; without one, the
/// default level does. It is displayed as it is parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter {
    default: LevelFilter,
    targets: BTreeMap<String, LevelFilter>,
}

/// Why a list of clauses is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A clause is neither a level nor a target with one.
    #[error("{0:?} is neither a level (error, warn, info, debug, trace, off) nor target=level")]
    Clause(String),
    /// The list is longer than a filter needs.
    #[error("a list of {0} bytes")]
    Long(usize),
    /// There are more targets than a filter needs.
    #[error("more than {TARGETS_MAX} targets")]
    Targets,
}

// === impl LogFilter ===

impl LogFilter {
    /// Adds the clauses of `list` or replaces those for the same targets, all or none of them. Empty clauses are skipped.
    /// Levels are in lower case.
    ///
    /// # Errors
    /// The first clause that is none, or a bound is passed.
    pub fn add(&mut self, list: &str) -> Result<(), FilterError> {
        *self = self.with(list, level)?;
        Ok(())
    }

    /// The level of all lines that no target is about.
    pub fn default_level(&self) -> LevelFilter {
        self.default
    }

    /// The targets with their levels.
    pub fn targets(&self) -> impl Iterator<Item = (&str, LevelFilter)> {
        self.targets.iter().map(|(target, level)| (target.as_str(), *level))
    }

    fn with(&self, list: &str, level: impl Fn(&str) -> Option<LevelFilter>) -> Result<Self, FilterError> {
        if list.len() > LIST_BYTES_MAX {
            return Err(FilterError::Long(list.len()));
        }
        let mut filter = self.clone();
        for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            match clause(text, &level)? {
                (Some(target), level) => _ = filter.targets.insert(target.to_owned(), level),
                (None, level) => filter.default = level,
            }
        }
        if filter.targets.len() > TARGETS_MAX { Err(FilterError::Targets) } else { Ok(filter) }
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        let (target, level) = BUILT_IN;
        Self { default: LevelFilter::INFO, targets: BTreeMap::from([(target.to_owned(), level)]) }
    }
}

impl FromStr for LogFilter {
    type Err = FilterError;

    /// The default (`info`) with the clauses of `list` added. Levels are in any case.
    fn from_str(list: &str) -> Result<Self, FilterError> {
        Self::default().with(list, |name| level(&name.to_ascii_lowercase()))
    }
}

impl fmt::Display for LogFilter {
    /// Most specific first, the level for everything else last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut targets: Vec<_> = self.targets.iter().collect();
        targets.sort_by_key(|(target, _)| std::cmp::Reverse(target.len()));
        for (target, level) in targets {
            write!(f, "{target}={level},")?;
        }
        self.default.fmt(f)
    }
}

impl Serialize for LogFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A clause's target, if it has one, and level. A colon does for the equals sign: istioctl's help shows it.
fn clause(
    text: &str,
    level: impl Fn(&str) -> Option<LevelFilter>,
) -> Result<(Option<&str>, LevelFilter), FilterError> {
    let wrong = || FilterError::Clause(text.chars().take(SHOWN_FILTER_CHARS).collect());
    if let Some(level) = level(text) {
        return Ok((None, level));
    }
    let (target, name) = text.rsplit_once(['=', ':']).ok_or_else(wrong)?;
    let is_target = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-' | '.');
    if target.is_empty() || target.ends_with(':') || !target.chars().all(is_target) {
        return Err(wrong());
    }
    Ok((Some(target), level(name).ok_or_else(wrong)?))
}

fn level(name: &str) -> Option<LevelFilter> {
    Some(match name {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

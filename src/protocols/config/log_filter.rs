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
/// default level does. A filter is displayed as the list that gives the filter when it is parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter {
    default: LevelFilter,
    targets: BTreeMap<String, LevelFilter>,
}

/// Why a list of clauses is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A clause is neither a level nor a target with one.
    #[error("{0:?} is neither a level (error, warn, info, debug, trace, off) nor a target with one")]
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
        *self = self.with(list, strict)?;
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

    fn with(&self, list: &str, clause: Clause) -> Result<Self, FilterError> {
        if list.len() > LIST_BYTES_MAX {
            return Err(FilterError::Long(list.len()));
        }
        let mut filter = self.clone();
        for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let wrong = || FilterError::Clause(text.chars().take(SHOWN_FILTER_CHARS).collect());
            match clause(text).ok_or_else(wrong)? {
                ("", level) => filter.default = level,
                (target, level) => _ = filter.targets.insert(target.to_owned(), level),
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

    /// Reads `list` as the incumbent does (docs/spec/controlplane.md 6.4). A list without any clause is `info`.
    fn from_str(list: &str) -> Result<Self, FilterError> {
        let info = Self::default();
        if list.split(',').all(|text| text.trim().is_empty()) {
            return Ok(info);
        }
        // Without a level alone, the lines of other targets are off.
        Self { default: LevelFilter::OFF, ..info }.with(list, lenient)
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

/// Reads a clause: the target, which is empty for a level alone, and the level. `None` if the text is no clause.
type Clause = fn(&str) -> Option<(&str, LevelFilter)>;

/// A clause of `POST /logging`: a level in lower case, or a target with a level. A colon does for the equals sign, because
/// istioctl's help shows a colon.
fn strict(text: &str) -> Option<(&str, LevelFilter)> {
    if let Some(level) = level(text) {
        return Some(("", level));
    }
    let (target, name) = text.rsplit_once(['=', ':'])?;
    let is_target = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-' | '.');
    let sound = !target.is_empty() && !target.ends_with(':') && target.chars().all(is_target);
    Some((target, level(name).filter(|_| sound)?))
}

/// A clause of `RUST_LOG`: also a target alone, which has all its lines logged, a level in capital letters, and a level's
/// number. A target that no line can have is taken, and does nothing.
fn lenient(text: &str) -> Option<(&str, LevelFilter)> {
    if let Some(level) = any_level(text) {
        return Some(("", level));
    }
    if let Some((target, name)) = text.split_once('=') {
        let level = if name.is_empty() { Some(LevelFilter::ERROR) } else { any_level(name) };
        return Some((target, level?));
    }
    match text.rsplit_once(':') {
        Some((target, name)) if !target.is_empty() && !target.ends_with(':') && level(name).is_some() => {
            Some((target, level(name)?))
        }
        _ => Some((text, LevelFilter::TRACE)),
    }
}

fn any_level(name: &str) -> Option<LevelFilter> {
    const BY_NUMBER: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let by_number = name.parse::<usize>().ok().and_then(|number| BY_NUMBER.get(number));
    level(by_number.copied().unwrap_or(&name.to_ascii_lowercase()))
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

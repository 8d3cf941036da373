//! Log filters: `level` or `target=level`, comma-separated (contract/controlplane.md sections 6.4 and 7.3).

use std::{collections::BTreeMap, fmt, str::FromStr};

use tracing_subscriber::filter::{LevelFilter, Targets};

/// What every filter starts with: the actor library wraps each actor's life in a span of its own.
const BUILT_IN: (&str, LevelFilter) = ("ractor", LevelFilter::OFF);

/// Longest filter taken, in bytes.
const MAX_LENGTH: usize = 4096;

/// Which lines are logged. The most specific target that is a prefix of a line's decides.
///
/// A target may be written as lines show it, without the crate's name: `actors::xds`, or just `xds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter {
    default: LevelFilter,
    targets: BTreeMap<String, LevelFilter>,
}

/// A clause that is neither a level nor a target with one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(pub String);

// === impl LogFilter ===

impl LogFilter {
    /// Adds or replaces the clauses of `list`, all or none of them. Empty clauses are skipped.
    ///
    /// # Errors
    /// The first clause that is not valid.
    pub fn add(&mut self, list: &str) -> Result<(), FilterError> {
        if list.len() > MAX_LENGTH {
            return Err(FilterError(format!("a list of {} bytes", list.len())));
        }
        let clauses = list.split(',').map(str::trim).filter(|clause| !clause.is_empty());
        let parsed: Vec<_> = clauses.map(clause).collect::<Result<_, _>>()?;
        for (target, level) in parsed {
            match target {
                Some(target) => drop(self.targets.insert(target.to_owned(), level)),
                None => self.default = level,
            }
        }
        Ok(())
    }

    /// The filter as `tracing` knows it.
    pub(super) fn to_targets(&self) -> Targets {
        let targets = self.targets.iter().flat_map(|(target, level)| {
            // Our own modules answer to their short names too; a full name wins over a short one by its length.
            ["", "warren::", "warren::actors::", "warren::protocols::"]
                .into_iter()
                .map(move |prefix| (format!("{prefix}{target}"), *level))
        });
        // Names the operator gave in full come last and win.
        let exact = self.targets.iter().map(|(target, level)| (target.clone(), *level));
        Targets::new().with_default(self.default).with_targets(targets).with_targets(exact)
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

    /// The default (`info`) with the clauses of `list` added.
    fn from_str(list: &str) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        filter.add(list)?;
        Ok(filter)
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

/// A clause's target, if it has one, and level. A colon does for the equals sign: istioctl's help shows it.
fn clause(text: &str) -> Result<(Option<&str>, LevelFilter), FilterError> {
    let wrong = || FilterError(text.chars().take(128).collect());
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

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn filters_read_back_as_they_are_set() {
        for (list, want) in [
            ("", "ractor=off,info"),
            ("debug", "ractor=off,debug"),
            ("access=debug,info", "access=debug,ractor=off,info"),
            ("access:debug", "access=debug,ractor=off,info"),
            (" warn , a::b=trace,,a::b:error ", "ractor=off,a::b=error,warn"),
            ("off,ractor=info", "ractor=info,off"),
        ] {
            assert_eq!(
                list.parse::<LogFilter>().map(|filter| filter.to_string()).as_deref(),
                Ok(want),
                "{list}"
            );
        }
    }

    #[test]
    fn clauses_that_are_none_are_named_and_change_nothing() {
        let mut filter = LogFilter::default();
        for bad in
            ["INFO", "access", "access=", "access=loud", "=info", "warning", "a b=info", "a::=info", "a:b"]
        {
            assert_eq!(filter.add(&format!("debug,{bad}")), Err(FilterError(bad.to_owned())), "{bad}");
        }
        assert!(filter.add(&"x".repeat(5000)).is_err());
        assert_eq!(filter, LogFilter::default());
    }

    #[test]
    fn the_most_specific_target_decides() {
        let filter: LogFilter = "warn,xds=debug,xds::node=off,access=info".parse().unwrap();
        let targets = filter.to_targets();
        for (target, level, want) in [
            ("anything", Level::INFO, false),
            ("anything", Level::WARN, true),
            ("xds", Level::DEBUG, true),
            ("warren::actors::xds", Level::DEBUG, true),
            ("warren::actors::xds::stream", Level::DEBUG, true),
            ("warren::protocols::xds::node", Level::ERROR, false),
            ("warren::actors::certs", Level::INFO, false),
            ("access", Level::INFO, true),
            ("access", Level::DEBUG, false),
            ("ractor::actor", Level::ERROR, false),
        ] {
            assert_eq!(targets.would_enable(target, &level), want, "{target} {level}");
        }
    }
}

//! What is logged (contract/controlplane.md sections 6.4 and 7.3).

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};
use tracing::level_filters::LevelFilter;

use super::{reader::Reader, var::Var};

const RUST_LOG: Var = Var::new(
    "RUST_LOG",
    "`level` or `target=level`, comma-separated",
    "info",
    "Which lines are logged: `error`, `warn`, `info`, `debug`, `trace` or `off`, for all targets or those that begin so. \
     The most specific target decides; useful ones are `access`, `dns` and `xds`.",
);
const LOG_FORMAT: Var = Var::new("LOG_FORMAT", "`plain` or `json`", "plain", "What a line looks like.");
const POLICY_INFO: Var = Var::flag(
    "AUTHZ_POLICY_INFO_LOGGING",
    "false",
    "Denials and dry-run policies are logged at info rather than debug.",
);

/// How many directives a filter may have.
const DIRECTIVES_MAX: usize = 64;

/// What is logged.
#[derive(Clone, Debug, Serialize)]
pub struct LogConfig {
    /// Which targets, from which level on.
    pub filter: LogFilter,
    /// What a line looks like.
    pub format: LogFormat,
    /// Policy decisions are logged at info instead of debug.
    pub policy_info: bool,
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum LogFormat {
    /// Columns separated by tabs.
    Plain,
    /// A JSON object.
    Json,
}

/// Which targets are logged, from which level on: the most specific directive wins. Displayed as it is
/// parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(Vec<Directive>);

/// One part of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// What targets begin with; empty for all.
    pub target: Box<str>,
    /// The least severe level that is logged.
    pub level: LevelFilter,
}

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A clause is neither `level` nor `target=level`.
    #[error("{0:?} is neither a level (error, warn, info, debug, trace, off) nor target=level")]
    Clause(String),
    /// There are more clauses than a filter needs.
    #[error("more than {DIRECTIVES_MAX} clauses")]
    Long,
}

impl LogConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let filter =
            r.parse_or_default(&RUST_LOG, |text| text.parse().map_err(|e: FilterError| e.to_string()));
        let format = r.parse_or_default(&LOG_FORMAT, |text| match text {
            "plain" => Ok(LogFormat::Plain),
            "json" => Ok(LogFormat::Json),
            _ => Err("not plain or json".into()),
        });
        Self {
            filter: filter.unwrap_or_default(),
            format: format.unwrap_or(LogFormat::Plain),
            policy_info: r.boolean(&POLICY_INFO),
        }
    }
}

// === impl LogFilter ===

impl LogFilter {
    /// The directives, the most specific first.
    pub fn directives(&self) -> &[Directive] {
        &self.0
    }

    /// The level of `target`; off if no directive is about it.
    pub fn level(&self, target: &str) -> LevelFilter {
        let directive = self.0.iter().find(|d| target.starts_with(&*d.target));
        directive.map_or(LevelFilter::OFF, |d| d.level)
    }

    /// This filter with the directives of `over` added or put in the place of those for the same targets.
    ///
    /// # Errors
    /// Together they are too many.
    pub fn overlaid(&self, over: &Self) -> Result<Self, FilterError> {
        let mut filter = self.clone();
        for directive in &over.0 {
            filter.put(directive.clone())?;
        }
        Ok(filter)
    }

    fn put(&mut self, directive: Directive) -> Result<(), FilterError> {
        self.0.retain(|d| d.target != directive.target);
        if self.0.len() >= DIRECTIVES_MAX {
            return Err(FilterError::Long);
        }
        let order = |d: &Directive| (std::cmp::Reverse(d.target.len()), d.target.clone());
        let at = self.0.partition_point(|d| order(d) < order(&directive));
        self.0.insert(at, directive);
        Ok(())
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self(vec![Directive { target: "".into(), level: LevelFilter::INFO }])
    }
}

impl FromStr for LogFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut filter = Self(Vec::new());
        for clause in text.split(',').map(str::trim).filter(|clause| !clause.is_empty()) {
            filter.put(clause.parse()?)?;
        }
        if filter.0.is_empty() { Ok(Self::default()) } else { Ok(filter) }
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Directive { target, level }) in self.0.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            let equals = if target.is_empty() { "" } else { "=" };
            write!(f, "{comma}{target}{equals}{level}")?;
        }
        Ok(())
    }
}

impl Serialize for LogFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// === impl Directive ===

impl FromStr for Directive {
    type Err = FilterError;

    fn from_str(clause: &str) -> Result<Self, FilterError> {
        let bad = || FilterError::Clause(clause.chars().take(64).collect());
        let (target, level) = match clause.split_once('=') {
            Some((target, level)) if !target.is_empty() => (target, level),
            Some(_) => return Err(bad()),
            None => ("", clause),
        };
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '.' | '/');
        if !target.chars().all(part) {
            return Err(bad());
        }
        let level = match level.to_ascii_lowercase().as_str() {
            "off" => LevelFilter::OFF,
            "error" => LevelFilter::ERROR,
            "warn" => LevelFilter::WARN,
            "info" => LevelFilter::INFO,
            "debug" => LevelFilter::DEBUG,
            "trace" => LevelFilter::TRACE,
            _ => return Err(bad()),
        };
        Ok(Self { target: target.into(), level })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn filters_are_levels_and_targets() {
        for (text, want) in [
            ("info", Ok("info")),
            ("", Ok("info")),
            ("WARN", Ok("warn")),
            ("info,access=debug", Ok("access=debug,info")),
            ("access=debug,info,", Ok("access=debug,info")),
            ("a=info, a::b=off", Ok("a::b=off,a=info")),
            ("a=info,a=debug", Ok("a=debug")),
            ("ifno", Err("\"ifno\" is neither")),
            ("a=verbose", Err("\"a=verbose\" is neither")),
            ("=info", Err("\"=info\" is neither")),
            ("a[span]=info", Err("\"a[span]=info\" is neither")),
            ("a=b=info", Err("\"a=b=info\" is neither")),
        ] {
            match (text.parse::<LogFilter>(), want) {
                (Ok(filter), Ok(want)) => assert_eq!(filter.to_string(), want, "{text:?}"),
                (Err(error), Err(want)) => assert!(error.to_string().starts_with(want), "{text:?}: {error}"),
                (got, _) => panic!("{text:?}: {got:?}"),
            }
        }
        let many: Vec<String> = (0..=DIRECTIVES_MAX).map(|n| format!("t{n}=info")).collect();
        assert_eq!(many.join(",").parse::<LogFilter>(), Err(FilterError::Long));
    }

    #[test]
    fn the_most_specific_directive_wins() {
        let filter: LogFilter = "warn,a=info,a::b=off".parse().unwrap();
        for (target, want) in
            [("x", LevelFilter::WARN), ("a", LevelFilter::INFO), ("a::b::c", LevelFilter::OFF)]
        {
            assert_eq!(filter.level(target), want, "{target}");
        }
        assert_eq!("a=info".parse::<LogFilter>().unwrap().level("x"), LevelFilter::OFF);
        let over = filter.overlaid(&"debug,a=off".parse().unwrap()).unwrap();
        assert_eq!(over.to_string(), "a::b=off,a=off,debug");
    }

    proptest! {
        #[test]
        fn filters_read_back(text in "([a-c:]{0,3}(=?(info|off|debug|x))?,?){0,6}") {
            if let Ok(filter) = text.parse::<LogFilter>() {
                prop_assert_eq!(filter.to_string().parse(), Ok(filter));
            }
        }
    }
}

//! The command line of `warren lab chaos`.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::Args;

/// What to break, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct ChaosArgs {
    /// Seed of all random choices
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "What to break")]
    pub(super) seed: u64,
    /// Go on in rounds, in random order, for a time such as 90s, 5m or 1h
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "What to break")]
    pub(super) duration: Option<Duration>,
    /// These faults alone, such as xds/kill or */panic; faults are kill, panic, hang, slow and start
    #[arg(long, value_name = "KIND/FAULT,...", value_delimiter = ',', help_heading = "What to break")]
    pub(super) only: Vec<Choice>,
    /// Kill one random actor a second instead
    #[arg(long, help_heading = "What to break")]
    pub(super) soak: bool,
    /// What the loss of each kind may cost, in YAML [default: built in]
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) allowed: Option<PathBuf>,
    /// Write the results there as JSON
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) json: Option<PathBuf>,
    /// Write the results there as tables in Markdown
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) markdown: Option<PathBuf>,
    /// Take results that --json has written earlier into the tables; may be given several times
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) add: Vec<PathBuf>,
}

/// A kind of actor and a fault; `*` stands for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    kind: String,
    fault: String,
}

/// A choice that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not KIND/FAULT, such as xds/kill, */panic or pods/*")]
pub(super) struct ChoiceError;

/// Up to some days; not zero.
fn duration(text: &str) -> Result<Duration, String> {
    let read = || {
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        let seconds = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        (1..=1_000_000).contains(&number).then(|| Duration::from_secs(number * seconds))
    };
    read().ok_or_else(|| "not a time such as 90s, 5m or 1h".to_owned())
}

// === impl Choice ===

impl FromStr for Choice {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        let pair = text.rsplit_once('/').filter(|(kind, fault)| !kind.is_empty() && !fault.is_empty());
        let (kind, fault) = pair.ok_or(ChoiceError)?;
        Ok(Self { kind: kind.to_owned(), fault: fault.to_owned() })
    }
}

// === impl ChaosArgs ===

impl ChaosArgs {
    /// Whether this is to be done.
    pub(super) fn wants(&self, kind: &str, fault: &str) -> bool {
        let fits = |wanted: &str, is: &str| wanted == "*" || wanted == is;
        self.only.is_empty()
            || self.only.iter().any(|only| fits(&only.kind, kind) && fits(&only.fault, fault))
    }
}

#[cfg(test)]
mod tests;

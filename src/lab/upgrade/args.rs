//! The command line of `warren lab upgrade`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::extent::Extent;

/// What to upgrade, and under what.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct UpgradeArgs {
    /// Streams in all; rows whose streams are busy have at most 40
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(8..=4000), help_heading = "What to do")]
    pub(super) streams: u32,
    /// Upgrades of each node in each row
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "What to do")]
    pub(super) upgrades: u32,
    /// These rows alone, such as mixed,frozen
    #[arg(long, value_name = "ROW,...", value_delimiter = ',', help_heading = "What to do")]
    pub(super) only: Vec<String>,
    /// Seconds for which the row `idle-after` waits after its upgrades
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=3600), help_heading = "What to do")]
    pub(super) seconds: u64,
    /// Times as long for stalls, on a machine that others use too
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100), help_heading = "What to do")]
    pub(super) slack: u32,
    /// The version that runs first [default: this program]
    #[arg(long, value_name = "BINARY", help_heading = "Versions")]
    pub(super) from: Option<PathBuf>,
    /// The version that the first upgrade brings; the next one goes back [default: this program]
    #[arg(long, value_name = "BINARY", help_heading = "Versions")]
    pub(super) to: Option<PathBuf>,
    /// Write the results there as JSON
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) json: Option<PathBuf>,
    /// Write the results there as a table in Markdown
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) markdown: Option<PathBuf>,
}

impl UpgradeArgs {
    /// How rows are run.
    pub(super) fn extent(&self) -> Extent {
        Extent {
            streams: usize::try_from(self.streams).unwrap_or(usize::MAX),
            upgrades: self.upgrades,
            idle: Duration::from_secs(self.seconds),
            slack: self.slack,
        }
    }
}

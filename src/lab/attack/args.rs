//! The command line of `warren lab attack`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

/// What to attack with, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct AttackArgs {
    /// These attacks alone, such as pings,rapid-resets
    #[arg(long, value_name = "ATTACK,...", value_delimiter = ',', help_heading = "What to do")]
    pub(super) only: Vec<String>,
    /// Seconds of each attack
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600), help_heading = "What to do")]
    pub(super) seconds: u64,
    /// Seed of the order of the attacks; 0 keeps the order of the catalogue
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "What to do")]
    pub(super) seed: u64,
    /// Limit of the proxy's memory in MiB, by a control group
    #[arg(long, value_name = "MIB", default_value_t = 512, help_heading = "What to do")]
    pub(super) memory: u64,
    /// Times as long for the victim, on a machine that others use too
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100), help_heading = "What to do")]
    pub(super) slack: u32,
    /// Write the results there as JSON
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) json: Option<PathBuf>,
    /// Write the results there as a document in Markdown
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) markdown: Option<PathBuf>,
}

impl AttackArgs {
    /// How long an attack lasts.
    pub(super) fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

//! The command line of `warren lab bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, builder::PossibleValuesParser, value_parser};

use super::{contestant::DEFAULT, measure::Measure};

/// The least and the most seconds of a measurement.
const SECONDS: std::ops::RangeInclusive<f64> = 0.05..=60.0;
/// The contestant that always takes part.
const OURS: &str = "warren";

/// What is measured, of whom, and where the results go.
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct BenchArgs {
    /// Rounds; figures are medians over them
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    #[arg(help_heading = "What to measure")]
    pub(super) rounds: u32,
    /// How long each measurement goes on
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds, help_heading = "What to measure")]
    pub(super) seconds: f64,
    /// These measurements alone
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', help_heading = "What to measure")]
    only: Vec<Measure>,
    /// Contestants besides warren [default: all that are installed]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', help_heading = "What to measure")]
    #[arg(value_parser = PossibleValuesParser::new(DEFAULT))]
    against: Vec<String>,
    /// Another node proxy in the same run; may be given several times
    #[arg(long = "binary", value_name = "NAME=PATH", value_parser = binary, help_heading = "What to measure")]
    pub(super) binaries: Vec<(String, PathBuf)>,
    /// Write the results there as JSON, with every round
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) json: Option<PathBuf>,
    /// Draw bytes, requests and connections there as SVG, as parts of what goes without a proxy
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) plot: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let read = text.parse().ok().filter(|seconds| SECONDS.contains(seconds));
    read.ok_or_else(|| format!("not a number from {} to {}", SECONDS.start(), SECONDS.end()))
}

fn binary(text: &str) -> Result<(String, PathBuf), String> {
    let named = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, path) = named.ok_or("not NAME=PATH")?;
    Ok((name.to_owned(), path.into()))
}

// === impl BenchArgs ===

impl BenchArgs {
    /// What is measured, in the order in which it is.
    pub(super) fn measures(&self) -> Vec<Measure> {
        let mut measures =
            if self.only.is_empty() { Measure::value_variants().to_vec() } else { self.only.clone() };
        measures.sort_unstable();
        measures.dedup();
        measures
    }

    /// The names of the contestants that need no binary, in the order in which they are shown.
    pub(super) fn against(&self) -> Vec<String> {
        if self.against.is_empty() {
            return DEFAULT.map(str::to_owned).to_vec();
        }
        let mut against = self.against.clone();
        if !against.iter().any(|name| name == OURS) {
            against.insert(1, OURS.to_owned());
        }
        against
    }
}

#[cfg(test)]
mod tests;

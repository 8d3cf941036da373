//! Rows inside a test: with few streams, without a screen, and with the outcome of each as a value.

use std::{error::Error, path::Path, time::Duration};

use super::{catalogue::ALL, chosen, extent::Extent, fleet::Fleet, outcome, table};

/// The number of streams.
const STREAMS: usize = 40;
/// The factor on the limits of stalls, so large that no stall counts. Tests share their machine, and their program is slow.
const SLACK: u32 = 10_000;
/// How long idle streams are left alone.
const IDLE: Duration = Duration::from_secs(1);

/// Rows that run in the calling process's cell.
#[derive(Clone, Copy, Debug)]
pub struct TestUpgrades<'a> {
    /// The names of the rows, with commas between them.
    pub only: &'a str,
    /// The number of upgrades of each node.
    pub upgrades: u32,
    /// The program of the proxies.
    pub program: &'a Path,
    /// The directory of the files; it must exist.
    pub directory: &'a Path,
}

/// What a row has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The name of the row.
    pub name: &'static str,
    /// The number of streams that were held to what was sent.
    pub streams: u64,
    /// The cost, in one line.
    pub cost: String,
    /// What was promised and not held.
    pub complaints: Vec<String>,
}

impl TestUpgrades<'_> {
    /// Runs the rows.
    ///
    /// # Errors
    /// The mesh could not be raised, or there is no such row.
    pub fn run(&self) -> Result<Vec<Verdict>, Box<dyn Error>> {
        let only: Vec<String> = self.only.split(',').map(str::to_owned).collect();
        let versions = [self.program.to_owned(), self.program.to_owned()];
        let mut fleet = Fleet::raise("upgrade", self.directory, versions)?;
        let extent = Extent { streams: STREAMS, upgrades: self.upgrades, idle: IDLE, slack: SLACK };
        let mut verdicts = Vec::new();
        for entry in chosen(&only)? {
            let outcome = outcome(&mut fleet, &entry, &extent, &mut |_| ())?;
            verdicts.push(Verdict {
                name: outcome.name,
                streams: outcome.streams,
                cost: table::cells(&outcome),
                complaints: outcome.complaints,
            });
        }
        fleet.lower()?;
        Ok(verdicts)
    }

    /// The names of all rows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ALL.iter().map(|entry| entry.name)
    }
}

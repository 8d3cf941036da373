//! All attacks inside a test: each a short one, without a screen, with the outcome of each as a value.

use std::{error::Error, path::Path, time::Duration};

use super::{campaign::Campaign, catalogue::ALL, ceilings::QUIET, table};

/// How long an attack lasts in a test.
const TIME: Duration = Duration::from_millis(1_000);
/// The factor on the times of the ceilings, which suit a quiet machine and an optimised program. Tests share their
/// machine, and their program is slow.
const SLACK: u32 = 10;

/// All attacks, in the calling process's cell.
#[derive(Clone, Copy, Debug)]
pub struct TestCampaign<'a> {
    /// The program of the proxies.
    pub program: &'a Path,
    /// The directory of the files; it must exist.
    pub directory: &'a Path,
    /// The limit of the attacked proxy's memory, in bytes.
    pub limit_bytes: u64,
}

/// What an attack, or all of them together, have cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The name of the attack; `together` for all of them.
    pub name: &'static str,
    /// The cost, in one line.
    pub cost: String,
    /// The ceilings that were passed.
    pub complaints: Vec<String>,
}

impl TestCampaign<'_> {
    /// Makes all attacks, one after the other against one proxy. The last verdict is that of all together.
    ///
    /// # Errors
    /// The mesh could not be raised, or an attack could not be made.
    pub fn run(&self) -> Result<Vec<Verdict>, Box<dyn Error>> {
        let place = ("attack", self.directory, self.program);
        let mut campaign = Campaign::raise(place, self.limit_bytes, QUIET.slower(SLACK))?;
        let mut verdicts = Vec::new();
        for entry in ALL {
            let outcome = campaign.attack(entry, TIME)?;
            let cost = table::cells(&outcome);
            verdicts.push(Verdict { name: outcome.name, cost, complaints: outcome.complaints });
        }
        let stood = campaign.end()?;
        let cost = format!("{} MiB at the peak; {:?}", stood.peak_bytes >> 20, stood.unlimited);
        verdicts.push(Verdict { name: "together", cost, complaints: stood.complaints });
        Ok(verdicts)
    }

    /// The number of attacks.
    pub fn count() -> usize {
        ALL.len()
    }
}

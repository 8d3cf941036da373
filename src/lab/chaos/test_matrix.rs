//! The matrix inside a test: no screen, little traffic before and after, and what came of each trial as a value.

use std::{error::Error, path::Path, time::Duration};

use rand::{SeedableRng, rngs::SmallRng};

use super::{
    allowed::{Allowed, STANDARD},
    args::ChaosArgs,
    chaos_mesh::ChaosMesh,
    matrix::trials,
    table, trial,
};

/// Traffic before a fault and after its repair: some ten messages of each stream, some ten requests of each flow.
const STEADY: Duration = Duration::from_millis(100);
/// So many times what the file allows: its times are for a machine that does nothing else, and tests share theirs. None
/// is near its limit then, so that what passes one is not repaired rather than slow.
const SLACK: u64 = 3;

/// Which of several equal actors is hit follows from it.
const SEED: u64 = 1;

/// A matrix to be run in the calling process' cell.
#[derive(Clone, Copy, Debug)]
pub struct TestMatrix<'a> {
    /// Pairs of a kind and a fault, as on the command line.
    pub only: &'a str,
    /// The proxy.
    pub program: &'a Path,
    /// Where its files go; must exist.
    pub directory: &'a Path,
}

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The kind of actor.
    pub kind: String,
    /// What was done to it: `kill`, `panic`.
    pub fault: &'static str,
    /// What it cost, in a line.
    pub cost: String,
    /// What it must not have cost, or what was not repaired or noticed in time.
    pub complaints: Vec<String>,
}

impl TestMatrix<'_> {
    /// Runs it, held to what the built-in file allows.
    ///
    /// # Errors
    /// The mesh could not be raised, or a trial not be made: an actor is of no kind that the file has, or a kind has no
    /// actor.
    pub fn run(&self) -> Result<Vec<Verdict>, Box<dyn Error>> {
        self.run_by(STANDARD)
    }

    /// The same by another file, given as its text.
    ///
    /// # Errors
    /// As above, or the text is none of such a file.
    pub fn run_by(&self, allowed: &str) -> Result<Vec<Verdict>, Box<dyn Error>> {
        let allowed = Allowed::parse(allowed)?.times(SLACK);
        let only = self.only.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let args = ChaosArgs { seed: SEED, only, ..ChaosArgs::default() };
        let mut rng = SmallRng::seed_from_u64(args.seed);
        let mut chaos_mesh = ChaosMesh::raise("short", self.directory, self.program)?;
        chaos_mesh.steady = STEADY;
        let mut verdicts = Vec::new();
        for (kind, fault) in trials(&args, &allowed)? {
            let outcome = trial::run(&mut chaos_mesh, &allowed, kind, fault, &mut rng)
                .map_err(|error| format!("{fault} of {}: {error}", kind.kind))?;
            let cost = table::cells(&outcome);
            verdicts.push(Verdict {
                kind: outcome.kind,
                fault: fault.word(),
                cost,
                complaints: outcome.complaints,
            });
        }
        Ok(verdicts)
    }

    /// The built-in file.
    pub fn standard() -> &'static str {
        STANDARD
    }
}

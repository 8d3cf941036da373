//! The matrix inside a test: without a screen, with little traffic before and after, and with the outcome of each
//! trial as a value.

use std::{error::Error, path::Path, time::Duration};

use rand::{SeedableRng, rngs::SmallRng};

use super::{
    allowed::{Allowed, STANDARD},
    args::ChaosArgs,
    chaos_mesh::ChaosMesh,
    matrix::trials,
    table, trial,
};

/// How long traffic runs before a fault and after its repair: about ten messages of each stream, and ten requests of
/// each flow.
const STEADY: Duration = Duration::from_millis(100);
/// The factor on the times of the allowed file, which suit an idle machine, while tests share theirs. With it no
/// trial is near its limit, so a trial past its limit is broken rather than slow.
const SLACK: u64 = 3;

/// The seed that determines which of several equal actors is hit.
const SEED: u64 = 1;

/// A matrix that runs in the calling process's cell.
#[derive(Clone, Copy, Debug)]
pub struct TestMatrix<'a> {
    /// The pairs of a kind and a fault, as on the command line.
    pub only: &'a str,
    /// The program of the proxies.
    pub program: &'a Path,
    /// The directory of the matrix's files; it must exist.
    pub directory: &'a Path,
}

/// The outcome of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The kind of actor.
    pub kind: String,
    /// The fault, such as `kill` or `panic`.
    pub fault: &'static str,
    /// The cost of the fault, in one line.
    pub cost: String,
    /// The costs that are not allowed, and the repairs or detections that came too late.
    pub complaints: Vec<String>,
}

impl TestMatrix<'_> {
    /// Runs the matrix and compares it with the built-in allowed file.
    ///
    /// # Errors
    /// The mesh could not be raised, or a trial could not be run. The latter means that an actor is of no kind in the
    /// file, or a kind has no actor.
    pub fn run(&self) -> Result<Vec<Verdict>, Box<dyn Error>> {
        self.run_by(STANDARD)
    }

    /// Runs the matrix and compares it with another allowed file, given as its text.
    ///
    /// # Errors
    /// The errors are those of [`Self::run`]; a text that is not an allowed file is an error too.
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

    /// The text of the built-in allowed file.
    pub fn standard() -> &'static str {
        STANDARD
    }
}

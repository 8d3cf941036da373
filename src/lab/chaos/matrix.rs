//! The matrix: rounds of trials that break every kind of actor in every way.

use std::{error::Error, io::Stdout, time::Instant};

use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};

use super::{
    allowed::{Allowed, Fault, Kind},
    args::ChaosArgs,
    chaos_mesh::ChaosMesh,
    table,
    trial::{self, Outcome},
};
use crate::lab::show::{Evidence, Show, seconds};

/// The width, in columns, of the kind in front of a trial's own name.
const KIND: usize = 17;

/// The error of a command line whose choices match no trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--only leaves nothing to do: no such kind or fault")]
pub(super) struct NothingToDo;

/// Runs all trials, in rounds until the time has passed.
pub(super) fn run(
    chaos_mesh: &mut ChaosMesh,
    args: &ChaosArgs,
    allowed: &Allowed,
    show: &mut Show<Stdout>,
) -> Result<Vec<Outcome>, Box<dyn Error>> {
    let mut rng = SmallRng::seed_from_u64(args.seed);
    let mut trials = trials(args, allowed)?;
    let begun = Instant::now();
    let mut outcomes = Vec::new();
    for kind in &allowed.kinds {
        if let Some(reason) = &kind.spared {
            show.note(&format!("{} is spared: {reason}", kind.kind));
        }
    }
    for round in 1_u32.. {
        if args.duration.is_some() {
            trials.shuffle(&mut rng);
        }
        show.section(&format!("Round {round}: {} trials", trials.len()));
        show.text(&format!("    {:22} {}", "", table::header()));
        for (number, &(kind, fault)) in trials.iter().enumerate() {
            let (at, name) = (number + 1, format!("{:KIND$} {fault}", kind.kind));
            let since = seconds(begun.elapsed());
            show.doing(&format!("{at} of {}: {fault} of {}, {since} so far", trials.len(), kind.kind));
            let outcome = trial::run(chaos_mesh, allowed, kind, fault, &mut rng)
                .map_err(|error| format!("{fault} of {}: {error}", kind.kind))?;
            let line = table::cells(&outcome);
            let complaints = || [line.clone()].iter().chain(&outcome.complaints).cloned().collect::<Vec<_>>();
            let shown =
                if outcome.holds() { Ok(Evidence::new(line.clone())) } else { Err(complaints().join("\n")) };
            show.fact(&name, shown);
            outcomes.push(outcome);
            if args.duration.is_some_and(|duration| begun.elapsed() >= duration) {
                return Ok(outcomes);
            }
        }
        if args.duration.is_none() {
            break;
        }
    }
    Ok(outcomes)
}

/// The trials: every kind with every fault that the command line selects.
pub(super) fn trials<'a>(
    args: &ChaosArgs,
    allowed: &'a Allowed,
) -> Result<Vec<(&'a Kind, Fault)>, NothingToDo> {
    let wanted = |kind: &&Kind| kind.spared.is_none();
    let trials: Vec<(&Kind, Fault)> = allowed
        .kinds
        .iter()
        .filter(wanted)
        .flat_map(|kind| Fault::ALL.map(|fault| (kind, fault)))
        .filter(|(kind, fault)| args.wants(&kind.kind, fault.word()))
        .collect();
    if trials.is_empty() { Err(NothingToDo) } else { Ok(trials) }
}

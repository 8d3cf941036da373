//! `warren lab attack`: attacks a proxy in every way that is known to have hurt one, beside a victim on the same shard,
//! and compares the cost with what it may be (`ceilings`).

mod agent;
mod arena;
mod args;
mod campaign;
mod catalogue;
mod ceilings;
mod certificates;
mod forged;
mod frames;
mod hands;
mod memory;
mod pod;
mod script;
mod stranger;
mod table;
mod test_campaign;
mod trial;

use std::{error::Error, fs, io::Stdout, process::ExitCode, thread, time::Duration};

use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};

use self::{
    campaign::Campaign,
    catalogue::{ALL, Entry},
    ceilings::QUIET,
    trial::Outcome,
};
use super::{
    run,
    show::{Evidence, Show},
    state::Directory,
};

pub use self::{
    args::AttackArgs,
    test_campaign::{TestCampaign, Verdict},
};

/// The longest time beside the attacks themselves that one of them takes, with its recovery.
const AROUND: Duration = Duration::from_secs(90);

/// The error of a command line that names no attack.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no attack is called {0}: there are {1}")]
pub(super) struct NoAttack(String, String);

/// Runs the command as the lab called `name`; one name runs at most once at a time. Call this function first in
/// `main`, while the process has one thread.
///
/// # Errors
/// An attack is unknown, or there is no cell or no directory for the mesh. Every other failure is shown and makes the
/// exit code a failing one.
pub fn run(name: &str, args: &AttackArgs) -> Result<ExitCode, Box<dyn Error>> {
    let chosen = chosen(args)?;
    let limit = (args.time() + AROUND) * u32::try_from(chosen.len()).unwrap_or(1);
    run::run(name, limit, |directory, show| play((name, directory), args, &chosen, show))
}

/// The attacks that the command line wants, in their order.
fn chosen(args: &AttackArgs) -> Result<Vec<Entry>, NoAttack> {
    let known = || ALL.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = args.only.iter().find(|name| ALL.iter().all(|entry| entry.name != **name)) {
        return Err(NoAttack(unknown.clone(), known()));
    }
    let wanted = |entry: &&Entry| args.only.is_empty() || args.only.iter().any(|name| name == entry.name);
    let mut chosen: Vec<Entry> = ALL.iter().filter(wanted).copied().collect();
    if args.seed > 0 {
        chosen.shuffle(&mut SmallRng::seed_from_u64(args.seed));
    }
    Ok(chosen)
}

/// What the machine was doing beside the attacks, and how the program was built.
fn machine() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let built = if cfg!(debug_assertions) { "without optimisation" } else { "optimised" };
    format!("Load at the end: {load} on {cores} processors; the program is {built}.")
}

fn play(
    (name, directory): (&str, &Directory),
    args: &AttackArgs,
    chosen: &[Entry],
    show: &mut Show<Stdout>,
) -> Result<(), Box<dyn Error>> {
    show.title("warren lab attack: the proxy of node two, which has one shard");
    show.doing("raising the mesh");
    let ceilings = QUIET.slower(args.slack);
    let program = arena::Arena::program()?;
    let mut campaign = Campaign::raise((name, directory.path(), &program), args.memory << 20, ceilings)?;
    show.section(&format!("{} attacks of {} s", chosen.len(), args.seconds));
    show.text(&format!("    {:22} {}", "", table::header()));
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (number, entry) in chosen.iter().enumerate() {
        show.doing(&format!("{} of {}: {}: {}", number + 1, chosen.len(), entry.name, entry.what));
        let outcome = campaign.attack(entry, args.time())?;
        let line = table::cells(&outcome);
        let complaints =
            || [line.clone()].iter().chain(&outcome.complaints).cloned().collect::<Vec<_>>().join("\n");
        let shown = if outcome.holds() { Ok(Evidence::new(line.clone())) } else { Err(complaints()) };
        show.fact(entry.name, shown);
        outcomes.push(outcome);
    }
    show.doing("taking the mesh down");
    let stood = campaign.end()?;
    let by = match &stood.unlimited {
        None => format!("with a limit of {} MiB by a control group", args.memory),
        Some(why) => format!("held against {} MiB, without a control group ({why})", args.memory),
    };
    let summary =
        format!("All attacks together: {} MiB at the peak, {by}. {}", stood.peak_bytes >> 20, machine());
    let shown = if stood.complaints.is_empty() {
        Ok(Evidence::new(summary.clone()))
    } else {
        Err(format!("{summary}\n{}", stood.complaints.join("\n")))
    };
    show.section("Together");
    show.fact("memory", shown);
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_vec_pretty(&outcomes)?)?;
    }
    if let Some(path) = &args.markdown {
        fs::write(path, table::markdown(&outcomes, &ceilings, &summary))?;
    }
    Ok(())
}

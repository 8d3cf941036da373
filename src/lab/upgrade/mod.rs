//! `warren lab upgrade`: upgrades the proxies of two nodes under streams of every kind, breaks hand-overs on purpose, and
//! compares the cost with what docs/upgrades.md promises.

mod args;
mod catalogue;
mod extent;
mod faults;
mod fleet;
mod outcome;
mod table;
mod test_upgrades;
mod traffic;
mod trial;
mod ways;

use std::{
    env,
    error::Error,
    fs,
    io::Stdout,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use self::{
    catalogue::{ALL, Entry},
    extent::Extent,
    fleet::Fleet,
    outcome::Outcome,
};
use super::{
    run,
    show::{Evidence, Show, seconds},
    state::Directory,
};
use crate::sys::limits;

pub use self::{
    args::UpgradeArgs,
    test_upgrades::{TestUpgrades, Verdict},
};

/// The longest time of a row beside its upgrades.
const AROUND: Duration = Duration::from_secs(240);
/// The longest time of an upgrade.
const UPGRADE: Duration = Duration::from_secs(30);

/// The error of a command line that names no row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no row is called {0}: there are {1}")]
pub(super) struct NoRow(String, String);

/// Runs the command as the lab called `name`; one name runs at most once at a time. Call this function first in
/// `main`, while the process has one thread.
///
/// # Errors
/// A row is unknown, or there is no cell or no directory for the mesh. Every other failure is shown and makes the exit
/// code a failing one.
pub fn run(name: &str, args: &UpgradeArgs) -> Result<ExitCode, Box<dyn Error>> {
    let chosen = chosen(&args.only)?;
    let extent = args.extent();
    let limit = AROUND + extent.idle + UPGRADE * 2 * extent.upgrades.max(10);
    let limit = limit * u32::try_from(chosen.len()).unwrap_or(1);
    run::run(name, limit, |directory, show| play((name, directory), args, &chosen, show))
}

/// The rows of these names, in their order; all of them without a name.
fn chosen(only: &[String]) -> Result<Vec<Entry>, NoRow> {
    let known = || ALL.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = only.iter().find(|name| ALL.iter().all(|entry| entry.name != **name)) {
        return Err(NoRow(unknown.clone(), known()));
    }
    let wanted = |entry: &&Entry| only.is_empty() || only.iter().any(|name| name == entry.name);
    Ok(ALL.iter().filter(wanted).copied().collect())
}

/// Runs a row. If it cannot be run to its end, that is its complaint, and the proxies are new ones afterwards.
fn outcome(
    fleet: &mut Fleet,
    entry: &Entry,
    extent: &Extent,
    doing: &mut dyn FnMut(&str),
) -> Result<Outcome, String> {
    match trial::run(fleet, entry, extent, doing) {
        Ok(outcome) => Ok(outcome),
        Err(error) => {
            fleet.renew()?;
            let complaints = vec![error];
            Ok(Outcome { name: entry.name, what: entry.what, complaints, ..Outcome::default() })
        }
    }
}

fn play(
    (name, directory): (&str, &Directory),
    args: &UpgradeArgs,
    chosen: &[Entry],
    show: &mut Show<Stdout>,
) -> Result<(), Box<dyn Error>> {
    let extent = args.extent();
    show.title(&format!(
        "warren lab upgrade: {} streams, {} upgrades of each of two nodes",
        extent.streams, extent.upgrades
    ));
    show.doing("raising the mesh");
    // A stream takes two descriptors of this process.
    limits::raise_open_files()?;
    let begun = Instant::now();
    let this = env::current_exe()?;
    let versions = [&args.from, &args.to].map(|given| given.clone().unwrap_or_else(|| this.clone()));
    let mut fleet = Fleet::raise(name, directory.path(), versions)?;
    show.section(&format!("{} rows", chosen.len()));
    show.text(&format!("    {:22} {}", "", table::header()));
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (number, entry) in chosen.iter().enumerate() {
        let row = format!("{} of {}: {}", number + 1, chosen.len(), entry.name);
        show.doing(&row);
        let outcome = outcome(&mut fleet, entry, &extent, &mut |step| show.doing(&format!("{row}: {step}")))?;
        let line = table::cells(&outcome);
        let complaints =
            || [line.clone()].iter().chain(&outcome.complaints).cloned().collect::<Vec<_>>().join("\n");
        let shown = if outcome.holds() { Ok(Evidence::new(line.clone())) } else { Err(complaints()) };
        show.fact(entry.name, shown);
        outcomes.push(outcome);
    }
    show.doing("taking the mesh down");
    fleet.lower()?;
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_vec_pretty(&outcomes)?)?;
    }
    if let Some(path) = &args.markdown {
        fs::write(path, table::markdown(&outcomes, &summary(args, begun.elapsed())))?;
    }
    Ok(())
}

/// How the run was made.
fn summary(args: &UpgradeArgs, took: Duration) -> String {
    let name = |path: &Option<PathBuf>| {
        path.as_ref().map_or_else(|| "this".to_owned(), |path| path.to_string_lossy().into_owned())
    };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let built = if cfg!(debug_assertions) { "without optimisation" } else { "optimised" };
    format!(
        "{} streams, {} upgrades of each node, from {} to {}, in {}. Load at the end: {load} on {cores} processors; the \
         program is {built}.",
        args.streams,
        args.upgrades,
        name(&args.from),
        name(&args.to),
        seconds(took)
    )
}

#[cfg(test)]
mod tests;

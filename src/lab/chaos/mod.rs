//! `warren lab chaos`: breaks every kind of actor in every way under steady traffic, and compares the cost with the
//! allowed cost (`allowed.yaml`).
//!
//! The command can also kill random actors, one a second, for any length of time (`soak`).
//!
//! Each trial of the matrix has a fresh proxy. A seed determines the order of the trials, and which of several equal
//! actors is hit.

mod allowed;
mod args;
mod chaos_mesh;
mod flow;
mod markdown;
mod matrix;
mod soak;
mod table;
mod test_matrix;
mod traffic;
mod trial;

use std::{env, error::Error, fs, io::Stdout, path::PathBuf, process::ExitCode, time::Duration};

use self::{
    allowed::{Allowed, STANDARD},
    chaos_mesh::ChaosMesh,
    trial::Outcome,
};
use super::{run, show::Show, state::Directory};

pub use self::args::ChaosArgs;
pub use self::test_matrix::{TestMatrix, Verdict};

/// The longest time that one round of all trials takes.
const ROUND: Duration = Duration::from_secs(1800);

/// Runs the command as the lab called `name`; one name runs at most once at a time. Call this function first in
/// `main`, while the process has one thread. The function runs this program again in namespaces of its own, and this
/// program as the proxies.
///
/// # Errors
/// The allowed file cannot be read, or there is no cell or no directory for the mesh. Every other failure is shown
/// and makes the exit code a failing one.
pub fn run(name: &str, args: &ChaosArgs) -> Result<ExitCode, Box<dyn Error>> {
    let text = match &args.allowed {
        Some(path) => fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?,
        None => STANDARD.to_owned(),
    };
    let allowed = Allowed::parse(&text)?;
    let earlier = earlier(&args.add)?;
    let limit = args.duration.unwrap_or_default() + ROUND;
    run::run(name, limit, |directory, show| play((name, directory), args, (&allowed, earlier), show))
}

/// The outcomes that earlier runs have written.
fn earlier(files: &[PathBuf]) -> Result<Vec<Outcome>, Box<dyn Error>> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for path in files {
        let read = || Ok::<_, Box<dyn Error>>(serde_json::from_slice::<Vec<Outcome>>(&fs::read(path)?)?);
        outcomes.extend(read().map_err(|error| format!("{}: {error}", path.display()))?);
    }
    Ok(outcomes)
}

fn play(
    (name, directory): (&str, &Directory),
    args: &ChaosArgs,
    (allowed, mut outcomes): (&Allowed, Vec<Outcome>),
    show: &mut Show<Stdout>,
) -> Result<(), Box<dyn Error>> {
    show.title(&format!(
        "warren lab chaos, seed {}: faults in the proxy of node one, under traffic",
        args.seed
    ));
    show.doing("raising the mesh");
    let mut chaos_mesh = ChaosMesh::raise(name, directory.path(), &env::current_exe()?)?;
    chaos_mesh.settle()?;
    if args.soak {
        soak::run(&mut chaos_mesh, args, allowed, show)?;
        return Ok(chaos_mesh.testbed.lower()?);
    }
    let new = matrix::run(&mut chaos_mesh, args, allowed, show)?;
    show.section("The worst of each kind (times without those of the failing starts)");
    table::by_kind(&new).iter().for_each(|line| show.text(line));
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_vec_pretty(&new)?)?;
    }
    outcomes.extend(new);
    if let Some(path) = &args.markdown {
        fs::write(path, markdown::tables(allowed, &outcomes))?;
    }
    show.doing("taking the mesh down");
    Ok(chaos_mesh.testbed.lower()?)
}

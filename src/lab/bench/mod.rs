//! `warren lab bench`: what the proxy costs and carries on this machine, compared with no proxy, haproxy and Envoy.
//!
//! Every round raises a mesh for each contestant in turn and does the same work in it; a figure is the median over
//! the rounds. Clients and servers are threads of this program in the pods' namespaces, so only the proxies have to
//! be installed. All processes and networks of the command end with it.

mod args;
mod bench_mesh;
mod contestant;
mod error;
mod figures;
mod measure;
mod pair;
mod plot;
mod results;
mod table;

use std::{
    error::Error,
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::{self, ExitCode},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use self::{
    bench_mesh::BenchMesh,
    contestant::{Contestant, choose},
    error::BenchError,
    measure::{Effort, Measure, Measured},
    results::Results,
};
use super::{
    net::cell::{self, Entered},
    state::Directory,
};
use crate::{
    command_line::WRONG_USAGE,
    sys::{lab, limits},
};

pub(super) use self::args::BenchArgs;

const SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
/// How often the watcher checks for signals.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(500);

/// A run of the bench.
struct Run {
    args: BenchArgs,
    effort: Effort,
    contestants: Vec<Contestant>,
    /// The contestants that are not installed, each with advice on how to install it.
    left_out: Vec<String>,
    directory: PathBuf,
    results: Results,
    begun: Instant,
}

/// Runs the command as the lab called `name`. Call this function first in `main`, while the process has one thread.
/// The function runs this program again in namespaces of its own, and this program as the proxies.
///
/// # Errors
/// There is no cell, there is no directory for the mesh, or a file cannot be written. A measurement that fails is
/// shown and makes the exit code a failing one; a goal that is not met does not.
pub(super) fn run(name: &str, args: BenchArgs) -> Result<ExitCode, Box<dyn Error>> {
    let (contestants, left_out) = match choose(&args.against(), &args.binaries) {
        Ok(chosen) => chosen,
        Err(error) => {
            eprintln!("Error: {error}\nSee `warren lab bench --help`.");
            return Ok(ExitCode::from(WRONG_USAGE));
        }
    };
    if let Entered::Finished(code) = cell::enter()? {
        return Ok(ExitCode::from(code));
    }
    // The signals are blocked before any thread starts, so that all threads inherit the block.
    lab::block_signals(&SIGNALS)?;
    limits::raise_open_files()?;
    let directory = Directory::of(name)?;
    directory.create()?;
    let watched = directory.clone();
    // Nobody owns this thread: its purpose is to end the process, and it ends with the process.
    thread::Builder::new().name("bench-watch".to_owned()).spawn(move || watch(&watched))?;
    for missing in &left_out {
        eprintln!("{missing}");
    }
    let path = directory.path().to_owned();
    let effort = Effort::of(args.seconds);
    let (results, begun) = (Results::default(), Instant::now());
    let mut run = Run { args, effort, contestants, left_out, directory: path, results, begun };
    run.rounds();
    run.show()?;
    if run.results.failures.is_empty() {
        directory.remove()?;
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("the proxies' logs are in {}", directory.path().display());
    Ok(ExitCode::FAILURE)
}

/// Ends everything on a signal. This process is the first process of its cell, so all processes and networks of the
/// cell end with it.
fn watch(directory: &Directory) {
    loop {
        match lab::next_signal(&SIGNALS, SIGNAL_INTERVAL) {
            Ok(Some(signal)) => {
                eprintln!("\ninterrupted: the mesh is taken down");
                if let Err(error) = directory.remove() {
                    eprintln!("{error}");
                }
                process::exit(128 + signal);
            }
            Ok(None) => {}
            Err(error) => {
                eprintln!("\ncannot wait for signals: {error}");
                process::exit(1);
            }
        }
    }
}

// === impl Run ===

impl Run {
    /// Raises all meshes anew in every round. Every second round takes the contestants in reverse order, so that no
    /// contestant always follows the same other one.
    fn rounds(&mut self) {
        let meshes = meshes(&self.args.measures());
        for round in 0..self.args.rounds {
            let mut contestants = self.contestants.clone();
            if round % 2 == 1 {
                contestants.reverse();
            }
            for measures in &meshes {
                for contestant in &contestants {
                    let here: Vec<Measure> =
                        measures.iter().copied().filter(|measure| measure.concerns(contestant)).collect();
                    if !here.is_empty() {
                        self.measure(round, contestant, &here);
                    }
                }
            }
        }
        self.progress("");
    }

    /// Takes all these measurements on one mesh. The first failure ends the series, because the mesh may have
    /// changed.
    fn measure(&mut self, round: u32, contestant: &Contestant, measures: &[Measure]) {
        let (effort, mut at) = (self.effort, "raising the mesh".to_owned());
        let mut take = |run: &mut Self| -> Result<(), BenchError> {
            let bulk = measures.first().map_or(0, |measure| measure.bulk(&effort));
            let layout = measures.first().map(|measure| measure.layout()).ok_or(BenchError::Layout)?;
            let directory = run.directory.join(&contestant.name);
            // An earlier mesh has left its logs in the directory; the logs of the last mesh stay.
            drop(fs::remove_dir_all(&directory));
            fs::create_dir_all(&directory).map_err(BenchError::Pair)?;
            let mut bench_mesh = BenchMesh::raise(contestant, layout, bulk, &directory)?;
            for measure in measures {
                at = measure.about();
                run.progress(&format!(
                    "round {} of {}: {}: {at}",
                    round + 1,
                    run.args.rounds,
                    contestant.name
                ));
                let found: Measured = measure.take(&mut bench_mesh, contestant, &effort)?;
                run.results.add(&contestant.name, found);
            }
            Ok(())
        };
        if let Err(error) = take(self) {
            self.results.failures.push(format!("{}, {at}: {error}", contestant.name));
        }
    }

    /// Shows the progress: one line that changes on a terminal, one line per step elsewhere.
    fn progress(&self, what: &str) {
        let seconds = self.begun.elapsed().as_secs();
        if io::stderr().is_terminal() {
            let what = if what.is_empty() { String::new() } else { format!("{seconds:4} s  {what}") };
            eprint!("\r\x1b[K{what}");
        } else if !what.is_empty() {
            eprintln!("{seconds:4} s  {what}");
        }
    }

    fn show(&self) -> Result<(), Box<dyn Error>> {
        let Self { args: BenchArgs { rounds, seconds, .. }, effort, contestants, left_out, .. } = self;
        let (version, revision) = (env!("CARGO_PKG_VERSION"), env!("WARREN_GIT_REVISION"));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let short = revision.get(..12).unwrap_or(revision);
        let note = format!("warren {version} ({short}), {cores} cores, median of {rounds} x {seconds} s");
        println!("{note}");
        print!("{}", table::table(&self.results, contestants));
        for missing in left_out {
            println!("{missing}");
        }
        for failure in &self.results.failures {
            println!("not measured: {failure}");
        }
        let head = json!({
            "version": version, "revision": revision, "cores": cores, "rounds": rounds, "seconds": seconds,
            "workloads": effort.workloads, "idle_connections": effort.idle, "left_out": left_out,
        });
        if let Some(path) = &self.args.json {
            let text = serde_json::to_string_pretty(&self.results.json(contestants, head))?;
            write(path, &format!("{text}\n"))?;
        }
        if let Some(path) = &self.args.plot {
            match plot::svg(&self.results, contestants, &note) {
                Some(drawing) => write(path, &drawing)?,
                None => println!("no plot: nothing was measured without a proxy"),
            }
        }
        Ok(())
    }
}

/// Groups the measurements that share a mesh.
fn meshes(measures: &[Measure]) -> Vec<Vec<Measure>> {
    let mut meshes: Vec<Vec<Measure>> = Vec::new();
    for measure in measures {
        let shared = |bench_mesh: &&mut Vec<Measure>| {
            let same = |other: &Measure| other.layout() == measure.layout() && !other.is_alone();
            !measure.is_alone() && bench_mesh.iter().all(same)
        };
        match meshes.iter_mut().find(shared) {
            Some(bench_mesh) => bench_mesh.push(*measure),
            None => meshes.push(vec![*measure]),
        }
    }
    meshes
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;

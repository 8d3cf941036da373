//! `warren lab demo`: raises a mesh, sends real traffic through it, breaks it, and shows with evidence what held.
//!
//! Every claim is a line; the exit code tells whether all of them held. Nothing outlives the command, however it ends.

mod access;
mod kills;
mod live;
mod node;
mod numbers;
mod rotation;
mod show;
mod stage;
mod traffic;

use std::{
    env,
    error::Error,
    path::Path,
    process::{self, ExitCode},
    thread,
    time::{Duration, Instant},
};

use self::{
    show::{Show, seconds},
    stage::Stage,
};
use super::{
    control::mesh_file::Mesh,
    net::cell::{self, Entered},
    state::{Directory, ProgramState, State},
};
use crate::actors::sys::lab;

const SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
/// How often the watch looks at the clock.
const LOOK: Duration = Duration::from_millis(500);
/// The demo is over by then, whatever happens.
const LIMIT: Duration = Duration::from_secs(58);

const MESH: &str = include_str!("mesh.yaml");

/// Runs the demo as the lab called `name`, at most one of a name at a time. Call it first in `main`, while the process
/// has one thread: it runs this program again in namespaces of its own, and this program as the proxies.
///
/// # Errors
/// There is no cell or no directory for the mesh. All else, a claim that does not hold or a mesh that cannot be raised,
/// is shown and makes the exit code a failing one.
pub fn run(name: &str) -> Result<ExitCode, Box<dyn Error>> {
    if let Entered::Finished(code) = cell::enter()? {
        return Ok(ExitCode::from(code));
    }
    // Before any thread starts, so that all of them hold the signals back.
    lab::block_signals(&SIGNALS)?;
    let directory = Directory::of(name)?;
    directory.create()?;
    let watched = directory.clone();
    // Owned by nobody: its very purpose is to end the process, and it ends with it.
    thread::Builder::new().name("demo-watch".to_owned()).spawn(move || watch(&watched))?;
    let mut show = Show::stdout();
    if let Err(error) = play(name, &directory, &mut show) {
        show.fact("the mesh", Err(error.to_string()));
    }
    if show.close() {
        directory.remove()?;
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("the proxies' logs are in {}", directory.path().display());
    Ok(ExitCode::FAILURE)
}

/// Ends everything on a signal or when the time is over. The end of this process, the first of its cell, is the end of
/// all processes and networks in it.
fn watch(directory: &Directory) {
    let begun = Instant::now();
    loop {
        match lab::next_signal(&SIGNALS, LOOK) {
            Ok(Some(signal)) => {
                eprintln!("\ninterrupted: the mesh is taken down");
                // The directory goes even if the proxies still write: what is open vanishes with them.
                if let Err(error) = directory.remove() {
                    eprintln!("{error}");
                }
                process::exit(128 + signal);
            }
            Ok(None) if begun.elapsed() < LIMIT => {}
            Ok(None) => {
                eprintln!("\nnot done after {}; logs are in {}", seconds(LIMIT), directory.path().display());
                process::exit(1);
            }
            Err(error) => {
                eprintln!("\ncannot wait for signals: {error}");
                process::exit(1);
            }
        }
    }
}

fn play(name: &str, directory: &Directory, show: &mut Show<std::io::Stdout>) -> Result<(), Box<dyn Error>> {
    show.title("warren lab demo: two nodes with a warren each, five pods in two namespaces, real packets");
    show.doing("raising the mesh");
    let begun = Instant::now();
    let mut stage = Stage::raise(name, directory.path(), Mesh::parse(MESH)?, env::current_exe()?)?;
    let programs = stage
        .world
        .proxies()
        .map(|(_, process)| ProgramState { name: process.name().to_owned(), pid: process.outer_pid() });
    directory.write(&State::of(
        Path::new("(the demo's own)"),
        stage.world.hosts().iter(),
        programs.collect(),
    )?)?;
    for line in stage.cast.lines() {
        show.note(&line);
    }
    show.note(&format!("up and ready in {}", seconds(begun.elapsed())));

    traffic::show(&mut stage, show);
    access::show(&mut stage, show);
    rotation::show(&mut stage, show);
    kills::show(&mut stage, show);
    numbers::show(&mut stage, show);

    show.doing("taking the mesh down");
    Ok(stage.world.lower()?)
}

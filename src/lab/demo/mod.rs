//! `warren lab demo`: raises a mesh, sends real traffic through it, breaks it, and shows with evidence what held.
//!
//! Every claim is a line; the exit code tells whether all claims held. All processes and networks of the command end
//! with it.

mod access;
mod demo_mesh;
mod kills;
mod live;
mod numbers;
mod rotation;
mod traffic;

use std::{
    env,
    error::Error,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use self::demo_mesh::{DemoMesh, MESH};
use super::{
    control::mesh_file::Mesh,
    run,
    show::{Show, seconds},
    state::{Directory, ProgramState, State},
};

/// The longest time that the demo takes.
const LIMIT: Duration = Duration::from_secs(58);

/// Runs the demo as the lab called `name`; one name runs at most once at a time. Call this function first in `main`,
/// while the process has one thread. The function runs this program again in namespaces of its own, and this program
/// as the proxies.
///
/// # Errors
/// There is no cell, or no directory for the mesh. A claim that does not hold, or a mesh that cannot be raised, is
/// shown and makes the exit code a failing one.
pub(crate) fn run(name: &str) -> Result<ExitCode, Box<dyn Error>> {
    run::run(name, LIMIT, |directory, show| play(name, directory, show))
}

fn play(name: &str, directory: &Directory, show: &mut Show<std::io::Stdout>) -> Result<(), Box<dyn Error>> {
    show.title("warren lab demo: two nodes with a warren each, five pods in two namespaces, real packets");
    show.doing("raising the mesh");
    let begun = Instant::now();
    let mut demo_mesh = DemoMesh::raise(name, directory.path(), Mesh::parse(MESH)?, env::current_exe()?)?;
    let programs = demo_mesh
        .testbed
        .proxies()
        .map(|(_, process)| ProgramState { name: process.name().to_owned(), pid: process.outer_pid() });
    directory.write(&State::of(
        Path::new("(the demo's own)"),
        demo_mesh.testbed.hosts().iter(),
        programs.collect(),
    )?)?;
    for line in demo_mesh.cast.lines() {
        show.note(&line);
    }
    show.note(&format!("up and ready in {}", seconds(begun.elapsed())));

    traffic::show(&mut demo_mesh, show);
    access::show(&mut demo_mesh, show);
    rotation::show(&mut demo_mesh, show);
    kills::show(&mut demo_mesh, show);
    numbers::show(&mut demo_mesh, show);

    show.doing("taking the mesh down");
    Ok(demo_mesh.testbed.lower()?)
}

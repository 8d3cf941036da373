//! Runs a command that needs its own mesh in a cell. The cell ends with the command, on a signal, or when the time is
//! over.

use std::{
    error::Error,
    io::Stdout,
    process::{self, ExitCode},
    thread,
    time::{Duration, Instant},
};

use super::{
    net::cell::{self, Entered},
    show::{Show, seconds},
    state::Directory,
};
use crate::sys::lab;

const SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
/// How often the watcher checks the clock.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(500);

/// Runs `play` as the lab called `name`, for `limit` at most; one name runs at most once at a time. Call this
/// function first in `main`, while the process has one thread: it runs this program again in namespaces of its own.
///
/// # Errors
/// There is no cell, or no directory for the mesh. A claim that does not hold, or a mesh that cannot be raised, is
/// shown and makes the exit code a failing one.
pub(super) fn run(
    name: &str,
    limit: Duration,
    play: impl FnOnce(&Directory, &mut Show<Stdout>) -> Result<(), Box<dyn Error>>,
) -> Result<ExitCode, Box<dyn Error>> {
    if let Entered::Finished(code) = cell::enter()? {
        return Ok(ExitCode::from(code));
    }
    // The signals are blocked before any thread starts, so that all threads inherit the block.
    lab::block_signals(&SIGNALS)?;
    let directory = Directory::of(name)?;
    directory.create()?;
    let watched = directory.clone();
    // Nobody owns this thread: its purpose is to end the process, and it ends with the process.
    thread::Builder::new().name("lab-watch".to_owned()).spawn(move || watch(&watched, limit))?;
    let mut show = Show::stdout();
    if let Err(error) = play(&directory, &mut show) {
        show.fact("the mesh", Err(error.to_string()));
    }
    if show.close() {
        directory.remove()?;
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("the proxies' logs are in {}", directory.path().display());
    Ok(ExitCode::FAILURE)
}

/// Ends everything on a signal or when the time is over. This process is the first process of its cell, so all
/// processes and networks of the cell end with it.
fn watch(directory: &Directory, limit: Duration) {
    let begun = Instant::now();
    loop {
        match lab::next_signal(&SIGNALS, SIGNAL_INTERVAL) {
            Ok(Some(signal)) => {
                eprintln!("\ninterrupted: the mesh is taken down");
                // The directory is removed even if the proxies still write: their open files vanish with them.
                if let Err(error) = directory.remove() {
                    eprintln!("{error}");
                }
                process::exit(128 + signal);
            }
            Ok(None) if begun.elapsed() < limit => {}
            Ok(None) => {
                eprintln!("\nnot done after {}; logs are in {}", seconds(limit), directory.path().display());
                process::exit(1);
            }
            Err(error) => {
                eprintln!("\ncannot wait for signals: {error}");
                process::exit(1);
            }
        }
    }
}

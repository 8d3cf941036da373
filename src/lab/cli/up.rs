//! `warren lab up`: raises a mesh file in the foreground and keeps it until Ctrl-C.

use std::{
    env,
    error::Error,
    fs,
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use super::source::{DEFAULT_NAME, MeshSource, UpArgs};
use crate::{
    lab::{
        net::cell::{self, Entered},
        state::{Directory, ProgramState, State},
        testbed::{Launch, Options, Testbed},
    },
    sys::lab,
};

const SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
/// How often the command checks the mesh file.
const MESH_FILE_INTERVAL: Duration = Duration::from_millis(500);
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A mesh that is up.
struct Running<'a, M: MeshSource> {
    up: &'a UpArgs,
    source: M,
    directory: Directory,
    testbed: Testbed<M::Services>,
    edited: Option<SystemTime>,
}

pub(super) fn up(name: &str, args: &UpArgs, source: impl MeshSource) -> Result<ExitCode, Box<dyn Error>> {
    // The process inside may have another working directory, and other shells use the file's path as it stands.
    let args = UpArgs {
        file: fs::canonicalize(&args.file).map_err(|error| missing(&args.file, &error))?,
        ..args.clone()
    };
    if let Entered::Finished(code) = cell::enter()? {
        return Ok(ExitCode::from(code));
    }
    // The signals are blocked before any thread starts, so that all threads inherit the block.
    lab::block_signals(&SIGNALS)?;
    let directory = Directory::of(name)?;
    directory.create()?;
    let done = run(name, &args, source, directory.clone());
    // The logs stay if something failed.
    if done.is_ok() {
        directory.remove()?;
    }
    done.map(|()| ExitCode::SUCCESS)
}

fn run(name: &str, up: &UpArgs, source: impl MeshSource, directory: Directory) -> Result<(), Box<dyn Error>> {
    let edited = modified(&up.file);
    let (topology, services) = (source.topology(up)?, source.services(up)?);
    let options = Options {
        id: name.to_owned(),
        directory: directory.path().to_owned(),
        proxy: launch(up)?,
        ready_limit: READY_LIMIT,
    };
    let testbed = Testbed::raise(topology, services, options)?;
    let mut running = Running { up, source, directory, testbed, edited };
    running.write()?;
    running.greet(name);
    while lab::next_signal(&SIGNALS, MESH_FILE_INTERVAL)?.is_none() {
        running.look_after()?;
    }
    println!("taking the mesh down");
    Ok(running.testbed.lower()?)
}

fn launch(up: &UpArgs) -> Result<Option<Launch>, Box<dyn Error>> {
    if up.no_proxy {
        return Ok(None);
    }
    let binary = up.proxy.clone().map_or_else(env::current_exe, Ok)?;
    let mut launch = Launch::new(binary);
    launch.env.extend(up.env.iter().cloned());
    Ok(Some(launch))
}

// === impl Running ===

impl<M: MeshSource> Running<'_, M> {
    fn write(&self) -> Result<(), Box<dyn Error>> {
        let programs = self
            .testbed
            .proxies()
            .map(|(_, process)| ProgramState { name: process.name().to_owned(), pid: process.outer_pid() });
        let state = State::of(&self.up.file, self.testbed.hosts().iter(), programs.collect())?;
        Ok(self.directory.write(&state)?)
    }

    fn greet(&self, name: &str) {
        let topology = self.testbed.topology();
        let (nodes, pods) = (topology.nodes.len(), topology.pods.len());
        println!("lab {name} is up: {nodes} nodes, {pods} pods, logs in {}", self.directory.path().display());
        if let Some(pod) = topology.pods.first() {
            // The other commands look for a lab of the default name.
            let lab = if name == DEFAULT_NAME {
                "warren lab".to_owned()
            } else {
                format!("warren lab --name {name}")
            };
            println!("try `{lab} exec {} -- sh`, `{lab} status`; Ctrl-C ends it", pod.host.name);
        }
    }

    fn look_after(&mut self) -> Result<(), Box<dyn Error>> {
        let ended = self.testbed.ended_proxies()?;
        for (node, status) in &ended {
            let log = self.testbed.directory().join(format!("proxy-{node}.log"));
            println!(
                "the proxy of node {node} has ended ({status}); its log is {}; starting another",
                log.display()
            );
        }
        if !ended.is_empty() {
            if let Err(error) = self.testbed.start_proxies() {
                println!("{error}");
            }
            self.write()?;
        }
        let edited = modified(&self.up.file);
        if edited != self.edited {
            self.edited = edited;
            match self.reload() {
                Ok(changes) => println!("the mesh file was edited; hosts changed: {}", list(&changes)),
                Err(error) => {
                    println!("the mesh file was edited, but not all of it could take effect: {error}")
                }
            }
            self.write()?;
        }
        Ok(())
    }

    fn reload(&mut self) -> Result<Vec<String>, Box<dyn Error>> {
        let topology = self.source.topology(self.up)?;
        let changes = self.testbed.apply(&topology)?;
        self.source.reload(self.up, self.testbed.services())?;
        Ok(changes)
    }
}

fn list(changes: &[String]) -> String {
    if changes.is_empty() { "none".to_owned() } else { changes.join(", ") }
}

fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|meta| meta.modified()).ok()
}

fn missing(file: &Path, error: &std::io::Error) -> String {
    format!("mesh file {}: {error}", file.display())
}

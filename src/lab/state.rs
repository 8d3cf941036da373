//! The state file of a running lab, by which `lab exec`, `lab status` and `lab down` find the lab from another shell.

use std::{
    env, fs, io,
    net::IpAddr,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{hosts::Host, net::cell};
use crate::sys::lab;

const FILE: &str = "state.json";

/// The directory of one lab: its state, logs, sockets and certificates. Only its user can look inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory(PathBuf);

/// A running lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The id on the machine of the process that holds the lab.
    pub holder: u32,
    /// The start of the holder, in the kernel's ticks since boot. It distinguishes the holder from a later process
    /// with the same id.
    pub started: u64,
    /// The mesh file.
    pub mesh: PathBuf,
    /// The hosts.
    pub hosts: Vec<HostState>,
    /// The programs that belong to the lab itself.
    pub programs: Vec<ProgramState>,
}

/// One host of a running lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostState {
    /// The word of the host's role.
    pub role: String,
    /// The host's name within its role.
    pub name: String,
    /// The host's addresses.
    pub ips: Vec<IpAddr>,
    /// The holder's file descriptor of the host's network namespace.
    pub fd: i32,
    /// Whether the host's traffic is redirected to the proxy.
    pub redirected: bool,
}

/// One program of a running lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProgramState {
    /// The program's name, such as `proxy-one`.
    pub name: String,
    /// The program's process id on the machine.
    pub pid: Option<u32>,
}

/// The error of a state that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// No lab of that name is up.
    #[error("no lab called {name} is up (looked in {directory}); `warren lab up FILE` raises one")]
    NotUp {
        /// The lab's name.
        name: String,
        /// The directory that the lab would have.
        directory: PathBuf,
    },
    /// Another lab of the same name is up.
    #[error("a lab called {name} is up already (process {holder}); `warren lab down` ends it")]
    AlreadyUp {
        /// The lab's name.
        name: String,
        /// The process that holds the other lab.
        holder: u32,
    },
    /// The name has other characters than letters, digits and `-`.
    #[error("{0:?} is no name for a lab: use at most 20 letters, digits and dashes")]
    Name(String),
    /// The directory belongs to another user, or others can write to it.
    #[error("{0} belongs to another user or is open to others: remove it, or set XDG_RUNTIME_DIR")]
    NotOurs(PathBuf),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

// === impl Directory ===

impl Directory {
    /// The directory of the lab called `name`: under `$XDG_RUNTIME_DIR`, else under /tmp.
    pub(crate) fn of(name: &str) -> Result<Self, StateError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || name.len() > 20 || !name.chars().all(allowed) {
            return Err(StateError::Name(name.to_owned()));
        }
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| is_ours(path));
        let base = match runtime {
            Some(runtime) => runtime.join("warren-lab"),
            None => PathBuf::from(format!("/tmp/warren-lab-{}", outer_user())),
        };
        Ok(Self(base.join(name)))
    }

    /// The path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Creates the directory anew, without the files of a lab that was killed. Errors: a lab of this name is up.
    pub(crate) fn create(&self) -> Result<(), StateError> {
        if let Ok(state) = self.read() {
            return Err(StateError::AlreadyUp { name: self.name(), holder: state.holder });
        }
        let base = self.0.parent().unwrap_or(Path::new("/tmp"));
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).recursive(true).create(base).map_err(|source| file(base, source))?;
        if !is_ours(base) {
            return Err(StateError::NotOurs(base.to_owned()));
        }
        self.remove()?;
        builder.create(&self.0).map_err(|source| file(&self.0, source))
    }

    /// Removes the directory.
    pub(crate) fn remove(&self) -> Result<(), StateError> {
        match fs::remove_dir_all(&self.0) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(file(&self.0, source)),
            _ => Ok(()),
        }
    }

    /// Reads the state of the running lab. Errors: the lab is not up.
    pub(crate) fn read(&self) -> Result<State, StateError> {
        let not_up = || StateError::NotUp { name: self.name(), directory: self.0.clone() };
        if !is_ours(&self.0) {
            return Err(not_up());
        }
        let bytes = fs::read(self.0.join(FILE)).map_err(|_| not_up())?;
        let state: State = serde_json::from_slice(&bytes).map_err(|_| not_up())?;
        if start_time(&state.holder.to_string()) == Some(state.started) { Ok(state) } else { Err(not_up()) }
    }

    /// Writes `state` to the state file.
    pub(crate) fn write(&self, state: &State) -> Result<(), StateError> {
        let (path, part) = (self.0.join(FILE), self.0.join("state.part"));
        let write = || {
            fs::write(&part, serde_json::to_vec_pretty(state)?)?;
            fs::rename(&part, &path)
        };
        write().map_err(|source| file(&path, source))
    }

    fn name(&self) -> String {
        self.0.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

// === impl State ===

impl State {
    /// The state of a lab held by this process.
    pub(crate) fn of<'a>(
        mesh: &Path,
        hosts: impl Iterator<Item = &'a Host>,
        programs: Vec<ProgramState>,
    ) -> Result<Self, StateError> {
        let holder = cell::outer_pid().map_err(|source| file(Path::new("/proc/self"), source))?;
        let missing = || file(Path::new("/proc/self/stat"), io::ErrorKind::NotFound.into());
        let started = start_time("self").ok_or_else(missing)?;
        let hosts = hosts.map(HostState::of).collect();
        Ok(Self { holder, started, mesh: mesh.to_owned(), hosts, programs })
    }

    /// Whether the holder still runs.
    pub(crate) fn is_up(&self) -> bool {
        start_time(&self.holder.to_string()) == Some(self.started)
    }

    /// The host that `name` means: a host of any role, with or without the role in front (`node:one`). A pod is also
    /// found without its Kubernetes namespace if the name is unique. Errors: the names of the existing hosts.
    pub(crate) fn find(&self, name: &str) -> Result<&HostState, String> {
        let (role, plain) = name.split_once(':').map_or((None, name), |(role, name)| (Some(role), name));
        let of_role = |host: &&HostState| role.is_none_or(|role| host.role == role);
        let exact = |host: &&HostState| host.name == plain;
        let short = |host: &&HostState| host.name.rsplit_once('/').is_some_and(|(_, last)| last == plain);
        let mut found: Vec<&HostState> = self.hosts.iter().filter(of_role).filter(exact).collect();
        if found.is_empty() {
            found = self.hosts.iter().filter(of_role).filter(short).collect();
        }
        match found.as_slice() {
            [host] => Ok(host),
            [] => Err(format!("there is no {name}; there are: {}", full_names(self.hosts.iter()))),
            several => Err(format!("{name} may be {}", full_names(several.iter().copied()))),
        }
    }
}

// === impl HostState ===

impl HostState {
    fn of(host: &Host) -> Self {
        Self {
            role: host.role().word().to_owned(),
            name: host.name().to_owned(),
            ips: host.ips().to_vec(),
            fd: host.namespace().fd().as_raw_fd(),
            redirected: host.redirection().is_some(),
        }
    }

    /// The role and the name, in the form that [`State::find`] accepts.
    pub(crate) fn full_name(&self) -> String {
        format!("{}:{}", self.role, self.name)
    }
}

fn full_names<'a>(hosts: impl Iterator<Item = &'a HostState>) -> String {
    hosts.map(HostState::full_name).collect::<Vec<_>>().join(", ")
}

fn is_ours(path: &Path) -> bool {
    let user = lab::effective_ids().0;
    // A symbolic link could lead to another user's directory.
    fs::symlink_metadata(path)
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == user && meta.mode() & 0o022 == 0)
}

/// The user outside the cell, who is root inside the cell.
fn outer_user() -> u32 {
    let inner = lab::effective_ids().0;
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let ranges = map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    });
    let mut matching = ranges.filter(|(first, _, count)| inner >= *first && inner - first < *count);
    matching.next().map_or(inner, |(first, outer, _)| outer.saturating_add(inner - first))
}

/// The 22nd field of a process's `stat`.
fn start_time(process: &str) -> Option<u64> {
    let stat = fs::read_to_string(Path::new("/proc").join(process).join("stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let zombie = after_name.trim_start().starts_with(['Z', 'X']);
    let field = after_name.split_whitespace().nth(19)?.parse().ok();
    field.filter(|_| !zombie)
}

fn file(path: &Path, source: io::Error) -> StateError {
    StateError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;

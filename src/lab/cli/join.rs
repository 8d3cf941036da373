//! `warren lab exec`, `status` and `down`: from another shell, into the namespaces of the lab's holder.

use std::{
    error::Error,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::PathBuf,
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use crate::{
    lab::{
        net::Namespace,
        state::{Directory, HostState, State},
        testbed::readiness,
    },
    sys::lab::{self, Namespaces, OnExec},
};

/// The time limit for a lab to go down by itself.
const DOWN_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

pub(super) fn exec(
    name: &str,
    host: &str,
    program: &str,
    args: &[String],
) -> Result<ExitCode, Box<dyn Error>> {
    let state = Directory::of(name)?.read()?;
    let host = state.find(host)?;
    let holder = Holder::of(&state);
    let network = holder.network(host)?;
    let processes = holder.open("ns/pid")?;
    holder.enter_users()?;
    lab::enter(processes.as_fd(), Namespaces::PID)?;
    lab::enter(network.as_fd(), Namespaces::NET)?;
    // A terminal's Ctrl-C reaches the command too; the command alone decides whether to end.
    lab::block_signals(&[libc::SIGINT])?;
    let mut command = Command::new(program);
    command.args(args).arg0(program).env("WARREN_LAB_HOST", host.full_name());
    lab::on_exec(&mut command, OnExec::default());
    let status = command.status().map_err(|error| format!("cannot run {program}: {error}"))?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

pub(super) fn status(name: &str) -> Result<ExitCode, Box<dyn Error>> {
    let state = Directory::of(name)?.read()?;
    println!("lab {name} of {} is up (process {})", state.mesh.display(), state.holder);
    let holder = Holder::of(&state);
    let networks: Vec<_> =
        state.hosts.iter().map(|host| Ok((host, holder.network(host)?))).collect::<io::Result<_>>()?;
    holder.enter_users()?;
    let mut all_ready = true;
    for (host, network) in networks {
        let ips: Vec<String> = host.ips.iter().map(ToString::to_string).collect();
        let note = match host.role.as_str() {
            "node" if !state.programs.is_empty() => {
                let (ready, note) = proxy_note(host, network);
                all_ready &= ready;
                note
            }
            "pod" if host.redirected => "in the mesh".to_owned(),
            "pod" => "not in the mesh".to_owned(),
            _ => String::new(),
        };
        println!("  {:<32} {:<24} {note}", host.full_name(), ips.join(","));
    }
    for program in &state.programs {
        let pid = program.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string());
        println!("  {:<32} process {pid}", program.name);
    }
    Ok(if all_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn down(name: &str) -> Result<ExitCode, Box<dyn Error>> {
    let directory = Directory::of(name)?;
    let state = directory.read()?;
    let holder = Holder::of(&state).open("")?;
    if !state.is_up() {
        // The lab has ended meanwhile.
        return Ok(ExitCode::SUCCESS);
    }
    for (signal, limit) in [(libc::SIGTERM, DOWN_LIMIT), (libc::SIGKILL, DOWN_LIMIT)] {
        lab::signal_process(holder.as_fd(), signal)?;
        let deadline = Instant::now() + limit;
        while state.is_up() && Instant::now() < deadline {
            thread::park_timeout(POLL);
        }
        if !state.is_up() {
            directory.remove()?;
            println!("lab {name} is down");
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(format!("process {} does not end", state.holder).into())
}

fn proxy_note(host: &HostState, network: OwnedFd) -> (bool, String) {
    match readiness(&Namespace::from_fd(host.full_name(), network)) {
        Ok(answer) if answer.status == 200 => (true, "proxy ready".to_owned()),
        Ok(answer) => (false, format!("proxy not ready: {}", answer.body.trim())),
        Err(error) => (false, format!("no proxy answers: {error}")),
    }
}

/// The process that holds a lab, seen through /proc.
struct Holder(PathBuf);

// === impl Holder ===

impl Holder {
    fn of(state: &State) -> Self {
        Self(PathBuf::from(format!("/proc/{}", state.holder)))
    }

    fn open(&self, path: &str) -> io::Result<OwnedFd> {
        Ok(File::open(self.0.join(path))?.into())
    }

    fn network(&self, host: &HostState) -> io::Result<OwnedFd> {
        self.open(&format!("fd/{}", host.fd))
    }

    /// Becomes root in the lab's user namespace, unless that is the machine's own.
    fn enter_users(&self) -> io::Result<()> {
        if fs::read_link(self.0.join("ns/user"))? == fs::read_link("/proc/self/ns/user")? {
            return Ok(());
        }
        lab::enter(self.open("ns/user")?.as_fd(), Namespaces::USER)
    }
}

//! The cell: the user, process, mount and network namespaces of a lab. The command executes itself again as the first
//! process of the cell. When that process ends or is killed, the kernel kills all processes of the cell, and its
//! networks vanish. An ordinary user is root inside the cell, and only there.

use std::{
    env, fs, io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use crate::sys::lab::{self, Namespaces, OnExec};

/// The environment variable that tells the re-executed process that it is inside.
const MARKER: &str = "WARREN_LAB_CELL";
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const FORWARDED: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
const POLL: Duration = Duration::from_millis(500);

/// The result of [`enter`].
#[derive(Debug)]
pub enum Entered {
    /// The caller is the first process of a cell and continues.
    Inside,
    /// The caller is outside, and the process inside has ended with this exit code. The caller should end with the
    /// same code.
    Finished(u8),
}

/// The error of a cell that could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum CellError {
    /// The kernel refuses namespaces to this user.
    #[error("the kernel refuses new namespaces ({source}): {advice}")]
    Forbidden {
        /// The kernel's error.
        source: io::Error,
        /// Advice on how to allow namespaces.
        advice: String,
    },
    /// The program could not start itself again.
    #[error("cannot start this program again inside its namespaces: {0}")]
    Start(#[source] io::Error),
    /// The program inside could not be waited for.
    #[error("cannot wait for the program inside its namespaces: {0}")]
    Wait(#[source] io::Error),
}

/// Enters a cell by running this program again in it, with the same arguments. Call this function first in `main`,
/// while the process has one thread. Termination signals are passed on to the cell; a SIGKILL of the caller kills the
/// cell.
pub fn enter() -> Result<Entered, CellError> {
    if is_inside() {
        return Ok(Entered::Inside);
    }
    leave_host().map_err(|source| CellError::Forbidden { source, advice: advice() })?;
    let mut command = Command::new("/proc/self/exe");
    command.args(env::args_os().skip(1)).env(MARKER, "1");
    command.arg0(env::args_os().next().unwrap_or_else(|| "warren".into()));
    // The forwarding below delivers a terminal's Ctrl-C once to the program inside.
    lab::on_exec(&mut command, OnExec { die_with_parent: true, new_session: true, ..OnExec::default() });
    lab::block_signals(&[&FORWARDED[..], &[libc::SIGCHLD]].concat()).map_err(CellError::Start)?;
    let child = command.spawn().map_err(CellError::Start)?;
    wait(child).map(|status| Entered::Finished(exit_code(status))).map_err(CellError::Wait)
}

/// Whether this process is the first one of a cell.
pub fn is_inside() -> bool {
    std::process::id() == 1 && env::var_os(MARKER).is_some()
}

/// The id by which the rest of the machine knows this process. Inside a cell it differs from [`std::process::id`].
pub fn outer_pid() -> io::Result<u32> {
    let link = fs::read_link("/proc/self")?;
    link.to_str()
        .and_then(|pid| pid.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/self is not a number"))
}

/// Removes the marker from the environment of a command that is not the cell's first process.
pub fn unmark(command: &mut Command) {
    command.env_remove(MARKER);
}

fn leave_host() -> io::Result<()> {
    let kinds = Namespaces::MOUNT | Namespaces::NET | Namespaces::PID;
    if has_capabilities() {
        lab::unshare(kinds)?;
    } else {
        let (user, group) = lab::effective_ids();
        lab::unshare(kinds | Namespaces::USER)?;
        // An ordinary user must give up setgroups before the kernel lets it map a group.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    lab::isolate_mounts()
}

fn has_capabilities() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = field.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    [CAP_NET_ADMIN, CAP_SYS_ADMIN].iter().all(|bit| effective & (1 << bit) != 0)
}

/// Names the kernel switch that forbids user namespaces, and tells how to change it.
fn advice() -> String {
    let read = |path: &str| fs::read_to_string(path).ok().map(|value| value.trim().to_owned());
    let switches = [
        ("kernel.unprivileged_userns_clone", "/proc/sys/kernel/unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "/proc/sys/user/max_user_namespaces", "0", "15000"),
        ("user.max_net_namespaces", "/proc/sys/user/max_net_namespaces", "0", "15000"),
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "0",
        ),
    ];
    let closed = switches.into_iter().find(|(_, path, off, _)| read(path).as_deref() == Some(off));
    match closed {
        Some((name, _, off, on)) => {
            format!("{name} is {off}; allow it with `sudo sysctl -w {name}={on}`, or run this as root")
        }
        None => {
            "a container runtime or security module forbids it; run this as root, or in a container with \
                 `--privileged` or `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`"
                .to_owned()
        }
    }
}

fn wait(mut child: Child) -> io::Result<ExitStatus> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let signals = [&FORWARDED[..], &[libc::SIGCHLD]].concat();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if let Some(signal) = lab::next_signal(&signals, POLL)?
            && signal != libc::SIGCHLD
        {
            lab::kill(pid, signal)?;
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

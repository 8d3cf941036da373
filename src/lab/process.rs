//! Programs running in a namespace of the lab.

use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr, OsString},
    fmt, fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    net::{Namespace, cell},
    valve::Valve,
};
use crate::sys::lab::{self, Bind, OnExec};

const POLL: Duration = Duration::from_millis(2);
/// The number of a log's last bytes that an error shows.
const LOG_TAIL_BYTES: usize = 2000;

/// A program to start.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    binary: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    log: Option<PathBuf>,
    valve: Option<Valve>,
    resolv_conf: Option<PathBuf>,
}

/// A running program. Dropping the value kills the program and waits until it has ended.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Option<PathBuf>,
    /// The process's directory under /proc, which numbers processes as the machine does, not as the cell does.
    proc: Option<PathBuf>,
}

/// The resources that a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// The processor time of the program itself and of the kernel on its behalf.
    pub cpu: Duration,
    /// The resident memory, in bytes.
    pub resident_bytes: u64,
    /// The highest resident memory so far, in bytes.
    pub peak_bytes: u64,
    /// The number of threads.
    pub threads: u32,
}

/// The error of a program that could not be started, watched or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program could not be started.
    #[error("cannot start {name} ({binary}) in {namespace}: {source}")]
    Start {
        /// The program's name in the lab.
        name: String,
        /// The program's file.
        binary: PathBuf,
        /// The namespace.
        namespace: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The program's log file, or another file that it needs, could not be opened.
    #[error("cannot open {path} for {name}: {source}")]
    File {
        /// The program's name in the lab.
        name: String,
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The program could not be signalled, waited for or inspected.
    #[error("cannot {what} {name}: {source}")]
    Handle {
        /// The operation that failed.
        what: &'static str,
        /// The program's name in the lab.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The program ended while it was needed.
    #[error("{name} has ended ({status}); {log}")]
    Ended {
        /// The program's name in the lab.
        name: String,
        /// The program's exit status.
        status: ExitStatus,
        /// The end of the program's log.
        log: LogTail,
    },
    /// The program did not reach the expected state in time.
    #[error("{name} did not {what} within {limit:?}; {log}")]
    TimedOut {
        /// The program's name in the lab.
        name: String,
        /// The action that was expected.
        what: &'static str,
        /// The time limit.
        limit: Duration,
        /// The end of the program's log.
        log: LogTail,
    },
}

/// The end of a log, for errors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogTail(String);

// === impl Program ===

impl Program {
    /// A new program. `name` appears in errors and names the log file.
    pub fn new(name: impl Into<String>, binary: impl Into<PathBuf>) -> Self {
        let (name, binary) = (name.into(), binary.into());
        Self { name, binary, args: Vec::new(), env: Vec::new(), log: None, valve: None, resolv_conf: None }
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds an environment variable to those of the caller.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sends standard output and standard error to the end of a file instead of the caller's, and closes standard
    /// input.
    pub fn log(mut self, path: impl Into<PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }

    /// Puts a valve between the program and its log file.
    pub fn valve(mut self, valve: Valve) -> Self {
        self.valve = Some(valve);
        self
    }

    /// Shows the program this file as /etc/resolv.conf.
    pub fn resolv_conf(mut self, path: impl Into<PathBuf>) -> Self {
        self.resolv_conf = Some(path.into());
        self
    }

    /// Starts the program in `namespace`. The program goes on when the calling thread ends.
    pub fn start(&self, namespace: &Namespace) -> Result<Process, ProcessError> {
        let mut command = Command::new(&self.binary);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        cell::unmark(&mut command);
        if let Some(path) = &self.log {
            let log = fs::OpenOptions::new().create(true).append(true).open(path);
            let both = log.and_then(|log| self.outputs(log));
            let (out, err) = both.map_err(|source| self.file(path, source))?;
            command.stdin(Stdio::null()).stdout(out).stderr(err);
        }
        let failed = |source| ProcessError::Start {
            name: self.name.clone(),
            binary: self.binary.clone(),
            namespace: namespace.name().to_owned(),
            source,
        };
        let network = namespace.fd().try_clone_to_owned().map_err(failed)?;
        let binds = self.binds()?;
        lab::on_exec(&mut command, OnExec { network: Some(network), binds, ..OnExec::default() });
        let child = command.spawn().map_err(failed)?;
        let proc = proc_of(child.id());
        Ok(Process { name: self.name.clone(), child, log: self.log.clone(), proc })
    }

    /// Standard output and standard error.
    fn outputs(&self, log: fs::File) -> io::Result<(Stdio, Stdio)> {
        match &self.valve {
            None => Ok((log.try_clone()?.into(), log.into())),
            Some(valve) => {
                let writer = valve.pipe(log)?;
                Ok((writer.try_clone()?.into(), writer.into()))
            }
        }
    }

    fn binds(&self) -> Result<Vec<Bind>, ProcessError> {
        let Some(path) = &self.resolv_conf else { return Ok(Vec::new()) };
        let source = CString::new(path.as_os_str().as_bytes());
        let source = source.map_err(|error| self.file(path, io::Error::other(error)))?;
        Ok(vec![Bind { source, target: c"/etc/resolv.conf".to_owned() }])
    }

    fn file(&self, path: &Path, source: io::Error) -> ProcessError {
        ProcessError::File { name: self.name.clone(), path: path.to_owned(), source }
    }
}

// === impl Process ===

impl Process {
    /// The name of the program.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id inside the cell.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process id on the machine, as other shells see it, if /proc shows it.
    pub fn outer_pid(&self) -> Option<u32> {
        self.proc.as_ref()?.file_name()?.to_str()?.parse().ok()
    }

    /// Sends a signal, such as `libc::SIGTERM`. A process that has ended already is no error.
    pub fn signal(&mut self, signal: i32) -> Result<(), ProcessError> {
        if self.status()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).unwrap_or(i32::MAX);
        lab::kill(pid, signal).map_err(|source| self.failed("signal", source))
    }

    /// The exit status, or `None` while the process runs.
    pub fn status(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        let status = self.child.try_wait();
        status.map_err(|source| ProcessError::Handle { what: "look at", name: self.name.clone(), source })
    }

    /// Waits until the process ends. Errors: the process still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, ProcessError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.status()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("end", limit));
            }
            thread::park_timeout(POLL);
        }
    }

    /// Waits until `done` returns true. Errors: the process ends first, or `limit` passes.
    pub fn wait_until(
        &mut self,
        what: &'static str,
        limit: Duration,
        mut done: impl FnMut() -> bool,
    ) -> Result<(), ProcessError> {
        let deadline = Instant::now() + limit;
        loop {
            if done() {
                return Ok(());
            }
            if let Some(status) = self.status()? {
                return Err(ProcessError::Ended { name: self.name.clone(), status, log: self.log_tail() });
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out(what, limit));
            }
            thread::park_timeout(POLL);
        }
    }

    /// Kills the process and waits until it has ended.
    pub fn kill(&mut self) -> Result<ExitStatus, ProcessError> {
        self.signal(libc::SIGKILL)?;
        self.child.wait().map_err(|source| self.failed("wait for", source))
    }

    /// The whole text of the program's log; empty without a log file.
    pub fn log_text(&self) -> String {
        let text = self.log.as_ref().and_then(|path| fs::read(path).ok()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The resources that the process has used so far.
    pub fn usage(&self) -> Result<Usage, ProcessError> {
        let failed = |source| self.failed("read the usage of", source);
        let proc = self.proc.as_ref().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let status = fs::read_to_string(proc.join("status")).map_err(failed)?;
        let schedule = fs::read_to_string(proc.join("stat")).map_err(failed)?;
        Ok(usage(&status, &schedule))
    }

    /// The processor time so far of each thread whose name begins with `prefix`, by name.
    pub fn threads(&self, prefix: &str) -> Result<BTreeMap<String, Duration>, ProcessError> {
        let failed = |source| self.failed("read the threads of", source);
        let proc = self.proc.as_ref().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(proc.join("task")).map_err(failed)? {
            let thread = thread.map_err(failed)?.path();
            // A thread that ends meanwhile has no files any more.
            let Ok(name) = fs::read_to_string(thread.join("comm")) else { continue };
            let Ok(schedule) = fs::read_to_string(thread.join("schedstat")) else { continue };
            if name.starts_with(prefix) {
                let ran = schedule.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
                threads.insert(name.trim_end().to_owned(), Duration::from_nanos(ran.unwrap_or(0)));
            }
        }
        Ok(threads)
    }

    /// The number of file descriptors that the process has open.
    pub fn descriptors(&self) -> Result<usize, ProcessError> {
        let failed = |source| self.failed("count the descriptors of", source);
        let proc = self.proc.as_ref().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        Ok(fs::read_dir(proc.join("fd")).map_err(failed)?.count())
    }

    fn log_tail(&self) -> LogTail {
        LogTail::of(&self.log_text())
    }

    fn timed_out(&self, what: &'static str, limit: Duration) -> ProcessError {
        ProcessError::TimedOut { name: self.name.clone(), what, limit, log: self.log_tail() }
    }

    fn failed(&self, what: &'static str, source: io::Error) -> ProcessError {
        ProcessError::Handle { what, name: self.name.clone(), source }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(process = self.name, %error, "cannot end a process of the lab");
        }
    }
}

// === impl LogTail ===

impl LogTail {
    fn of(text: &str) -> Self {
        let text = text.trim_end();
        let start = text.len().saturating_sub(LOG_TAIL_BYTES);
        let start = (start..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        Self(text.get(start..).unwrap_or_default().to_owned())
    }
}

impl fmt::Display for LogTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("it logged nothing")
        } else {
            write!(f, "its log ends:\n{}", self.0)
        }
    }
}

/// Finds the directory of the process that the innermost namespace knows as `pid`.
fn proc_of(pid: u32) -> Option<PathBuf> {
    let own = fs::read_link("/proc/self/ns/pid").ok()?;
    fs::read_dir("/proc").ok()?.filter_map(Result::ok).map(|entry| entry.path()).find(|path| {
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let inner = inner.and_then(|pids| pids.split_whitespace().next_back()?.parse().ok());
        inner == Some(pid) && fs::read_link(path.join("ns/pid")).ok().as_ref() == Some(&own)
    })
}

fn usage(status: &str, schedule: &str) -> Usage {
    /// The unit of processor time in /proc; it does not depend on the kernel's own tick.
    const TICK: Duration = Duration::from_millis(10);
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    // The name before the last bracket may hold any text. User and system time are the 12th and 13th field after the
    // bracket.
    let after_name = schedule.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok());
    Usage {
        cpu: TICK * times.sum::<u32>(),
        resident_bytes: field("VmRSS") * 1024,
        peak_bytes: field("VmHWM") * 1024,
        threads: u32::try_from(field("Threads")).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests;

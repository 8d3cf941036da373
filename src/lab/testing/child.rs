//! A test's process: started as the right user, watched, and ended at its time limit.

use std::{
    env, fs, io,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::suite::{Case, Needs, PROGRAM, SCRATCH, TEST};
use crate::sys::lab::{self, OnExec};

/// The user id and group id of `nobody`.
const NOBODY: u32 = 65534;
const POLL: Duration = Duration::from_millis(2);

/// The files around the tests of one run.
pub(super) struct Bench {
    directory: PathBuf,
    programs: Vec<(String, PathBuf)>,
}

/// How a test ended.
pub(super) struct Outcome {
    pub(super) passed: bool,
    pub(super) output: String,
}

pub(super) fn is_root() -> bool {
    lab::effective_ids().0 == 0
}

// === impl Bench ===

impl Bench {
    /// Makes a directory for the tests' files. `for_nobody` copies the programs to a directory where nobody can
    /// execute them, because build directories are often closed to other users.
    pub(super) fn set_up(programs: &[Needs], for_nobody: bool) -> io::Result<Self> {
        let directory = env::temp_dir().join(format!("warren-lab-tests-{}", std::process::id()));
        fs::create_dir(&directory)?;
        let mut bench = Self { directory, programs: Vec::new() };
        fs::set_permissions(&bench.directory, fs::Permissions::from_mode(0o755))?;
        for Needs { name, path } in programs {
            let mut path = PathBuf::from(path);
            if for_nobody {
                let copy = bench.directory.join(name);
                fs::copy(&path, &copy)?;
                fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
                path = copy;
            }
            bench.programs.push((format!("{PROGRAM}{name}"), path));
        }
        Ok(bench)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs one test, for `limit` at most.
    pub(super) fn run(&self, case: &Case, limit: Duration, capture: bool) -> io::Result<Outcome> {
        let scratch = self.directory.join("scratch");
        fs::create_dir(&scratch)?;
        let outcome = self.run_with(&scratch, case, limit, capture);
        fs::remove_dir_all(&scratch)?;
        outcome
    }

    fn run_with(&self, scratch: &Path, case: &Case, limit: Duration, capture: bool) -> io::Result<Outcome> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(env::args_os().next().unwrap_or_default());
        command.env(TEST, case.test.name).env(SCRATCH, scratch).envs(self.programs.iter().cloned());
        command.stdin(Stdio::null());
        if case.as_nobody {
            chown(scratch, Some(NOBODY), Some(NOBODY))?;
            command.uid(NOBODY).gid(NOBODY).current_dir("/");
        }
        let output = self.directory.join("output");
        if capture {
            let file = fs::File::create(&output)?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        lab::on_exec(&mut command, OnExec { die_with_parent: true, ..OnExec::default() });
        let mut child = command.spawn()?;
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                break None;
            }
            thread::park_timeout(POLL);
        };
        let output = if capture { fs::read(&output)? } else { Vec::new() };
        Ok(Outcome::new(status, String::from_utf8_lossy(&output).into_owned(), limit))
    }
}

// === impl Outcome ===

impl Outcome {
    fn new(status: Option<ExitStatus>, mut output: String, limit: Duration) -> Self {
        let passed = status.is_some_and(|status| status.success());
        if !passed {
            let end = status.map_or_else(|| format!("killed after {limit:?}"), |status| status.to_string());
            output.push_str(&format!("\n({end})"));
        }
        Self { passed, output }
    }

    pub(super) fn could_not_run(error: io::Error) -> Self {
        Self { passed: false, output: format!("the test could not run: {error}") }
    }
}

//! Runs tests that need network namespaces, under `cargo test` and with its output, as root and as an ordinary user.
//! A test binary with `harness = false` hands its list of functions to [`main`]. Each test runs as the first process
//! of its own cell, so all its processes and networks end with it. A test that cannot run fails.

use std::{
    env, fs, io,
    panic::catch_unwind,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use self::{
    child::Outcome,
    options::Options,
    suite::{Case, PROGRAM, SCRATCH, TEST},
};

pub use self::suite::{Needs, Suite, Test, Users};
use super::net::cell::{self, Entered};
use crate::command_line;

mod child;
mod options;
mod suite;

/// The time limit of a test; a test that exceeds it is killed and has failed.
const TEST_LIMIT: Duration = Duration::from_secs(180);
/// The exit code of a failed test's process, which is that of libtest.
const FAILED: u8 = 101;

/// Lists functions as [`Test`]s by their names.
#[macro_export]
macro_rules! lab_tests {
    ($($test:ident),* $(,)?) => {
        &[$($crate::lab::testing::Test { name: stringify!($test), run: $test }),*]
    };
}

/// Runs the suite by the command line: filters, `--exact`, `--skip`, `--list`, `--nocapture`. The rest of libtest's
/// options is accepted and ignored. Call this function in `main` before any thread is started, and return its result.
pub fn main(suite: &Suite<'_>) -> ExitCode {
    if let Ok(name) = env::var(TEST) {
        return ExitCode::from(run_inside(suite, &name));
    }
    let options: Options = match command_line::parse(env::args_os()) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let cases = cases(suite);
    let chosen: Vec<&Case> = cases.iter().filter(|case| options.wants(&case.name)).collect();
    if options.list {
        chosen.iter().for_each(|case| println!("{}: test", case.name));
        println!("\n{} tests, 0 benchmarks", chosen.len());
        return ExitCode::SUCCESS;
    }
    run_all(suite, &chosen, cases.len() - chosen.len(), &options)
}

/// An empty directory that only the running test uses, removed after the test.
pub fn scratch() -> PathBuf {
    env::var_os(SCRATCH).map_or_else(env::temp_dir, PathBuf::from)
}

/// The file of a program that the suite needs, executable by the running test's user. Errors: the suite does not name
/// the program.
pub fn program(name: &str) -> io::Result<PathBuf> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("the suite has no program {name}"));
    env::var_os(format!("{PROGRAM}{name}")).map(PathBuf::from).ok_or_else(missing)
}

fn cases(suite: &Suite<'_>) -> Vec<Case> {
    let as_user_too: &dyn Fn(&&Test) -> bool = match suite.users {
        Users::Root => &|_| false,
        Users::RootAndUser => &|_| true,
        Users::RootAndUserFor(names) => &|test| names.contains(&test.name),
    };
    let twice = suite.users != Users::Root && child::is_root();
    let case = |prefix: &str, as_nobody| {
        let prefix = prefix.to_owned();
        move |test: &Test| Case { test: *test, name: format!("{prefix}{}", test.name), as_nobody }
    };
    if !twice {
        return suite.tests.iter().map(case("", false)).collect();
    }
    let (as_root, as_user) = (suite.tests.iter().map(case("root::", false)), case("user::", true));
    as_root.chain(suite.tests.iter().filter(as_user_too).map(as_user)).collect()
}

/// Enters the cell and runs the test there, in the re-executed process.
fn run_inside(suite: &Suite<'_>, name: &str) -> u8 {
    match cell::enter() {
        Ok(Entered::Finished(code)) => return code,
        Ok(Entered::Inside) => {}
        Err(error) => {
            eprintln!("{error}");
            return FAILED;
        }
    }
    let Some(test) = suite.tests.iter().find(|test| test.name == name) else {
        eprintln!("there is no test {name}");
        return FAILED;
    };
    if catch_unwind(test.run).is_ok() { 0 } else { FAILED }
}

fn run_all(suite: &Suite<'_>, chosen: &[&Case], filtered_out: usize, options: &Options) -> ExitCode {
    let begun = Instant::now();
    println!("\nrunning {} test{}", chosen.len(), if chosen.len() == 1 { "" } else { "s" });
    let mut failures = Vec::new();
    let bench = match child::Bench::set_up(suite.programs, chosen.iter().any(|case| case.as_nobody)) {
        Ok(bench) => bench,
        Err(error) => {
            eprintln!("error: cannot set up the tests' files: {error}");
            return ExitCode::from(FAILED);
        }
    };
    for case in chosen {
        print!("test {} ... ", case.name);
        // The flush shows the test's name while the test runs.
        let _ = io::Write::flush(&mut io::stdout());
        let outcome = bench.run(case, TEST_LIMIT, !options.nocapture).unwrap_or_else(Outcome::could_not_run);
        println!("{}", if outcome.passed { "ok" } else { "FAILED" });
        if !outcome.passed {
            failures.push((case.name.as_str(), outcome.output));
        }
    }
    report(&failures);
    let (passed, failed) = (chosen.len() - failures.len(), failures.len());
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {filtered_out} \
         filtered out; finished in {:.2}s\n",
        begun.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

fn report(failures: &[(&str, String)]) {
    if failures.is_empty() {
        return;
    }
    println!("\nfailures:\n");
    for (name, output) in failures {
        println!("---- {name} stdout ----\n{}\n", output.trim_end());
    }
    println!("\nfailures:");
    failures.iter().for_each(|(name, _)| println!("    {name}"));
}

impl Drop for child::Bench {
    fn drop(&mut self) {
        // A leftover in the temporary directory is no failure.
        let _ = fs::remove_dir_all(self.directory());
    }
}

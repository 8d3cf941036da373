//! The tests of a test binary, and the environment of a test that runs in its own process.

/// The environment variable with the name of the test that a re-executed test binary runs.
pub(super) const TEST: &str = "WARREN_LAB_TEST";
/// The environment variable with the directory of the running test.
pub(super) const SCRATCH: &str = "WARREN_LAB_SCRATCH";
/// The prefix of an environment variable with a program's file; the program's name follows it.
pub(super) const PROGRAM: &str = "WARREN_LAB_PROGRAM_";

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// The test's name, a sentence about the code under test.
    pub name: &'static str,
    /// The test's function, which panics if the sentence is false.
    pub run: fn(),
}

/// The users that run the tests if root starts them. An ordinary user always runs them as itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// Every test runs as root only.
    Root,
    /// Every test runs twice: as root (`root::NAME`) and as nobody (`user::NAME`).
    RootAndUser,
    /// Every test runs as root, and the tests named here also run as nobody.
    RootAndUserFor(&'static [&'static str]),
}

/// A program that tests start, by the name under which `program` finds it.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// The name.
    pub name: &'static str,
    /// The file, such as `env!("CARGO_BIN_EXE_warren")`.
    pub path: &'static str,
}

/// A test binary's tests.
#[derive(Clone, Copy, Debug)]
pub struct Suite<'a> {
    /// The tests.
    pub tests: &'a [Test],
    /// The users that run the tests.
    pub users: Users,
    /// The programs that the tests start.
    pub programs: &'a [Needs],
}

/// A test of a suite, run as a certain user.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) test: Test,
    pub(super) name: String,
    pub(super) as_nobody: bool,
}

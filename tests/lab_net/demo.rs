use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use warren::lab::testing::{program, scratch};

use crate::support::*;

/// How long the demo says it takes at most.
const MINUTE: Duration = Duration::from_secs(60);

/// The start of each claim's line.
const CLAIMS: [&str; 15] = [
    "by pod address",
    "by service address",
    "client address kept",
    "mutual TLS",
    "TLS on the wire",
    "no plaintext",
    "intruder denied",
    "plaintext refused",
    "live connection cut",
    "rotation",
    "tunnel actor",
    "xDS actor",
    "capture actor",
    "connections",
    "restarts",
];

fn runtime() -> PathBuf {
    let runtime = scratch().join("run");
    fs::create_dir_all(&runtime).unwrap();
    runtime
}

fn warren(args: &[&str]) -> Command {
    let mut command = Command::new(program("warren").unwrap());
    command.args(args).env("XDG_RUNTIME_DIR", runtime());
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Where the lab called demo keeps its files.
fn directory() -> PathBuf {
    runtime().join("warren-lab/demo")
}

pub(crate) fn the_demo_shows_every_claim_with_a_check_mark() {
    let begun = Instant::now();
    let output = warren(&["lab", "demo"]).output().unwrap();
    let shown = text(&output);
    assert!(output.status.success(), "{shown}");
    assert!(begun.elapsed() < MINUTE);
    let marked: Vec<&str> = shown.lines().filter_map(|line| line.strip_prefix("  ✔ ")).collect();
    assert_eq!(marked.len(), CLAIMS.len(), "{shown}");
    for (line, claim) in marked.iter().zip(CLAIMS) {
        assert!(line.starts_with(claim), "{line} is not about {claim}");
    }
    assert!(shown.contains("all 15 shown in ") && !shown.contains('✘'), "{shown}");
    // A file has no use for colours and progress.
    assert!(!shown.contains('\x1b') && !shown.contains('\r'), "{shown}");
    assert!(!directory().exists());
}

pub(crate) fn an_interrupted_demo_leaves_nothing() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut demo = warren(&["lab", "demo"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let up = || warren(&["lab", "status", "--name", "demo"]).output().unwrap().status.success();
        let deadline = Instant::now() + 4 * LIMIT;
        while !up() {
            assert!(Instant::now() < deadline && demo.try_wait().unwrap().is_none(), "the demo is not up");
            pause(SHORT / 20);
        }
        warren::sys::lab::kill(demo.id().cast_signed(), signal).unwrap();
        assert_eq!(demo.wait().unwrap().code(), Some(128 + signal));
        assert!(!directory().exists());
    }
}

//! Compiles proto/ without a protoc binary, and finds out the versions that the program tells of itself.

use std::{env, error::Error, fs, path::Path, process::Command};

const PROTOS: [&str; 7] = [
    "ads.proto",
    "authorization.proto",
    "ca.proto",
    "handover.proto",
    "profile.proto",
    "workload.proto",
    "zds.proto",
];

/// The libraries that encrypt, sign and verify.
const CRYPTO: [&str; 3] = ["aws-lc-rs", "ring", "rustls"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let mut config = prost_build::Config::new();
    config.bytes([
        ".envoy.service.discovery.v3.Resource",
        ".warren.handover.Direction",
        ".warren.handover.Http2",
        ".warren.handover.Stream",
    ]);
    // Secrets, which are in no log.
    config.skip_debug([".warren.handover.TlsKeys"]);
    let lab = env::var_os("CARGO_FEATURE_LAB").is_some();
    tonic_prost_build::configure().build_server(lab).compile_fds_with_config(descriptors, config)?;

    // Every commit and checkout is written there. Named only if it exists: a missing file would mean a build each time.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
    let revision = git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=WARREN_GIT_REVISION={revision}");
    println!("cargo:rustc-env=WARREN_PROFILE={}", profile().unwrap_or(env::var("PROFILE")?));
    println!("cargo:rustc-env=WARREN_TARGET={}", env::var("TARGET")?);
    println!("cargo:rustc-env=WARREN_RUSTC_VERSION={}", rustc().unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo:rerun-if-changed=Cargo.lock");
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default();
    let versions: Vec<String> = CRYPTO.iter().filter_map(|name| locked(&lock, name)).collect();
    println!("cargo:rustc-env=WARREN_CRYPTO_VERSIONS={}", versions.join(", "));
    Ok(())
}

/// The name of the profile, which is a folder above the script's own; PROFILE knows `debug` and `release` alone.
fn profile() -> Option<String> {
    let out = env::var_os("OUT_DIR")?;
    let folder = Path::new(&out).ancestors().nth(3)?.file_name()?;
    Some(folder.to_string_lossy().into_owned())
}

/// The version of the compiler, such as `1.95.0`.
fn rustc() -> Option<String> {
    let output = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().nth(1).map(str::to_owned)
}

/// The package `name` with the version that Cargo.lock has.
fn locked(lock: &str, name: &str) -> Option<String> {
    let package =
        lock.split("[[package]]").find(|package| package.contains(&format!("name = \"{name}\"\n")))?;
    let version = package.lines().find_map(|line| line.strip_prefix("version = "))?;
    Some(format!("{name} {}", version.trim_matches('"')))
}

/// What git answers; nothing without git or outside a repository.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

//! Compiles proto/ without a protoc binary.

use std::{env, error::Error, path::Path, process::Command};

const PROTOS: [&str; 5] = ["ads.proto", "authorization.proto", "ca.proto", "workload.proto", "zds.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let mut config = prost_build::Config::new();
    config.bytes([".envoy.service.discovery.v3.Resource"]);
    let lab = env::var_os("CARGO_FEATURE_LAB").is_some();
    tonic_prost_build::configure().build_server(lab).compile_fds_with_config(descriptors, config)?;

    // Every commit and checkout is written there. Named only if it exists: a missing file would mean a build each time.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
    let revision = git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=WARREN_GIT_REVISION={revision}");
    println!("cargo:rustc-env=WARREN_PROFILE={}", env::var("PROFILE")?);
    Ok(())
}

/// What git answers; nothing without git or outside a repository.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

//! Compiles proto/ without a protoc binary.

use std::{env, error::Error};

const PROTOS: [&str; 5] = ["ads.proto", "authorization.proto", "ca.proto", "workload.proto", "zds.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let mut config = prost_build::Config::new();
    config.bytes([".envoy.service.discovery.v3.Resource"]);
    let lab = env::var_os("CARGO_FEATURE_LAB").is_some();
    tonic_prost_build::configure().build_server(lab).compile_fds_with_config(descriptors, config)?;

    let git = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output();
    let revision =
        git.ok().filter(|o| o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    println!("cargo:rustc-env=WARREN_GIT_REVISION={}", revision.unwrap_or_else(|| "unknown".into()));
    println!("cargo:rustc-env=WARREN_PROFILE={}", env::var("PROFILE")?);
    Ok(())
}

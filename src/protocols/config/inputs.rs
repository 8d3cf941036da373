//! The inputs of the settings.

use std::collections::BTreeMap;

/// Where `main` finds the mesh file, relative to its working directory.
pub const MESH_FILE: &str = "./etc/istio/config/mesh";

/// The sources that settings are read from.
pub struct Inputs<'a> {
    /// The environment.
    pub vars: &'a BTreeMap<String, String>,
    /// What [`MESH_FILE`] holds, if it exists.
    pub mesh_file: Option<&'a str>,
    /// Logical processors of this machine.
    pub cores: usize,
    /// Whether a path names an existing file.
    pub file_exists: &'a dyn Fn(&str) -> bool,
    /// Whether `FAKE_CA` may be asked for: only test builds have one.
    pub fake_ca_allowed: bool,
}

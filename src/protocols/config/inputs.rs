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
    /// The memory that there is.
    pub memory: Memory,
    /// Whether a path names an existing file.
    pub file_exists: &'a dyn Fn(&str) -> bool,
    /// Whether `FAKE_CA` may be asked for: only test builds have one.
    pub fake_ca_allowed: bool,
}

/// The memory that this process can have, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The limit of the control group, if it has one.
    pub limit: Option<u64>,
    /// The memory of the machine; 0 if it is not known.
    pub machine: u64,
}

//! The mesh file: nodes, pods, services and policies in readable YAML.
//!
//! ```yaml
//! nodes: {one: 10.77.0.1, two: }            # an address left out is chosen, the same each time
//! pods:
//!   - {name: client, node: one}             # namespace and service account are `default`
//!   - {name: web-1, namespace: shop, serviceAccount: web, node: two, app: web, version: v1, run: http 8080 hello}
//!   - {name: bare, node: two, captured: false, protocol: TCP}
//! outside:
//!   - {name: db, run: echo 9000}
//! services:
//!   - {name: web, namespace: shop, ports: {80: 8080}, app: web}
//! policies:
//!   - name: only-client
//!     namespace: shop
//!     action: ALLOW
//!     rules:
//!       - from: {serviceAccounts: [default/default]}
//!         to: {ports: [8080]}
//! networks:                                 # nodes that are named nowhere are on the network without a name
//!   - {name: east, nodes: [two], gateway: east/10.77.2.9}    # or namespace/hostname[:port]
//! strict: [shop]                            # refuse plaintext to the pods of these namespaces
//! ```
//!
//! Unknown keys are errors with their line. All problems of the values are reported at once.

mod addresses;
mod check;
mod gateway;
mod mesh;
mod networks;
mod problem;
mod raw;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub use self::{
    addresses::CONTROL_IP,
    gateway::{Gateway, GatewayError},
    mesh::{Listed, Mesh, Network, Outside, Pod, Policy, Rule, Service, Source, Target, Vip},
    problem::{Problem, Problems},
    raw::{
        Action, Announce, HealthPolicy, LbMode, LbScope, LoadBalancing, Locality, Protocol, Scope, Status,
        Visibility,
    },
};

/// The largest size of a mesh file, in bytes.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The error of a mesh file.
#[derive(Debug, thiserror::Error)]
pub enum MeshFileError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the read.
        error: io::Error,
    },
    /// The file exceeds the largest size.
    #[error("{} has more than {FILE_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    /// The file is no YAML, or has unknown keys or values of the wrong kind. The text names the line and shows it.
    #[error("{0}")]
    Yaml(String),
    /// The values are wrong.
    #[error("{0}")]
    Invalid(Problems),
}

// === impl Mesh ===

impl Mesh {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// See [`MeshFileError`].
    pub fn read(path: &Path) -> Result<Self, MeshFileError> {
        let error = |error| MeshFileError::Read { path: path.into(), error };
        if fs::metadata(path).map_err(error)?.len() > FILE_BYTES {
            return Err(MeshFileError::TooLarge(path.into()));
        }
        Self::parse(&fs::read_to_string(path).map_err(error)?)
    }

    /// Parses and checks the text of a mesh file.
    ///
    /// # Errors
    /// Every error of [`MeshFileError`] except those of reading.
    pub fn parse(text: &str) -> Result<Self, MeshFileError> {
        // A file that has only comments is an empty mesh.
        let raw: Option<raw::Mesh> =
            serde_saphyr::from_str(text).map_err(|error| MeshFileError::Yaml(error.render()))?;
        check::mesh(raw.unwrap_or_default()).map_err(MeshFileError::Invalid)
    }
}

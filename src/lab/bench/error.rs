//! Why something could not be measured.

use std::io;

use crate::lab::{
    apps::AppError,
    control::mesh_file::MeshFileError,
    process::ProcessError,
    testbed::{ServiceError, TestbedError},
    topology::TopologyError,
};

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum BenchError {
    #[error(transparent)]
    Testbed(#[from] TestbedError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Mesh(#[from] MeshFileError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error("cannot configure the pair: {0}")]
    Pair(#[source] io::Error),
    #[error("cannot read a dump: {0}")]
    Dump(#[source] io::Error),
    #[error("{failures} of {of} failed: {first}")]
    Failed { failures: u64, of: u64, first: String },
    #[error("the mesh has no such pod or proxy")]
    Layout,
}

//! State of the mesh from a file or from the settings (docs/spec/controlplane.md 2.7), read once at the start.

use std::{
    fs::File,
    io::{self, Read},
};

use super::mesh::MeshTables;
use crate::protocols::{
    config::LocalSource,
    local::{LocalState, LocalStateError},
    xds::{ResourceType, Sink},
};

/// The largest file.
/// Limit: file of LOCAL_XDS_PATH: 64 MiB; past it: the start ends with an error.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocalSourceError {
    /// The file cannot be read.
    #[error("LOCAL_XDS_PATH={path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// The error of the read.
        #[source]
        error: io::Error,
    },
    /// The file is too large.
    #[error("LOCAL_XDS_PATH={0}: the file has more than {FILE_BYTES_MAX} bytes")]
    TooLarge(String),
    /// The text is wrong.
    #[error("{name}: {error}")]
    Wrong {
        /// The setting, and its file.
        name: String,
        /// The fault.
        #[source]
        error: LocalStateError,
    },
    /// The tables do not take the state.
    #[error("local state of the mesh: {0}")]
    Tables(String),
    /// The tables refuse a resource.
    #[error("local state of the mesh: {name}: {reason}")]
    Refused {
        /// The resource.
        name: String,
        /// The fault.
        reason: String,
    },
}

/// Reads the state that `source` names.
///
/// # Errors
/// See [`LocalSourceError`].
pub(crate) fn read(source: &LocalSource) -> Result<LocalState, LocalSourceError> {
    let (name, text) = match source {
        LocalSource::Inline(text) => ("LOCAL_XDS".to_owned(), text.clone()),
        LocalSource::File(path) => (format!("LOCAL_XDS_PATH={path}"), read_file(path)?),
    };
    LocalState::parse(&text).map_err(|error| LocalSourceError::Wrong { name, error })
}

fn read_file(path: &str) -> Result<String, LocalSourceError> {
    let failed = |error| LocalSourceError::Read { path: path.to_owned(), error };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(LocalSourceError::TooLarge(path.to_owned()));
    }
    Ok(text)
}

/// Applies `state` to the tables. Their actor must run.
///
/// # Errors
/// The tables do not take all of `state`.
pub(crate) async fn apply(state: LocalState, tables: &MeshTables) -> Result<(), LocalSourceError> {
    let LocalState { addresses, policies } = state;
    tracing::info!(target: "main", addresses = addresses.len(), policies = policies.len(), "local state of the mesh");
    for (kind, resources) in [(ResourceType::Address, addresses), (ResourceType::Authorization, policies)] {
        let rejected = tables.apply(kind.type_url(), resources, Vec::new()).await;
        let rejected = rejected.map_err(|error| LocalSourceError::Tables(error.to_string()))?;
        if let Some(first) = rejected.into_iter().next() {
            return Err(LocalSourceError::Refused { name: first.name, reason: first.reason });
        }
    }
    Ok(())
}

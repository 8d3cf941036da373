//! What the tasks of the keeper share.

use std::path::PathBuf;

use super::held::Store;
use crate::protocols::handover::message::Hello;

/// What the tasks of the keeper share.
pub(super) struct Keeper {
    /// The Unix socket of the next proxy.
    pub(super) next: PathBuf,
    /// What this process says of itself.
    pub(super) hello: Hello,
    pub(super) store: Store,
}

//! An established TLS session as a value: what another stream needs to go on with the session, also in another process.

use std::fmt;

use super::{
    keys::DirectionKeys,
    record::{RecordError, Version},
};

/// A TLS session that stands still.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Session {
    /// The keys that seal.
    pub(crate) seal: DirectionKeys,
    /// The keys that open.
    pub(crate) open: DirectionKeys,
    /// Whether the sealing key is to be replaced before the next bytes.
    pub(crate) rekey_due: bool,
    /// The number of records in a row that carried no data.
    pub(crate) idle_records: u8,
    /// What was opened and nobody has read.
    pub(crate) unread: Vec<u8>,
    /// What has arrived and is not opened: records, the last of which may be a part.
    pub(crate) unopened: Vec<u8>,
    /// What was sealed and is not written.
    pub(crate) unsent: Vec<u8>,
}

/// Why a session cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionError {
    /// The keys fit no cipher, or are of different ciphers.
    #[error("keys of no cipher that this version has")]
    Keys,
    /// More bytes wait than any stream has.
    #[error("a TLS session with {0} bytes that wait")]
    TooLong(usize),
}

// === impl Session ===

impl Session {
    /// The version of TLS; `None` if the directions differ.
    pub(crate) fn version(&self) -> Option<Version> {
        let (seal, open) = (Version::of(&self.seal.source), Version::of(&self.open.source));
        (seal == open && self.seal.cipher == self.open.cipher).then_some(seal)
    }
}

impl fmt::Debug for Session {
    /// Leaves out what an application has sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("seal", &self.seal)
            .field("open", &self.open)
            .field("unread", &self.unread.len())
            .field("unopened", &self.unopened.len())
            .field("unsent", &self.unsent.len())
            .finish_non_exhaustive()
    }
}

impl From<RecordError> for SessionError {
    fn from(_: RecordError) -> Self {
        Self::Keys
    }
}

#[cfg(test)]
mod tests;

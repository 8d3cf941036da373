//! A message whose records do not repeat the name of the question.

use std::convert::Infallible;

use domain::base::{HashCompressor, ToName, wire::Composer};
use octseq::builder::{OctetsBuilder, Truncate};

/// Compresses all names but the first, which is the question's. A record that pointed to it would have the capital letters
/// of the client, and not the form in lower case (docs/spec/dataplane.md 7).
pub(super) struct OwnNames {
    message: HashCompressor<Vec<u8>>,
    has_question: bool,
}

impl Default for OwnNames {
    fn default() -> Self {
        Self { message: HashCompressor::new(Vec::new()), has_question: false }
    }
}

// === impl OwnNames ===

impl OwnNames {
    /// The message.
    pub(super) fn into_target(self) -> Vec<u8> {
        self.message.into_target()
    }
}

impl AsRef<[u8]> for OwnNames {
    fn as_ref(&self) -> &[u8] {
        self.message.as_ref()
    }
}

impl AsMut<[u8]> for OwnNames {
    fn as_mut(&mut self) -> &mut [u8] {
        self.message.as_mut()
    }
}

impl OctetsBuilder for OwnNames {
    type AppendError = Infallible;

    fn append_slice(&mut self, slice: &[u8]) -> Result<(), Infallible> {
        self.message.append_slice(slice)
    }
}

impl Truncate for OwnNames {
    fn truncate(&mut self, len: usize) {
        self.message.truncate(len);
    }
}

impl Composer for OwnNames {
    fn append_compressed_name<N: ToName + ?Sized>(&mut self, name: &N) -> Result<(), Infallible> {
        if self.has_question {
            return self.message.append_compressed_name(name);
        }
        self.has_question = true;
        name.compose(&mut self.message)
    }

    fn can_compress(&self) -> bool {
        true
    }
}

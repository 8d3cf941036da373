//! The identities of the node that have no certificate, in words for an operator.

use std::{fmt, sync::Arc};

use crate::protocols::{ca::IssueError, identity::Identity};

/// The identities whose last request failed and that have no valid certificate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lacking {
    /// The number of identities that the node needs.
    pub(super) known: usize,
    /// The number of identities without a certificate.
    pub(super) lacking: usize,
    /// The first identity without a certificate, in the order of names, and the last failure.
    pub(super) first: Option<(Identity, Arc<IssueError>)>,
}

// === impl Lacking ===

impl Lacking {
    /// Adds an identity. `failure`: the last failure, if the identity has no valid certificate.
    pub(super) fn add(&mut self, identity: &Identity, failure: Option<&Arc<IssueError>>) {
        self.known += 1;
        let Some(failure) = failure else { return };
        self.lacking += 1;
        if self.first.as_ref().is_none_or(|(first, _)| identity < first) {
            self.first = Some((identity.clone(), failure.clone()));
        }
    }

    /// Whether the node needs certificates and has none.
    pub(crate) fn is_all(&self) -> bool {
        self.lacking > 0 && self.lacking == self.known
    }
}

impl fmt::Display for Lacking {
    /// The numbers, and one identity with its failure. Empty if no identity lacks a certificate.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.first {
            None => Ok(()),
            Some((identity, failure)) => {
                write!(f, "{} of {} identities, such as {identity}: {failure}", self.lacking, self.known)
            }
        }
    }
}

#[cfg(test)]
mod tests;

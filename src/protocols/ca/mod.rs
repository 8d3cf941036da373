//! The client of the mesh certificate authority, without its transport: the signing request ([`csr`]), the answer
//! ([`chain`]) and the times of requests (`schedule`). Source: docs/spec/controlplane.md 3.

pub mod chain;
pub mod csr;
#[cfg(feature = "lab")]
pub(crate) mod fake;
pub(crate) mod schedule;

use std::{sync::Arc, time::Duration};

use crate::protocols::identity::Identity;

/// Why a request to the authority yielded no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The connection to the authority failed: name lookup, TCP or TLS.
    #[error("certificate authority {address} is unreachable: {reason}")]
    PeerUnreachable {
        /// The authority as configured.
        address: String,
        /// What failed.
        reason: String,
    },
    /// The authority answered with a gRPC status that is not OK.
    #[error("certificate authority refused: {code}: {message}")]
    PeerRefused {
        /// The gRPC status code's name.
        code: String,
        /// The text of the status.
        message: String,
    },
    /// The authority did not answer in time.
    #[error("certificate authority gave no answer within {}", Seconds(*after))]
    PeerSilent {
        /// The time waited.
        after: Duration,
    },
    /// The authority's answer is no usable chain.
    #[error("certificate authority sent an unusable chain: {0}")]
    PeerChain(#[from] chain::ChainError),
    /// The chain is valid, but its certificate is already expired by this node's clock.
    #[error("certificate authority sent a certificate that ended {} ago by this node's clock", Seconds(*ago))]
    PeerExpired {
        /// How long ago it ended.
        ago: Duration,
    },
    /// The chain and the key do not make a TLS identity.
    #[error("certificate authority sent a certificate that cannot be used: {0}")]
    PeerCertificate(String),
    /// The root file or the token of this node cannot be used.
    #[error("cannot use the credentials for the certificate authority: {0}")]
    LocalCredentials(String),
    /// No key or signing request could be made.
    #[error(transparent)]
    LocalRequest(#[from] csr::CsrError),
    /// The task that asked ended without an answer.
    #[error("the request for the certificate crashed: {0}")]
    LocalCrash(String),
}

/// Why a caller got no certificate.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CertError {
    /// The last attempt failed; the next one runs in the background.
    #[error("no certificate for {identity}: {reason}")]
    Unavailable {
        /// The identity of the certificate.
        identity: Identity,
        /// The last failure.
        reason: Arc<IssueError>,
    },
    /// The identity's last workload left this node while the caller waited.
    #[error("no certificate for {identity}: its last workload on this node is gone")]
    Forgotten {
        /// The identity of the certificate.
        identity: Identity,
    },
    /// The caller's deadline passed first.
    #[error("no certificate for {identity} within {}", Seconds(*after))]
    TimedOut {
        /// The identity of the certificate.
        identity: Identity,
        /// The time that the caller waited.
        after: Duration,
    },
    /// Too many callers wait already.
    #[error("no certificate for {identity}: {limit} callers wait for certificates already")]
    TooManyWaiters {
        /// The identity of the certificate.
        identity: Identity,
        /// The limit that is reached.
        limit: usize,
    },
    /// Too many identities are known already.
    #[error("no certificate for {identity}: this node holds {limit} identities already")]
    TooManyIdentities {
        /// The identity of the certificate.
        identity: Identity,
        /// The limit that is reached.
        limit: usize,
    },
    /// The certificate actor is not running.
    #[error("no certificate for {identity}: the certificate actor is down")]
    LocalDown {
        /// The identity of the certificate.
        identity: Identity,
    },
}

/// Displays a duration in seconds, rounded for readers.
struct Seconds(Duration);

// === impl Seconds ===

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.subsec_millis() == 0 {
            write!(f, "{} s", self.0.as_secs())
        } else {
            write!(f, "{:.1} s", self.0.as_secs_f64())
        }
    }
}

//! The faults of handshakes, told apart by the side that caused them.

use std::{error::Error, fmt, io};

use rustls::CertificateError;

use crate::protocols::identity::Identity;

/// How many names an error text lists.
/// Limit: names in a TLS error: 4; past it: the others are counted.
const NAMES_SHOWN: usize = 4;

/// The peer presents certificates that are not accepted, whatever their signatures.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// The client belongs to another trust domain.
    #[error("peer presents {presented}; only identities of trust domain {expected:?} are accepted")]
    TrustDomain {
        /// The server's trust domain.
        expected: String,
        /// The names in the peer's certificate.
        presented: Names,
    },
    /// The server has none of the identities that the connection expects.
    #[error("peer presents {presented}; expected {expected}")]
    Identity {
        /// The expected identities.
        expected: Names,
        /// The names in the peer's certificate.
        presented: Names,
    },
    /// The peer presents more intermediates than any authority needs.
    #[error("peer presents {count} intermediate certificates; at most {limit} are accepted")]
    LongChain {
        /// The number of intermediates.
        count: usize,
        /// The accepted number.
        limit: usize,
    },
    /// The peer's intermediates can be ordered in too many ways.
    #[error("peer presents certificates that form more than {limit} chains")]
    ManyChains {
        /// The accepted number.
        limit: usize,
    },
    /// The certificate is not for the signatures of a handshake.
    #[error("peer presents a certificate whose key usage excludes digital signatures")]
    KeyUsage,
}

/// The first few names for an error text, and the number of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    shown: Vec<String>,
    more: usize,
}

/// A failed handshake. The variants name the side at fault and decide the response flag.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsFault {
    /// The peer's identity or the form of its chain is not accepted.
    #[error(transparent)]
    PeerIdentity(#[from] PeerFault),
    /// The peer's certificate, or one above it, is revoked.
    #[error("peer's certificate is revoked")]
    PeerRevoked,
    /// The peer's chain is expired, unknown, or broken.
    #[error("peer's certificate is not valid: {0}")]
    PeerCertificate(CertificateError),
    /// The peer presented no certificate.
    #[error("peer presented no certificate")]
    PeerAnonymous,
    /// The peer refused the handshake with this alert.
    #[error("peer refused the handshake: {0:?}")]
    PeerAlert(rustls::AlertDescription),
    /// The peer broke the protocol, or shares no version or cipher with this side.
    #[error("peer's TLS is not acceptable: {0}")]
    PeerProtocol(rustls::Error),
    /// This side failed.
    #[error("local TLS failure: {0}")]
    Local(rustls::Error),
}

// === impl TlsFault ===

impl TlsFault {
    /// The fault inside an I/O error of a TLS stream. The result is `None` if the connection below the stream failed.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<rustls::Error>().map(Self::from)
    }
}

impl From<&rustls::Error> for TlsFault {
    fn from(error: &rustls::Error) -> Self {
        use rustls::Error as E;
        match error {
            E::InvalidCertificate(CertificateError::Other(other)) => {
                match (other.0.as_ref() as &(dyn Error + 'static)).downcast_ref::<PeerFault>() {
                    Some(fault) => Self::PeerIdentity(fault.clone()),
                    None => Self::PeerCertificate(CertificateError::Other(other.clone())),
                }
            }
            E::InvalidCertificate(CertificateError::Revoked) => Self::PeerRevoked,
            E::InvalidCertificate(why) => Self::PeerCertificate(why.clone()),
            E::NoCertificatesPresented => Self::PeerAnonymous,
            E::AlertReceived(alert) => Self::PeerAlert(*alert),
            E::InappropriateMessage { .. }
            | E::InappropriateHandshakeMessage { .. }
            | E::InvalidMessage(_)
            | E::PeerIncompatible(_)
            | E::PeerMisbehaved(_)
            | E::PeerSentOversizedRecord
            | E::DecryptError
            | E::NoApplicationProtocol => Self::PeerProtocol(error.clone()),
            _ => Self::Local(error.clone()),
        }
    }
}

// === impl Names ===

impl Names {
    /// Keeps the first few of `names` and counts the rest.
    pub(super) fn of<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        let mut names = names.into_iter();
        let shown =
            names.by_ref().take(NAMES_SHOWN).map(|n| n.as_ref().chars().take(256).collect()).collect();
        Self { shown, more: names.count() }
    }

    pub(super) fn of_identities(identities: &[Identity]) -> Self {
        Self::of(identities.iter().map(Identity::as_str))
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shown.is_empty() {
            return f.write_str("nobody");
        }
        for (at, name) in self.shown.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{}", name.escape_debug())?;
        }
        if self.more > 0 {
            write!(f, " and {} more", self.more)?;
        }
        Ok(())
    }
}

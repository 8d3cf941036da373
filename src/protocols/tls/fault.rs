//! What went wrong in a handshake and whose fault it is.

use std::{error::Error, fmt, io};

use rustls::CertificateError;

use crate::protocols::identity::Identity;

/// How many names an error text lists.
/// Limit: names in a TLS error: 4; past it: the others are counted.
const NAMES_SHOWN: usize = 4;

/// The peer proved who it is, and it is nobody we accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// A client of another trust domain.
    #[error("peer presents {presented}; only identities of trust domain {expected:?} are accepted")]
    TrustDomain {
        /// The server's own.
        expected: String,
        /// What the peer's certificate names.
        presented: Names,
    },
    /// A server that is none of those the connection is for.
    #[error("peer presents {presented}; expected {expected}")]
    Identity {
        /// Who was expected.
        expected: Names,
        /// What the peer's certificate names.
        presented: Names,
    },
}

/// Names for an error text, at most a few of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    shown: Vec<String>,
    more: usize,
}

/// A failed handshake, told apart by who is to blame and what a response flag needs to know.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsFault {
    /// The peer's identity is not acceptable here.
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
    /// The peer refused us.
    #[error("peer refused the handshake: {0:?}")]
    PeerAlert(rustls::AlertDescription),
    /// The peer broke the protocol, or has nothing in common with us.
    #[error("peer's TLS is not acceptable: {0}")]
    PeerProtocol(rustls::Error),
    /// Something on this side.
    #[error("local TLS failure: {0}")]
    Local(rustls::Error),
}

// === impl TlsFault ===

impl TlsFault {
    /// The fault inside an I/O error of a TLS stream. None: the connection below it failed.
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
    /// The first few of `names`, and how many there are beyond.
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

//! A peer's certificates, kept so that a revocation list that comes later can end the connection.

use std::fmt;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::verify::Trust;

/// A peer's certificates as a handshake has verified them. The owner of a connection keeps them, so that a list that
/// comes later can end the connection.
pub struct PeerChain {
    /// The certificates that the peer presented, leaf first.
    certs: Box<[CertificateDer<'static>]>,
    trust: Trust,
    usage: KeyUsage,
    /// The time of the handshake. A certificate that has expired since is not revoked.
    at: UnixTime,
}

// === impl PeerChain ===

impl PeerChain {
    pub(super) fn new(
        certs: Vec<CertificateDer<'static>>,
        trust: &Trust,
        usage: KeyUsage,
        at: UnixTime,
    ) -> Self {
        Self { certs: certs.into(), trust: trust.clone(), usage, at }
    }

    /// Whether the lists in force revoke the chain. The result tells nothing else: an expired certificate, or one whose
    /// root is trusted no more, is not revoked.
    pub fn is_revoked(&self) -> bool {
        let Some((leaf, others)) = self.certs.split_first() else { return false };
        EndEntityCert::try_from(leaf)
            .is_ok_and(|leaf| self.trust.is_revoked(&leaf, others, self.at, self.usage))
    }

    /// The certificates that the peer presented, leaf first.
    pub(crate) fn presented(&self) -> Vec<Vec<u8>> {
        self.certs.iter().map(|cert| cert.to_vec()).collect()
    }

    /// When the certificates were verified, in seconds since 1970.
    pub(crate) fn verified_at(&self) -> u64 {
        self.at.as_secs()
    }

    /// Whether every certificate can be read. A list may name one that cannot, and nobody would notice.
    pub fn is_legible(&self) -> bool {
        self.certs.iter().all(|der| EndEntityCert::try_from(der).is_ok())
    }
}

impl fmt::Debug for PeerChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerChain").field("certs", &self.certs.len()).finish_non_exhaustive()
    }
}

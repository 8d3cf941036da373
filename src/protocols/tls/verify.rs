//! Verification of a peer's chain, and the identities that the chain names.

use std::{fmt::Debug, sync::Arc};

use rustls::{CertificateError, OtherError, crypto::WebPkiSupportedAlgorithms};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::fault::PeerFault;
use crate::protocols::identity::Identity;

/// A source of revocation lists. Every handshake calls it, so an implementation returns lists that are already in
/// memory.
pub trait Revocations: Debug + Send + Sync {
    /// The revocation lists in force. With `None` or an empty list no certificate is revoked.
    fn lists(&self) -> Option<Arc<[CertRevocationList<'static>]>>;
}

/// The identity that a peer's certificates name: the first URI name of the leaf that is an identity. Other URI names
/// are skipped. `certs` are in the order of rustls, leaf first. The result is `None` if no URI name is an identity.
pub fn peer_identity(certs: &[CertificateDer<'_>]) -> Option<Identity> {
    let leaf = EndEntityCert::try_from(certs.first()?).ok()?;
    identities(&leaf).next()
}

/// The identities among the URI names of a leaf, in the order of the names.
pub(super) fn identities<'a>(leaf: &'a EndEntityCert<'a>) -> impl Iterator<Item = Identity> + 'a {
    leaf.valid_uri_names().filter_map(|uri| uri.parse().ok())
}

/// The trust anchors, algorithms and revocation lists that check every peer, whether client or server.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    pub(super) anchors: Arc<[TrustAnchor<'static>]>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) revocations: Option<Arc<dyn Revocations>>,
}

// === impl Trust ===

impl Trust {
    /// Builds one path from the leaf to a root for `usage`, and checks revocation if there are lists. The check covers
    /// the whole chain except the root, accepts an unknown status, and still uses expired lists
    /// (docs/spec/dataplane.md 9).
    pub(super) fn verify<'a>(
        &self,
        leaf: &'a CertificateDer<'a>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<EndEntityCert<'a>, rustls::Error> {
        let parsed = EndEntityCert::try_from(leaf).map_err(refusal)?;
        let lists = self.revocations.as_deref().and_then(Revocations::lists);
        let lists: Vec<&CertRevocationList<'_>> = lists.iter().flat_map(|l| l.iter()).collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        parsed
            .verify_for_usage(self.algorithms.all, &self.anchors, intermediates, now, usage, revocation, None)
            .map_err(refusal)?;
        Ok(parsed)
    }
}

impl From<PeerFault> for rustls::Error {
    fn from(fault: PeerFault) -> Self {
        CertificateError::Other(OtherError(Arc::new(fault))).into()
    }
}

/// Converts an error of webpki to one of rustls, so that rustls sends the matching alert to the peer.
fn refusal(error: webpki::Error) -> rustls::Error {
    use webpki::Error as E;
    match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        E::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        E::InvalidCertValidity => CertificateError::Expired,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::CertRevoked => CertificateError::Revoked,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
    .into()
}

/// The methods with which a verifier that has a field `trust` checks the signatures of a handshake. The client trait
/// and the server trait of rustls both require these methods.
macro_rules! signatures_by_trust {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &rustls_pki_types::CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls12_signature(message, cert, dss, &self.trust.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &rustls_pki_types::CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(message, cert, dss, &self.trust.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.trust.algorithms.supported_schemes()
        }
    };
}
pub(super) use signatures_by_trust;

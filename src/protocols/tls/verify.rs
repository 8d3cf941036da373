//! Is the peer's chain good, and whom does it name.

use std::{fmt::Debug, sync::Arc};

use rustls::{CertificateError, OtherError, crypto::WebPkiSupportedAlgorithms};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::fault::PeerFault;
use crate::protocols::identity::Identity;

/// Where revoked certificates are looked up. Asked at every handshake, so an implementation hands out what it
/// has in memory.
pub trait Revocations: Debug + Send + Sync {
    /// The lists in force. None or an empty list: nothing is revoked.
    fn lists(&self) -> Option<Arc<[CertRevocationList<'static>]>>;
}

/// Whom a peer's certificates name: the first URI name of the leaf that is an identity; others are skipped.
/// `certs` as rustls gives them after a handshake, leaf first. None if there is no such name.
pub fn peer_identity(certs: &[CertificateDer<'_>]) -> Option<Identity> {
    let leaf = EndEntityCert::try_from(certs.first()?).ok()?;
    identities(&leaf).next()
}

/// The identities a leaf names, in its order.
pub(super) fn identities<'a>(leaf: &'a EndEntityCert<'a>) -> impl Iterator<Item = Identity> + 'a {
    leaf.valid_uri_names().filter_map(|uri| uri.parse().ok())
}

/// What every peer's chain is held against, whichever side it is on.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    pub(super) anchors: Arc<[TrustAnchor<'static>]>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) revocations: Option<Arc<dyn Revocations>>,
}

// === impl Trust ===

impl Trust {
    /// One path build from the leaf to a root, for `usage`, with revocation where there is any. The rules for
    /// revocation: the whole chain but the root, unknown status is accepted, old lists still count
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

/// The library's reason in rustls' words, so that the peer is sent the right alert.
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

/// The methods of a verifier with a field `trust` that check the signatures of a handshake. rustls asks for them in both
/// of its traits, for clients and for servers.
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

//! Verification of a peer's chain, and the identities that the chain names.

use std::sync::Arc;

use rustls::{CertificateError, OtherError, crypto::WebPkiSupportedAlgorithms};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    Cert, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::parse_x509_certificate;

use super::{fault::PeerFault, revocation::Revocations};
use crate::protocols::identity::Identity;

/// The number of intermediates that a peer may present. Authorities have one or two.
/// Limit: intermediate certificates of a peer: 5; past it: refused before anything is verified.
pub(super) const MAX_INTERMEDIATES: usize = 5;
/// The number of chains towards a root that a peer's certificates may form by their names. webpki checks the
/// signatures of each. An intermediate that two authorities have signed makes two.
/// Limit: chains that a peer's certificates form: 8; past it: refused before anything is verified.
const MAX_CHAINS: usize = 8;
/// The number of certificates that are placed in these chains before a verification.
/// Limit: steps of a search for a peer's chains: 64; past it: refused before anything is verified.
const MAX_CHAIN_STEPS: usize = 64;

/// The identities among the URI names of a leaf, in the order of the names.
pub(super) fn identities<'a>(leaf: &'a EndEntityCert<'a>) -> impl Iterator<Item = Identity> + 'a {
    leaf.valid_uri_names().filter_map(|uri| uri.parse().ok())
}

/// The trust anchors, algorithms and revocation lists that check every peer, whether client or server.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    pub(super) anchors: Arc<[TrustAnchor<'static>]>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// The revocation lists; `None` if none are configured.
    pub(super) revocations: Option<Arc<Revocations>>,
}

// === impl Trust ===

impl Trust {
    /// Builds one path from the leaf to a root for `usage`, and refuses a revoked chain and a leaf that is not for
    /// signatures.
    pub(super) fn verify<'a>(
        &self,
        leaf: &'a CertificateDer<'a>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<EndEntityCert<'a>, rustls::Error> {
        if intermediates.len() > MAX_INTERMEDIATES {
            let (count, limit) = (intermediates.len(), MAX_INTERMEDIATES);
            return Err(PeerFault::LongChain { count, limit }.into());
        }
        let parsed = EndEntityCert::try_from(leaf).map_err(refusal)?;
        self.bound_chains(&parsed, intermediates)?;
        self.build(&parsed, intermediates, (now, usage), &[]).map_err(refusal)?;
        if self.is_revoked(&parsed, intermediates, now, usage) {
            return Err(CertificateError::Revoked.into());
        }
        if forbids_signatures(leaf)? {
            return Err(PeerFault::KeyUsage.into());
        }
        Ok(parsed)
    }

    /// Builds a path, on which none of `lists` may name a certificate. Lists of authorities that are not on the path have
    /// no effect, and neither does the age of a list (docs/spec/dataplane.md 9).
    fn build(
        &self,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        (now, usage): (UnixTime, KeyUsage),
        lists: &[&CertRevocationList<'_>],
    ) -> Result<(), webpki::Error> {
        let revocation = RevocationOptionsBuilder::new(lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        let (algorithms, anchors) = (self.algorithms.all, &self.anchors);
        leaf.verify_for_usage(algorithms, anchors, intermediates, now, usage, revocation, None).map(drop)
    }

    /// Whether the lists in force revoke the chain of these certificates. The usual answer costs a look at each list.
    /// A signature is verified only if a list names one of the certificates.
    pub(super) fn is_revoked(
        &self,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> bool {
        let Some(lists) = self.revocations.as_ref().and_then(|revocations| revocations.lists()) else {
            return false;
        };
        let named = lists.naming(leaf, intermediates);
        // webpki asks the first list of an issuer's name, whoever signed the list. So each list is asked alone, too.
        let alone = named.chunks(1).filter(|_| named.len() > 1);
        let mut asked = std::iter::once(&named[..]).filter(|named| !named.is_empty()).chain(alone);
        asked.any(|lists| {
            use webpki::Error as E;
            let built = self.build(leaf, intermediates, (now, usage), lists);
            matches!(
                built,
                // A search that was given up has not shown that a path is good.
                Err(E::CertRevoked | E::MaximumSignatureChecksExceeded | E::MaximumPathBuildCallsExceeded)
            )
        })
    }

    /// Refuses certificates that form many chains. The search compares names alone, while webpki tries each chain and
    /// a stranger chooses the names.
    fn bound_chains(
        &self,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        // A certificate that cannot be read is in no chain.
        let parsed: Vec<EndEntityCert<'_>> =
            intermediates.iter().filter_map(|der| EndEntityCert::try_from(der).ok()).collect();
        let mut search = ChainSearch { anchors: &self.anchors, certs: &parsed, chains: 0, steps: 0 };
        search.visit(leaf, &mut [false; MAX_INTERMEDIATES]);
        if search.chains > MAX_CHAINS || search.steps > MAX_CHAIN_STEPS {
            return Err(PeerFault::ManyChains { limit: MAX_CHAINS }.into());
        }
        Ok(())
    }
}

/// A count of the chains that certificates form by their names.
struct ChainSearch<'a> {
    anchors: &'a [TrustAnchor<'static>],
    certs: &'a [EndEntityCert<'a>],
    chains: usize,
    steps: usize,
}

// === impl ChainSearch ===

impl ChainSearch<'_> {
    /// Continues the chain that ends with `cert`. `used`: the certificates that are in the chain.
    fn visit(&mut self, cert: &Cert<'_>, used: &mut [bool; MAX_INTERMEDIATES]) {
        self.steps += 1;
        if self.steps > MAX_CHAIN_STEPS {
            return;
        }
        if self.anchors.iter().any(|anchor| anchor.subject.as_ref() == cert.issuer()) {
            self.chains += 1;
        }
        let certs = self.certs;
        for (at, next) in certs.iter().enumerate() {
            if next.subject() != cert.issuer() || used.get(at) != Some(&false) {
                continue;
            }
            mark(used, at, true);
            self.visit(next, used);
            mark(used, at, false);
        }
    }
}

fn mark(used: &mut [bool; MAX_INTERMEDIATES], at: usize, value: bool) {
    if let Some(used) = used.get_mut(at) {
        *used = value;
    }
}

/// Whether the certificate has a key usage without digital signatures (RFC 5280 section 4.2.1.3). webpki does not look.
fn forbids_signatures(leaf: &CertificateDer<'_>) -> Result<bool, rustls::Error> {
    let (_, leaf) = parse_x509_certificate(leaf).map_err(|_| CertificateError::BadEncoding)?;
    let usage = leaf.key_usage().map_err(|_| CertificateError::BadEncoding)?;
    Ok(usage.is_some_and(|usage| !usage.value.digital_signature()))
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

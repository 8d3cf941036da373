//! A workload's certificate with the rustls configurations, which are built once.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, ServerConfig,
    crypto::aws_lc_rs::{default_provider, sign::any_supported_type},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::{client, peer_chain::PeerChain, revocation::Revocations, server, verify::Trust};
use crate::protocols::{
    ca::chain::{Certificate, Chain},
    config::TlsConfig,
    identity::Identity,
};

/// A certificate with its key, its roots and the rustls configurations made of them. The `Debug` output never shows the
/// key.
pub struct WorkloadCert {
    chain: Chain,
    unusable_roots: usize,
    trust: Trust,
    server: Arc<ServerConfig>,
    client: ClientConfig,
}

/// Why a chain and a key make no TLS identity.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The kind of the private key is not supported.
    #[error("the private key cannot be used: {0}")]
    Key(rustls::Error),
    /// The certificate is for another key.
    #[error("the certificate is for another key than the one it was asked for")]
    OtherKey,
    /// None of the roots can serve as a trust anchor.
    #[error("none of the {count} roots can verify anybody: {reason}")]
    Roots {
        /// The number of roots.
        count: usize,
        /// The error of the last root.
        reason: webpki::Error,
    },
    /// rustls rejects the combination of TLS options.
    #[error("no TLS configuration can be built: {0}")]
    Options(rustls::Error),
}

// === impl WorkloadCert ===

impl WorkloadCert {
    /// Builds the configurations.
    ///
    /// # Errors
    /// The key is not the leaf's, no root is usable, or the options contradict each other.
    pub fn new(chain: Chain, key: &PrivateKeyDer<'_>, tls: &TlsConfig) -> Result<Self, CertificateError> {
        Self::revocable(chain, key, tls, None)
    }

    /// Builds the configurations like [`WorkloadCert::new`], and also checks peers' certificates against `revocations`.
    ///
    /// # Errors
    /// As [`WorkloadCert::new`].
    pub fn revocable(
        chain: Chain,
        key: &PrivateKeyDer<'_>,
        tls: &TlsConfig,
        revocations: Option<Arc<Revocations>>,
    ) -> Result<Self, CertificateError> {
        let key = any_supported_type(key).map_err(CertificateError::Key)?;
        let path = std::iter::once(&chain.leaf).chain(&chain.intermediates).map(|c| c.der.clone()).collect();
        let key = Arc::new(CertifiedKey::new(path, key));
        key.keys_match().map_err(|_| CertificateError::OtherKey)?;
        let anchors = anchors(&chain.roots)?;
        let unusable_roots = chain.roots.len() - anchors.len();
        let trust = Trust {
            anchors: anchors.into(),
            algorithms: default_provider().signature_verification_algorithms,
            revocations,
        };
        let server = server::config(&chain.identity, key.clone(), trust.clone(), tls)
            .map_err(CertificateError::Options)?;
        let client = client::template(key, trust.clone(), tls).map_err(CertificateError::Options)?;
        Ok(Self { chain, unusable_roots, trust, server: Arc::new(server), client })
    }

    /// The configuration for listeners of this identity. Clients must present a certificate of the same trust domain.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// The configuration for dialling a server whose identity must be one of `sans`; with an empty list every handshake
    /// fails. The call costs a few reference counts, so keep the result for the life of a tunnel. The verifier ignores
    /// the server name given to rustls.
    pub fn client_config(&self, sans: &[Identity]) -> Arc<ClientConfig> {
        Arc::new(client::expecting(&self.client, &self.trust, sans))
    }

    /// The identity by which this certificate's owner admits a client with these certificates, which a handshake has
    /// verified. A client's certificate may have further names, which no check has seen and nobody may use.
    pub fn client_identity(&self, certs: &[CertificateDer<'_>]) -> Option<Identity> {
        server::admitted(&EndEntityCert::try_from(certs.first()?).ok()?, self.identity())
    }

    /// The identity by which a server with these certificates is one of `sans`. A handshake has verified the
    /// certificates.
    pub fn server_identity(certs: &[CertificateDer<'_>], sans: &[Identity]) -> Option<Identity> {
        client::admitted(&EndEntityCert::try_from(certs.first()?).ok()?, sans).cloned()
    }

    /// What is needed to find out later whether a client with these certificates has been revoked. `at`: the time of the
    /// handshake, which has verified the certificates. `None`: no revocation lists are configured.
    pub fn client_chain(&self, certs: Vec<CertificateDer<'static>>, at: UnixTime) -> Option<Box<PeerChain>> {
        self.chain(certs, KeyUsage::client_auth(), at)
    }

    /// Like [`WorkloadCert::client_chain`], of a server.
    pub fn server_chain(&self, certs: Vec<CertificateDer<'static>>, at: UnixTime) -> Option<Box<PeerChain>> {
        self.chain(certs, KeyUsage::server_auth(), at)
    }

    fn chain(
        &self,
        certs: Vec<CertificateDer<'static>>,
        usage: KeyUsage,
        at: UnixTime,
    ) -> Option<Box<PeerChain>> {
        self.trust.revocations.as_ref()?;
        Some(Box::new(PeerChain::new(certs, &self.trust, usage, at)))
    }

    /// A number that changes with the revocation lists against which peers are checked.
    pub fn revocation_generation(&self) -> u64 {
        self.trust.revocations.as_ref().map(|revocations| revocations.generation()).unwrap_or_default()
    }

    /// The client identity that `server` would see in a handshake with this certificate's owner, who expects one of
    /// `sans`. The same verifiers as in a handshake check both certificates. The keys were checked when the two
    /// certificates were built.
    ///
    /// # Errors
    /// The error is that of the side that would refuse the other side.
    pub fn seen_by(
        &self,
        server: &Self,
        sans: &[Identity],
        now: UnixTime,
    ) -> Result<Identity, rustls::Error> {
        let (leaf, intermediates) = server.presented();
        client::OneOf::new(&self.trust, sans).check(leaf, &intermediates, now)?;
        let (leaf, intermediates) = self.presented();
        server::OwnTrustDomain::new(server.identity(), &server.trust).check(leaf, &intermediates, now)
    }

    /// What is needed to find out later whether this certificate or `server`'s has been revoked, as the owner of the
    /// other sees it: the client's chain and the server's. `None`: no revocation lists are configured.
    pub fn chains_with(&self, server: &Self, at: UnixTime) -> Option<[Box<PeerChain>; 2]> {
        self.trust.revocations.as_ref()?;
        let presented = |cert: &Self| cert.path().map(|cert| cert.der.clone()).collect();
        Some([server.client_chain(presented(self), at)?, self.server_chain(presented(server), at)?])
    }

    /// What the owner says to a client with these certificates.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn check_client(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Identity, rustls::Error> {
        server::OwnTrustDomain::new(self.identity(), &self.trust).check(leaf, intermediates, now)
    }

    /// What the owner says to a server with these certificates that should be one of `sans`.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn check_server(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        sans: &[Identity],
        now: UnixTime,
    ) -> Result<Identity, rustls::Error> {
        client::OneOf::new(&self.trust, sans).check(leaf, intermediates, now)
    }

    /// The leaf and the intermediates that a handshake presents.
    fn presented(&self) -> (&CertificateDer<'static>, Vec<CertificateDer<'static>>) {
        (&self.chain.leaf.der, self.chain.intermediates.iter().map(|c| c.der.clone()).collect())
    }

    /// The identity of the certificate.
    pub fn identity(&self) -> &Identity {
        &self.chain.identity
    }

    /// The start of the certificate's validity.
    pub fn not_before(&self) -> SystemTime {
        self.chain.leaf.not_before
    }

    /// The end of the certificate's validity; the certificate is expired at this moment.
    pub fn not_after(&self) -> SystemTime {
        self.chain.leaf.not_after
    }

    /// The leaf's serial number, decimal.
    pub fn serial(&self) -> &str {
        &self.chain.leaf.serial
    }

    /// Whether `now` lies within the certificate's validity.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        now >= self.not_before() && !self.is_expired_at(now)
    }

    /// Whether the certificate is expired at `now`. A certificate whose start lies in the future is not expired: the
    /// node's clock may be behind the authority's clock, and peers use their own clocks.
    pub fn is_expired_at(&self, now: SystemTime) -> bool {
        now >= self.not_after()
    }

    /// Whether the certificate is expired when `within` has passed after `now`.
    pub fn expires_within(&self, within: Duration, now: SystemTime) -> bool {
        now.checked_add(within).is_none_or(|then| self.is_expired_at(then))
    }

    /// The leaf and its intermediates, for display.
    pub fn path(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.chain.leaf).chain(&self.chain.intermediates)
    }

    /// The roots that peers are verified against, for display.
    pub fn roots(&self) -> &[Certificate] {
        &self.chain.roots
    }

    /// The number of roots that are no usable trust anchors and are therefore left out.
    pub fn unusable_roots(&self) -> usize {
        self.unusable_roots
    }
}

impl fmt::Debug for WorkloadCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadCert")
            .field("identity", &self.chain.identity)
            .field("serial", &self.chain.leaf.serial)
            .field("not_before", &self.chain.leaf.not_before)
            .field("not_after", &self.chain.leaf.not_after)
            .finish_non_exhaustive()
    }
}

/// Converts the roots to trust anchors. An unusable root is left out if a usable root remains, because fewer anchors
/// only narrow the set of trusted peers.
fn anchors(roots: &[Certificate]) -> Result<Vec<TrustAnchor<'static>>, CertificateError> {
    let mut usable = Vec::with_capacity(roots.len());
    let mut last = webpki::Error::UnknownIssuer;
    for root in roots {
        match webpki::anchor_from_trusted_cert(&root.der) {
            Ok(anchor) => usable.push(anchor.to_owned()),
            Err(reason) => last = reason,
        }
    }
    if usable.is_empty() {
        return Err(CertificateError::Roots { count: roots.len(), reason: last });
    }
    Ok(usable)
}

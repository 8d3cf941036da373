//! A workload's certificate with everything a handshake needs, built once.

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

use super::{
    client, server,
    verify::{Revocations, Trust, peer_identity},
};
use crate::protocols::{
    ca::chain::{Certificate, Chain},
    config::TlsConfig,
    identity::Identity,
};

/// A certificate, its key, the roots that came with it, and the configurations made of them. The key is never
/// shown.
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
    /// The key is of no usable kind.
    #[error("the private key cannot be used: {0}")]
    Key(rustls::Error),
    /// The certificate is for another key.
    #[error("the certificate is for another key than the one it was asked for")]
    OtherKey,
    /// None of the roots can serve as a trust anchor.
    #[error("none of the {count} roots can verify anybody: {reason}")]
    Roots {
        /// How many there are.
        count: usize,
        /// What is wrong with the last of them.
        reason: webpki::Error,
    },
    /// The options leave nothing to negotiate.
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

    /// The same, with peers' certificates looked up as revoked.
    ///
    /// # Errors
    /// As [`WorkloadCert::new`].
    pub fn revocable(
        chain: Chain,
        key: &PrivateKeyDer<'_>,
        tls: &TlsConfig,
        revocations: Option<Arc<dyn Revocations>>,
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

    /// What listeners of this identity use. Clients must present a certificate of the same trust domain.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// What to dial with when the server must be one of `sans`; an empty list never succeeds. Costs a few
    /// reference counts; keep it for the life of a tunnel. The server name given to rustls is not used.
    pub fn client_config(&self, sans: &[Identity]) -> Arc<ClientConfig> {
        Arc::new(client::expecting(&self.client, &self.trust, sans))
    }

    /// Whom `server` would see in a handshake with this certificate's owner, who expects one of `sans`: what each side
    /// verifies of the other, held against the same verifiers without a handshake. That the keys are there was verified
    /// when the two were built. `None`: the handshake would succeed and name nobody.
    ///
    /// # Errors
    /// What the side that would refuse the other would say.
    pub fn seen_by(
        &self,
        server: &Self,
        sans: &[Identity],
        now: UnixTime,
    ) -> Result<Option<Identity>, rustls::Error> {
        let (leaf, intermediates) = server.presented();
        client::OneOf::new(&self.trust, sans).check(leaf, &intermediates, now)?;
        let (leaf, intermediates) = self.presented();
        server::OwnTrustDomain::new(server.identity(), &server.trust).check(leaf, &intermediates, now)?;
        Ok(peer_identity(std::slice::from_ref(leaf)))
    }

    /// What a handshake shows of it: leaf and intermediates.
    fn presented(&self) -> (&CertificateDer<'static>, Vec<CertificateDer<'static>>) {
        (&self.chain.leaf.der, self.chain.intermediates.iter().map(|c| c.der.clone()).collect())
    }

    /// Whose certificate this is.
    pub fn identity(&self) -> &Identity {
        &self.chain.identity
    }

    /// Valid from here on.
    pub fn not_before(&self) -> SystemTime {
        self.chain.leaf.not_before
    }

    /// Valid until here, this moment excluded.
    pub fn not_after(&self) -> SystemTime {
        self.chain.leaf.not_after
    }

    /// The leaf's serial number, decimal.
    pub fn serial(&self) -> &str {
        &self.chain.leaf.serial
    }

    /// Whether both ends of its validity hold at `now`.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        now >= self.not_before() && !self.is_expired_at(now)
    }

    /// Whether it is over. A certificate whose start lies in the future is not: the node's clock may be behind
    /// its authority's, and peers decide by theirs.
    pub fn is_expired_at(&self, now: SystemTime) -> bool {
        now >= self.not_after()
    }

    /// Whether it is over `within` after `now`.
    pub fn expires_within(&self, within: Duration, now: SystemTime) -> bool {
        now.checked_add(within).is_none_or(|then| self.is_expired_at(then))
    }

    /// The leaf and its intermediates, for showing.
    pub fn path(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.chain.leaf).chain(&self.chain.intermediates)
    }

    /// The roots peers are verified against, for showing.
    pub fn roots(&self) -> &[Certificate] {
        &self.chain.roots
    }

    /// How many of the roots can verify nobody. They are left out.
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

/// The roots as trust anchors. One that is none is left out, as long as any other remains: it can only narrow
/// who is trusted.
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

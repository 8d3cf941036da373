//! The accepting side of TLS: it accepts any client of the own trust domain whose chain leads to one of the roots.

use std::sync::Arc;

use rustls::{
    DistinguishedName, ServerConfig,
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::{
    fault::{Names, PeerFault},
    options::{self, ALPN_H2},
    verify::{Trust, identities, signatures_by_trust},
};
use crate::protocols::{config::TlsConfig, identity::Identity};

/// The configuration of every listener of one identity. A client certificate is required. No session is resumed, so
/// every connection is verified against the current roots and revocations.
pub(super) fn config(
    own: &Identity,
    key: Arc<CertifiedKey>,
    trust: Trust,
    tls: &TlsConfig,
) -> Result<ServerConfig, rustls::Error> {
    let verifier = OwnTrustDomain::new(own, &trust);
    let mut config = ServerConfig::builder_with_provider(options::provider(tls))
        .with_protocol_versions(options::versions(tls))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    // The stream seals records with the keys of the handshake.
    config.enable_secret_extraction = true;
    Ok(config)
}

/// A verifier that accepts a client with an identity of the server's own trust domain.
#[derive(Debug)]
pub(super) struct OwnTrustDomain {
    own: Identity,
    trust: Trust,
}

// === impl OwnTrustDomain ===

impl OwnTrustDomain {
    pub(super) fn new(own: &Identity, trust: &Trust) -> Self {
        Self { own: own.clone(), trust: trust.clone() }
    }

    /// Checks that the client with these certificates belongs to the server's trust domain, and returns the identity by
    /// which it does.
    pub(super) fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Identity, rustls::Error> {
        let leaf = self.trust.verify(end_entity, intermediates, now, KeyUsage::client_auth())?;
        if let Some(identity) = admitted(&leaf, &self.own) {
            return Ok(identity);
        }
        Err(PeerFault::TrustDomain {
            expected: self.own.trust_domain().into(),
            presented: Names::of(leaf.valid_uri_names()),
        }
        .into())
    }
}

/// The first identity of `own`'s trust domain among the names of a client's certificate.
pub(super) fn admitted(leaf: &EndEntityCert<'_>, own: &Identity) -> Option<Identity> {
    identities(leaf).find(|id| id.trust_domain() == own.trust_domain())
}

impl ClientCertVerifier for OwnTrustDomain {
    /// The list is empty: clients have one certificate, so a list of roots would only lengthen the handshake.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now).map(|_| ClientCertVerified::assertion())
    }

    signatures_by_trust!();
}

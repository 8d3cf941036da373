//! The dialling side of TLS: it accepts exactly the identities that the route names.

use std::sync::Arc;

use rustls::{
    ClientConfig,
    client::{
        Resumption,
        danger::{ServerCertVerified, ServerCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::{
    fault::{Names, PeerFault},
    options::{self, ALPN_H2},
    verify::{Trust, signatures_by_trust},
};
use crate::protocols::{config::TlsConfig, identity::Identity};

/// A configuration that accepts no server. [`expecting`] makes its configurations from this template.
pub(super) fn template(
    key: Arc<CertifiedKey>,
    trust: Trust,
    tls: &TlsConfig,
) -> Result<ClientConfig, rustls::Error> {
    let nobody = OneOf { expected: Box::default(), trust };
    let mut config = ClientConfig::builder_with_provider(options::provider(tls))
        .with_protocol_versions(options::versions(tls))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(nobody))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    // The stream seals records with the keys of the handshake.
    config.enable_secret_extraction = true;
    Ok(config)
}

/// A configuration for servers that are one of `expected`. With an empty list every handshake fails.
pub(super) fn expecting(template: &ClientConfig, trust: &Trust, expected: &[Identity]) -> ClientConfig {
    let mut config = template.clone();
    config.dangerous().set_certificate_verifier(Arc::new(OneOf::new(trust, expected)));
    config
}

/// A verifier that accepts a server with one of the expected identities. The verifier ignores DNS names.
#[derive(Debug)]
pub(super) struct OneOf {
    expected: Box<[Identity]>,
    trust: Trust,
}

// === impl OneOf ===

impl OneOf {
    pub(super) fn new(trust: &Trust, expected: &[Identity]) -> Self {
        Self { expected: expected.into(), trust: trust.clone() }
    }

    /// Checks that the server with these certificates has one of the expected identities, and returns that identity.
    pub(super) fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Identity, rustls::Error> {
        let leaf = self.trust.verify(end_entity, intermediates, now, KeyUsage::server_auth())?;
        if let Some(identity) = admitted(&leaf, &self.expected) {
            return Ok(identity.clone());
        }
        Err(PeerFault::Identity {
            expected: Names::of_identities(&self.expected),
            presented: Names::of(leaf.valid_uri_names()),
        }
        .into())
    }
}

/// The first of `expected` among the names of a server's certificate, in the order of the names.
pub(super) fn admitted<'a>(leaf: &EndEntityCert<'_>, expected: &'a [Identity]) -> Option<&'a Identity> {
    // An expected identity is well-formed, so a URI name that equals the identity's text is well-formed too.
    leaf.valid_uri_names().find_map(|uri| expected.iter().find(|id| id.as_str() == uri))
}

impl ServerCertVerifier for OneOf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now).map(|_| ServerCertVerified::assertion())
    }

    signatures_by_trust!();
}

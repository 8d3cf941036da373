//! The signing request: a fresh ECDSA P-256 key, an empty subject, and exactly one extension, a critical
//! subject alternative name with the identity's URI (docs/spec/controlplane.md 3.1).

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::protocols::identity::Identity;

/// A key and the request that asks for its certificate.
pub struct Csr {
    /// The private key, which never leaves this process.
    pub key: PrivateKeyDer<'static>,
    /// The PKCS#10 request in PEM.
    pub pem: String,
}

/// Why no request could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate request for {identity}: {reason}")]
pub struct CsrError {
    identity: Identity,
    reason: rcgen::Error,
}

/// Makes a new key and the request for `identity`.
///
/// # Errors
/// The identity holds characters a URI name cannot carry, or the system's random source failed.
pub fn request(identity: &Identity) -> Result<Csr, CsrError> {
    let failed = |reason| CsrError { identity: identity.clone(), reason };
    let uri = identity.as_str().try_into().map_err(failed)?;
    let mut params = CertificateParams::default();
    // With an empty subject the name extension has to be critical (RFC 5280 section 4.1.2.6), and rcgen does so.
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri)];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let pem = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(failed)?;
    Ok(Csr { key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(), pem })
}

// === impl Csr ===

impl fmt::Debug for Csr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Csr").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

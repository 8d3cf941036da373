//! The signing request: a fresh ECDSA P-256 key, an empty subject, and exactly one extension, a critical
//! subject alternative name with the identity's URI (docs/spec/controlplane.md 3.1).

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::protocols::identity::Identity;

/// A key and the request that asks for its certificate.
pub struct Csr {
    /// The private key. Never leaves this process.
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
mod tests {
    use super::*;
    use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509CertificationRequest};

    fn identity() -> Identity {
        Identity::new("cluster.local", "default", "web").unwrap()
    }

    #[test]
    fn the_request_has_an_empty_subject_and_one_critical_uri_name() {
        let csr = request(&identity()).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(csr.pem.as_bytes()).unwrap();
        assert_eq!(pem.label, "CERTIFICATE REQUEST");
        let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).unwrap();
        assert_eq!(parsed.certification_request_info.subject.iter().count(), 0);
        let extensions = parsed.certification_request_info.iter_attributes().count();
        assert_eq!(extensions, 1, "one attribute: the extension request");
        let asked: Vec<_> = parsed.requested_extensions().unwrap().collect();
        let [ParsedExtension::SubjectAlternativeName(san)] = asked.as_slice() else {
            panic!("asked for {asked:?}");
        };
        assert!(
            matches!(san.general_names.as_slice(), [GeneralName::URI(uri)] if *uri == identity().as_str())
        );
        // The critical flag is not in the parsed form: the bytes tell (OID 2.5.29.17, then BOOLEAN TRUE).
        let critical = [0x06, 0x03, 0x55, 0x1d, 0x11, 0x01, 0x01, 0xff];
        assert!(pem.contents.windows(critical.len()).any(|w| w == critical));
        parsed.verify_signature().unwrap();
    }

    #[test]
    fn every_request_has_its_own_key() {
        let (a, b) = (request(&identity()).unwrap(), request(&identity()).unwrap());
        assert_ne!(a.key.secret_der(), b.key.secret_der());
    }

    #[test]
    fn the_key_is_not_in_the_debug_text() {
        assert_eq!(format!("{:?}", request(&identity()).unwrap()), "Csr { .. }");
    }

    #[test]
    fn a_name_that_is_no_uri_is_refused_by_name() {
        let odd = Identity::new("cluster.local", "münchen", "web").unwrap();
        assert!(request(&odd).unwrap_err().to_string().contains("münchen"));
    }
}

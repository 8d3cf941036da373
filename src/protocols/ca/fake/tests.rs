//! The authority for tests.

use rustls_pki_types::PrivateKeyDer;

use super::*;
use crate::protocols::ca::{chain, csr};

#[test]
fn two_authorities_sign_certificates_that_hold_against_each_others_roots() {
    let (now, ttl) = (SystemTime::now(), Duration::from_secs(3600));
    let identity = |sa| Identity::new("cluster.local", "ns", sa).unwrap();
    let signed = |sa| {
        let csr::Csr { pem, key } = csr::request(&identity(sa)).unwrap();
        assert!(matches!(key, PrivateKeyDer::Pkcs8(_)));
        chain::Chain::parse(&sign(&identity(sa), &pem, now, ttl).unwrap(), Some(&identity(sa))).unwrap()
    };
    let (one, two) = (signed("one"), signed("two"));
    assert_eq!((one.identity, two.identity), (identity("one"), identity("two")));
    let key = |root: &chain::Certificate| {
        use x509_parser::prelude::FromDer;
        let (_, root) = x509_parser::certificate::X509Certificate::from_der(&root.der).unwrap();
        root.public_key().raw.to_vec()
    };
    assert_eq!(key(&one.roots[0]), key(&two.roots[0]));
}

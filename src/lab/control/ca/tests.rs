use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn csr(identity: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn inspect<T>(pem: &str, f: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    let pem = x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()).next().unwrap().unwrap();
    let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
    f(&certificate)
}

#[test]
fn a_leaf_has_one_critical_name_and_the_life_asked_for() {
    let authority = Authority::new(CaOptions::default()).unwrap();
    let chain = authority.sign(&csr(WEB), None, Duration::from_secs(3600)).unwrap();
    assert_eq!((chain.len(), chain[1].clone()), (2, authority.root_pem()));
    inspect(&chain[0], |leaf| {
        let san = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(san.critical);
        assert_eq!(san.value.general_names, [GeneralName::URI(WEB)]);
        assert_eq!(leaf.subject().iter().count(), 0);
        let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
        assert!((3600..3800).contains(&life), "{life}");
    });
    assert_eq!(authority.issued()[0].identity, WEB);
}

#[test]
fn the_identity_spoken_for_wins_and_nonsense_is_refused() {
    let authority = Authority::new(CaOptions::default()).unwrap();
    let other = "spiffe://cluster.local/ns/shop/sa/other";
    authority.sign(&csr(WEB), Some(other), DAY).unwrap();
    assert_eq!(authority.issued()[0].identity, other);
    assert!(matches!(authority.sign("nonsense", None, DAY), Err(CaError::PeerRequest(_))));
    assert!(matches!(authority.sign(&csr("https://x"), None, DAY), Err(CaError::PeerNoIdentity)));
}

#[test]
fn a_short_life_has_its_half_ahead() {
    let options = CaOptions { ttl: Some(Duration::from_secs(10)), intermediate: false };
    let authority = Authority::new(options).unwrap();
    let chain = authority.sign(&csr(WEB), None, DAY).unwrap();
    let now = OffsetDateTime::now_utc().unix_timestamp();
    inspect(&chain[0], |leaf| {
        let (from, to) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
        assert!(from + (to - from) / 2 > now + 2, "{from} {to} {now}");
    });
}

#[test]
fn an_intermediate_stands_between_leaf_and_root() {
    let authority = Authority::new(CaOptions { ttl: None, intermediate: true }).unwrap();
    let chain = authority.sign(&csr(WEB), None, DAY).unwrap();
    assert_eq!(chain.len(), 3);
    let subject = |pem: &str| inspect(pem, |c| c.subject().to_string());
    let issuer = |pem: &str| inspect(pem, |c| c.issuer().to_string());
    assert_eq!((issuer(&chain[0]), issuer(&chain[1])), (subject(&chain[1]), subject(&chain[2])));
    assert_ne!(subject(&chain[1]), subject(&chain[2]));
}

#[test]
fn a_revocation_list_names_the_certificates_of_an_identity() {
    let authority = Authority::new(CaOptions::default()).unwrap();
    for identity in [WEB, "spiffe://cluster.local/ns/shop/sa/other", WEB] {
        authority.sign(&csr(identity), None, DAY).unwrap();
    }
    let list = authority.revocation_list(&[WEB]).unwrap();
    let pem = x509_parser::pem::Pem::iter_from_buffer(list.as_bytes()).next().unwrap().unwrap();
    let (_, list) = x509_parser::revocation_list::CertificateRevocationList::from_der(&pem.contents).unwrap();
    assert_eq!(list.iter_revoked_certificates().count(), 2);
}

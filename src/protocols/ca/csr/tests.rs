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
    assert!(matches!(san.general_names.as_slice(), [GeneralName::URI(uri)] if *uri == identity().as_str()));
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

use rustls_pki_types::UnixTime;

use super::*;
use crate::protocols::{
    identity::Identity,
    tls::{
        TlsFault, WorkloadCert,
        test_ca::{Issued, TestCa, seconds_from_now},
    },
};

fn id(account: &str) -> Identity {
    Identity::new("cluster.local", "default", account).unwrap()
}

fn der(pem: &str) -> CertificateDer<'static> {
    PemObject::from_pem_slice(pem.as_bytes()).unwrap()
}

/// The certificates that a peer presents, leaf first.
fn presented(issued: &Issued) -> Vec<CertificateDer<'static>> {
    let pems = issued.chain_pems();
    pems[..pems.len() - 1].iter().map(|pem| der(pem)).collect()
}

/// Who checks peers against `lists` and trusts the roots of `authorities`.
fn checker(authorities: &[&TestCa], lists: &Arc<Revocations>) -> WorkloadCert {
    TestCa::new("own").issue(&id("db")).trusting(authorities).checking(lists.clone())
}

/// Whether a peer with these certificates is refused as revoked. Any other refusal fails the test.
fn refuses(checker: &WorkloadCert, certs: &[CertificateDer<'static>]) -> bool {
    match checker.check_client(&certs[0], &certs[1..], UnixTime::now()) {
        Ok(_) => false,
        Err(error) => {
            assert!(matches!(TlsFault::from(&error), TlsFault::PeerRevoked), "{error}");
            true
        }
    }
}

fn of(lists: &[rcgen::CertificateRevocationList]) -> RevocationLists {
    let pem: String = lists.iter().map(|list| list.pem().unwrap()).collect();
    RevocationLists::parse(pem.as_bytes()).unwrap()
}

#[test]
fn a_file_is_pem_with_any_blocks_or_one_list_in_der_or_empty() {
    let ca = TestCa::new("root");
    let list = ca.list(0, &[1, 2]);
    let pem = list.pem().unwrap();
    let mixed = format!("{pem}{}# a comment\n{pem}", ca.root_pem());
    for (file, lists) in [
        (pem.as_bytes(), 1),
        (mixed.as_bytes(), 2),
        (ca.root_pem().as_bytes(), 0),
        (list.der().as_ref(), 1),
        (b"", 0),
    ] {
        assert_eq!(RevocationLists::parse(file).unwrap().len(), lists);
    }
    // PEM begins at the first byte, or the file is DER.
    let moved = format!("\n{pem}");
    let broken = pem.replace("A", "!");
    let cut = &list.der()[..list.der().len() - 1];
    let twice = [list.der().as_ref(), list.der().as_ref()].concat();
    for file in [moved.as_bytes(), broken.as_bytes(), cut, &twice, b"junk", &[0; 100]] {
        RevocationLists::parse(file).unwrap_err();
    }
    let many = pem.repeat(MAX_LISTS + 1);
    assert!(matches!(RevocationLists::parse(many.as_bytes()), Err(RevocationError::TooMany)));
    let error = RevocationLists::parse(
        format!("{pem}-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").as_bytes(),
    );
    assert!(error.unwrap_err().to_string().starts_with("list 2 cannot be used: "));
}

#[test]
fn a_revoked_intermediate_takes_all_below_it_along() {
    let ca = TestCa::new("root").with_intermediate("upper").with_intermediate("lower");
    let beside = TestCa::new("other").with_intermediate("upper");
    let lists = Arc::<Revocations>::default();
    let checker = checker(&[&ca, &beside], &lists);
    let peer = presented(&ca.issue_numbered(&id("web"), 5));
    let other = presented(&beside.issue_numbered(&id("web"), 5));
    for (level, serial, revoked) in [
        (2, 5, true),     // the leaf
        (1, 1002, true),  // the lower intermediate
        (0, 1001, true),  // the upper one
        (2, 6, false),    // another leaf
        (0, 5, false),    // the leaf's number, by who has not signed the leaf
        (2, 1001, false), // the upper one's number, by the lower one
    ] {
        lists.replace(of(&[ca.list(level, &[serial])]));
        assert_eq!(refuses(&checker, &peer), revoked, "level {level}, serial {serial}");
        assert!(!refuses(&checker, &other), "level {level}, serial {serial}");
    }
    lists.replace(of(&[]));
    assert!(!refuses(&checker, &peer), "no longer revoked");
}

#[test]
fn of_authorities_of_one_name_only_the_one_that_signed_the_list_is_concerned() {
    let (one, two) = (TestCa::new("root"), TestCa::new("root"));
    let lists = Arc::<Revocations>::default();
    let checker = checker(&[&one, &two], &lists);
    let (first, second) = (one.issue_numbered(&id("a"), 5), two.issue_numbered(&id("b"), 5));
    let (first, second) = (presented(&first), presented(&second));
    for (given, revoked) in [
        (vec![two.list(0, &[5])], (false, true)),
        (vec![one.list(0, &[]), two.list(0, &[5])], (false, true)),
        (vec![two.list(0, &[5]), one.list(0, &[])], (false, true)),
        (vec![two.list(0, &[5]), one.list(0, &[5])], (true, true)),
        (vec![two.list(0, &[]), one.list(0, &[5])], (true, false)),
    ] {
        lists.replace(of(&given));
        assert_eq!((refuses(&checker, &first), refuses(&checker, &second)), revoked);
    }
}

#[test]
fn junk_that_a_peer_presents_beside_its_chain_is_of_no_account() {
    let ca = TestCa::new("root").with_intermediate("used");
    let unused = TestCa::new("root").with_intermediate("unused");
    let lists = Arc::<Revocations>::default();
    let checker = checker(&[&ca, &unused], &lists);
    let mut peer = presented(&ca.issue_numbered(&id("web"), 5));
    peer.push(presented(&unused.issue(&id("web")))[1].clone());
    lists.replace(of(&[unused.list(0, &[1001])]));
    assert!(!refuses(&checker, &peer));
    lists.replace(of(&[unused.list(0, &[1001]), ca.list(0, &[1001])]));
    assert!(refuses(&checker, &peer));
}

#[test]
fn a_chain_is_revoked_by_later_lists_and_by_nothing_else() {
    // Valid at the handshake, and expired since.
    let ca = TestCa::new("root").with_lifetime(seconds_from_now(-7_200), seconds_from_now(-60));
    let at = UnixTime::since_unix_epoch(
        seconds_from_now(-3_600).duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap(),
    );
    let lists = Arc::<Revocations>::default();
    let checker = checker(&[&ca], &lists);
    let chain = |serial| checker.client_chain(presented(&ca.issue_numbered(&id("web"), serial)), at).unwrap();
    let (one, two) = (chain(1), chain(2));
    assert!(!one.is_revoked() && one.is_legible());
    let before = lists.generation();
    lists.replace(of(&[ca.list(0, &[2])]));
    assert_ne!(lists.generation(), before);
    assert!(!one.is_revoked() && two.is_revoked());
    // Who checks nobody keeps nothing.
    let unchecked = ca.workload(&id("db"));
    assert!(unchecked.client_chain(vec![], at).is_none() && unchecked.chains_with(&checker, at).is_none());
}

#[test]
fn a_certificate_that_cannot_be_read_is_told_and_does_not_hide_the_others() {
    let ca = TestCa::new("root");
    let lists = Arc::<Revocations>::default();
    let checker = checker(&[&ca], &lists);
    let mut certs = presented(&ca.issue_numbered(&id("web"), 5));
    certs.push(CertificateDer::from(vec![1, 2, 3]));
    assert!(!refuses(&checker, &certs));
    let chain = checker.client_chain(certs, UnixTime::now()).unwrap();
    assert!(!chain.is_legible() && !chain.is_revoked());
    lists.replace(of(&[ca.list(0, &[5])]));
    assert!(chain.is_revoked());
}

proptest::proptest! {
    #[test]
    fn a_damaged_file_never_panics(at in 0..2000_usize, to in proptest::prelude::any::<u8>(), pem in proptest::prelude::any::<bool>()) {
        thread_local!(static FILES: [Vec<u8>; 2] = {
            let list = TestCa::new("root").list(0, &[1, 2, 3]);
            [list.der().to_vec(), list.pem().unwrap().into_bytes()]
        });
        let mut file = FILES.with(|files| files[usize::from(pem)].clone());
        let at = at % file.len();
        file[at] = to;
        let _ = RevocationLists::parse(&file);
    }
}

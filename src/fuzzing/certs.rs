//! Certificates of peers and of the authority, and lists that revoke them.

use std::sync::{Arc, LazyLock};

use rcgen::{CertificateParams, DistinguishedName, SanType};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::input::Input;
use crate::protocols::{
    ca::chain::{Chain, INTERMEDIATES_MAX, ROOTS_MAX},
    config::TlsConfig,
    identity::Identity,
    tls::{
        PeerChain, RevocationLists, Revocations, TlsFault, WorkloadCert,
        test_ca::{Issued, TestCa},
    },
};

/// The serial number of the intermediate below the root.
const INTERMEDIATE: u64 = 1001;
/// The serial number of the leaf.
const LEAF: u64 = 7;

struct World {
    ca: TestCa,
    issued: Issued,
    /// The certificates that the peer presents.
    presented: Vec<CertificateDer<'static>>,
    own: WorkloadCert,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let ca = TestCa::new("root").with_intermediate("below");
    let issued = ca.issue_numbered(&id("peer"), LEAF);
    let presented = presented(&issued);
    let own = ca.issue(&id("own")).workload(&TlsConfig::default());
    World { ca, issued, presented, own }
});

fn id(name: &str) -> Identity {
    Identity::new("cluster.local", "ns1", name).unwrap()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// The certificates that a peer presents, leaf first.
fn presented(issued: &Issued) -> Vec<CertificateDer<'static>> {
    let pems = issued.chain_pems();
    pems[..pems.len() - 1].iter().map(|pem| der(pem)).collect()
}

/// A file of revocation lists: any bytes, or lists of the authority of which some bytes are changed. Only a list that
/// the authority has signed revokes anybody.
pub fn crl(data: &[u8]) {
    let mut input = Input::new(data);
    let (file, revoked) = match input.below(3) {
        0 => (input.rest().to_vec(), false),
        1 => (pem(input.rest()), false),
        _ => signed(&mut input),
    };
    let lists = match RevocationLists::parse(&file) {
        Ok(lists) => lists,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(lists.len() <= 256);
    let revocations = Arc::new(Revocations::default());
    let world = &*WORLD;
    let checker = world.ca.issue(&id("own")).checking(revocations.clone());
    let (leaf, rest) = world.presented.split_first().unwrap();
    checker.check_client(leaf, rest, UnixTime::now()).unwrap();
    let kept: Box<PeerChain> = checker.client_chain(world.presented.clone(), UnixTime::now()).unwrap();
    assert!(!kept.is_revoked() && kept.is_legible());
    revocations.replace(lists);
    let refused = checker.check_client(leaf, rest, UnixTime::now()).err();
    if let Some(error) = &refused {
        assert!(matches!(TlsFault::from(error), TlsFault::PeerRevoked), "{error}");
    }
    assert_eq!(refused.is_some(), kept.is_revoked());
    assert_eq!(refused.is_some(), revoked);
}

fn pem(der: &[u8]) -> Vec<u8> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let body = BASE64_STANDARD.encode(der);
    format!("-----BEGIN X509 CRL-----\n{body}\n-----END X509 CRL-----\n").into_bytes()
}

/// A list of the authority, and whether it revokes the peer. A list that is changed does not.
fn signed(input: &mut Input<'_>) -> (Vec<u8>, bool) {
    let level = input.below(2);
    let serials: Vec<u64> = (0..input.below(4)).map(|_| [LEAF, INTERMEDIATE, 5, 6][input.below(4)]).collect();
    let list = WORLD.ca.list(level, &serials);
    let mut bytes = list.der().to_vec();
    let revokes = serials.contains(&[INTERMEDIATE, LEAF][level]);
    let changed = change(input, &mut bytes);
    let is_pem = input.flip();
    (if is_pem { pem(&bytes) } else { bytes }, revokes && !changed)
}

/// Changes some bytes, or none. Returns whether it did.
fn change(input: &mut Input<'_>, bytes: &mut [u8]) -> bool {
    let before = bytes.to_vec();
    for _ in 0..input.below(3) {
        let (at, bits) = (input.below(bytes.len()), input.byte());
        bytes[at] ^= bits;
    }
    before != bytes
}

/// Certificates of a peer, and the answer of an authority. A certificate that is changed gets nobody in, and another
/// library reads the same names.
pub fn certificates(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(4) {
        0 => raw_chain(&mut input),
        1 => names(&mut input),
        2 => answer(&mut input),
        _ => changed_chain(&mut input),
    }
}

/// Certificates of any bytes, in any number.
fn raw_chain(input: &mut Input<'_>) {
    let mut certs = Vec::new();
    while !input.is_empty() && certs.len() < 300 {
        certs.push(match input.below(4) {
            0 => WORLD.presented[0].clone(),
            1 => WORLD.presented[1].clone(),
            _ => CertificateDer::from(input.bytes(1000).to_vec()),
        });
    }
    let Some((leaf, rest)) = certs.split_first() else { return };
    for result in [
        WORLD.own.check_client(leaf, rest, UnixTime::now()),
        WORLD.own.check_server(leaf, rest, &[id("peer")], UnixTime::now()),
    ] {
        match result {
            Ok(identity) => assert!(identity == id("peer") && *leaf == WORLD.presented[0]),
            Err(error) => assert!(!TlsFault::from(&error).to_string().is_empty()),
        }
    }
    let _ = WORLD.own.client_identity(&certs);
}

/// A leaf with any URI names. The peer is known by the first identity of the trust domain, or by none.
fn names(input: &mut Input<'_>) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for _ in 0..input.below(5) {
        let name =
            input.word(&["spiffe://cluster.local/ns/ns1/sa/peer", "spiffe://evil.local/ns/ns1/sa/peer", "x"]);
        if let Ok(name) = name.as_str().try_into() {
            params.subject_alt_names.push(SanType::URI(name));
        }
    }
    let issued = WORLD.ca.issue_params(params);
    let certs = presented(&issued);
    let (leaf, rest) = certs.split_first().unwrap();
    let (_, theirs) = parse_x509_certificate(leaf).unwrap();
    let uris: Vec<Identity> = match theirs.subject_alternative_name().unwrap() {
        Some(names) => names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => uri.parse().ok(),
                _ => None,
            })
            .collect(),
        None => Vec::new(),
    };
    let want = uris.iter().find(|id| id.trust_domain() == "cluster.local");
    let got = WORLD.own.check_client(leaf, rest, UnixTime::now());
    assert_eq!(got.as_ref().ok(), want);
    assert_eq!(WORLD.own.client_identity(&certs).as_ref(), want);
    let server = WORLD.own.check_server(leaf, rest, &[id("peer")], UnixTime::now());
    assert_eq!(server.is_ok(), uris.contains(&id("peer")));
    assert_eq!(WorkloadCert::server_identity(&certs, &[id("peer")]), server.ok());
}

/// An answer of the authority: any texts.
fn answer(input: &mut Input<'_>) {
    let genuine = WORLD.issued.chain_pems();
    let mut pems = Vec::new();
    for _ in 0..input.below(6) {
        pems.push(match input.below(5) {
            at @ 0..3 => genuine[at].clone(),
            3 => genuine.concat(),
            _ => input.text(1000),
        });
    }
    match Chain::parse(&pems, input.flip().then(|| id("peer")).as_ref()) {
        Ok(chain) => {
            assert_eq!(chain.identity, id("peer"));
            assert!(
                chain.intermediates.len() <= INTERMEDIATES_MAX
                    && (1..=ROOTS_MAX).contains(&chain.roots.len())
            );
            assert!(
                chain.leaf.not_before < chain.leaf.not_after && chain.leaf.serial.parse::<u128>().is_ok()
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A genuine chain of which some bytes are changed.
fn changed_chain(input: &mut Input<'_>) {
    let mut certs = WORLD.presented.clone();
    let mut changed = false;
    for cert in &mut certs {
        let mut bytes = cert.to_vec();
        changed |= change(input, &mut bytes);
        *cert = CertificateDer::from(bytes);
    }
    let (leaf, rest) = certs.split_first().unwrap();
    let result = WORLD.own.check_client(leaf, rest, UnixTime::now());
    assert_eq!(result.is_err(), changed, "{result:?}");
}

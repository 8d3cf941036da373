use std::{io, sync::Arc, time::Duration};

use proptest::prelude::*;
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig};
use rustls_pki_types::{CertificateDer, IpAddr, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{
    test_ca::{Issued, TestCa, seconds_from_now},
    *,
};
use crate::protocols::{
    ca::chain::Chain,
    config::{Compliance, TlsConfig},
    identity::Identity,
};

fn id(trust_domain: &str, account: &str) -> Identity {
    Identity::new(trust_domain, "default", account).unwrap()
}

fn web() -> Identity {
    id("cluster.local", "web")
}

fn db() -> Identity {
    id("cluster.local", "db")
}

type Ends = (client::TlsStream<tokio::io::DuplexStream>, server::TlsStream<tokio::io::DuplexStream>);

/// A handshake over a pipe. In TLS 1.3 the client is done before the server has looked at its certificate, so the
/// client's result includes what a first read says.
async fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> (io::Result<()>, io::Result<Ends>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let name = ServerName::IpAddress(IpAddr::try_from("192.0.2.1").unwrap());
    let dial = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        let mut byte = [0];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut byte).await?;
        Ok::<_, io::Error>(stream)
    };
    let accept = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"!").await?;
        tokio::io::AsyncWriteExt::flush(&mut stream).await?;
        Ok::<_, io::Error>(stream)
    };
    match tokio::join!(dial, accept) {
        (Ok(c), Ok(s)) => (Ok(()), Ok((c, s))),
        (Err(c), Ok(_)) => (Err(c), Err(io::Error::other("client failed"))),
        (c, Err(s)) => (c.map(drop), Err(s)),
    }
}

/// A handshake of two certificates. Without one, they must be found to go together just so.
async fn between(client: &WorkloadCert, server: &WorkloadCert, expected: &[Identity]) -> io::Result<Ends> {
    let (c, s) = shake(client.client_config(expected), server.server_config()).await;
    let seen = client.seen_by(server, expected, rustls_pki_types::UnixTime::now());
    if let (Ok(()), Ok((_, accepted))) = (&c, &s) {
        let presented = accepted.get_ref().1.peer_certificates().unwrap();
        assert_eq!(Some(seen.unwrap()), server.client_identity(presented));
    } else {
        let fault = [c.as_ref().err(), s.as_ref().err()].into_iter().flatten().find_map(|error| {
            let fault = TlsFault::of(error)?;
            use TlsFault::{PeerCertificate, PeerIdentity, PeerRevoked};
            matches!(fault, PeerIdentity(_) | PeerCertificate(_) | PeerRevoked).then_some(fault)
        });
        assert_eq!(fault.is_some(), seen.is_err(), "{fault:?}, {seen:?}");
    }
    match (c, s) {
        // Of the two, the one that was told why is not the one that refused.
        (Err(c), Err(s)) if matches!(TlsFault::of(&s), None | Some(TlsFault::PeerAlert(_))) => Err(c),
        (_, s) => s,
    }
}

fn fault(result: io::Result<Ends>) -> TlsFault {
    TlsFault::of(&result.map(drop).expect_err("handshake succeeded")).expect("no TLS error inside")
}

#[tokio::test]
async fn two_workloads_of_one_authority_know_each_other_after_the_handshake() {
    let ca = TestCa::new("root");
    let (c, s) = between(&ca.workload(&web()), &ca.workload(&db()), &[web(), db()]).await.unwrap();
    let (c, s) = (c.get_ref().1, s.get_ref().1);
    assert_eq!(WorkloadCert::server_identity(c.peer_certificates().unwrap(), &[web(), db()]), Some(db()));
    assert_eq!(ca.workload(&db()).client_identity(s.peer_certificates().unwrap()), Some(web()));
    assert_eq!(c.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(c.alpn_protocol(), Some(ALPN_H2));
    assert_eq!(c.negotiated_cipher_suite().unwrap().suite(), rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
    assert_eq!(c.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519);
    assert_eq!(s.server_name(), None, "no SNI is sent");
    assert_eq!(s.peer_certificates().unwrap().len(), 1, "the root stays at home");
}

#[tokio::test]
async fn the_configurations_serve_our_own_handshake_and_its_errors_keep_their_fault() {
    let ca = TestCa::new("root");
    let (c, s) = (ca.workload(&web()), ca.workload(&db()));
    for (expected, good) in [(db(), true), (web(), false)] {
        let (near, far) = tokio::io::duplex(64 << 10);
        let name = ServerName::IpAddress(IpAddr::try_from("192.0.2.1").unwrap());
        let dial = handshake::connect(c.client_config(&[expected]), name, near, buffer::Buffers::default());
        let accept = handshake::accept(s.server_config(), far, buffer::Buffers::default());
        match tokio::join!(dial, accept) {
            (Ok((_, far)), Ok((_, near))) if good => {
                assert_eq!(WorkloadCert::server_identity(&far.certificates, &[db()]), Some(db()));
                assert_eq!(s.client_identity(&near.certificates), Some(web()));
            }
            (Err(handshake::HandshakeError::Tls(e)), Err(_)) if !good => {
                assert!(matches!(TlsFault::from(&e), TlsFault::PeerIdentity(_)), "{e}");
            }
            (a, b) => panic!("{:?} {:?}", a.err(), b.err()),
        }
    }
}

#[tokio::test]
async fn nothing_is_resumed() {
    let ca = TestCa::new("root");
    let (c, s) = (ca.workload(&web()), ca.workload(&db()));
    let (client, server) = (c.client_config(&[db()]), s.server_config());
    for _ in 0..2 {
        let (_, ends) = shake(client.clone(), server.clone()).await;
        assert_eq!(ends.unwrap().1.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_server_of_another_name_is_refused_and_both_names_are_said() {
    let ca = TestCa::new("root");
    let (client, server) = (ca.workload(&web()), ca.workload(&db()));
    let refused = fault(between(&client, &server, &[web()]).await);
    assert!(matches!(refused, TlsFault::PeerIdentity(PeerFault::Identity { .. })), "{refused:?}");
    assert_eq!(refused.to_string(), format!("peer presents {}; expected {}", db(), web()));
    let refused = fault(between(&client, &server, &[]).await);
    assert_eq!(refused.to_string(), format!("peer presents {}; expected nobody", db()));
    let many: Vec<_> = (0..9).map(|n| id("cluster.local", &format!("sa{n}"))).collect();
    let refused = fault(between(&client, &server, &many).await).to_string();
    assert!(refused.ends_with("default/sa/sa3 and 5 more"), "{refused}");
}

#[tokio::test]
async fn a_client_of_another_trust_domain_is_refused() {
    let ca = TestCa::new("root");
    let stranger = ca.workload(&id("other.example", "web"));
    let refused = fault(between(&stranger, &ca.workload(&db()), &[db()]).await);
    assert_eq!(
        refused.to_string(),
        "peer presents spiffe://other.example/ns/default/sa/web; \
         only identities of trust domain \"cluster.local\" are accepted"
    );
    // Towards a server of another trust domain only the list of names counts.
    let far = ca.workload(&id("other.example", "db"));
    let client = ca.workload(&id("other.example", "web"));
    between(&client, &far, &[id("other.example", "db")]).await.unwrap();
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ca = TestCa::new("root");
    let config = ca.workload(&web()).client_config(&[db()]);
    let mut anonymous = ClientConfig::clone(&config);
    anonymous.client_auth_cert_resolver = Arc::new(NoCert);
    let (client, server) = shake(Arc::new(anonymous), ca.workload(&db()).server_config()).await;
    assert!(matches!(fault(server), TlsFault::PeerAnonymous));
    let told = TlsFault::of(&client.unwrap_err()).unwrap();
    assert!(matches!(told, TlsFault::PeerAlert(rustls::AlertDescription::CertificateRequired)), "{told:?}");
}

#[derive(Debug)]
struct NoCert;

impl rustls::client::ResolvesClientCert for NoCert {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn chains_are_held_against_every_root_and_through_every_intermediate() {
    let (one, two) = (TestCa::new("one"), TestCa::new("two").with_intermediate("a").with_intermediate("b"));
    let options = TlsConfig::default();
    let both = |ca: &TestCa, who: &Identity| ca.issue(who).trusting(&[&one, &two]).workload(&options);
    for (client, server) in [(&one, &two), (&two, &one), (&two, &two)] {
        between(&both(client, &web()), &both(server, &db()), &[db()]).await.unwrap();
    }
    // Roots of one side only: the other is unknown there.
    let narrow = one.workload(&db());
    let refused = fault(between(&both(&two, &web()), &narrow, &[db()]).await);
    assert!(
        matches!(refused, TlsFault::PeerCertificate(rustls::CertificateError::UnknownIssuer)),
        "{refused:?}"
    );
    let refused = fault(between(&one.workload(&web()), &both(&two, &db()), &[db()]).await);
    assert!(
        matches!(refused, TlsFault::PeerCertificate(rustls::CertificateError::UnknownIssuer)),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_root_of_the_same_name_and_another_key_vouches_for_nobody() {
    let (ours, forged) = (TestCa::new("root"), TestCa::new("root"));
    let stranger = forged.issue(&web()).trusting(&[&ours]).workload(&TlsConfig::default());
    let refused = fault(between(&stranger, &ours.workload(&db()), &[db()]).await);
    assert!(matches!(refused, TlsFault::PeerCertificate(_)), "{refused:?}");
}

#[tokio::test]
async fn times_and_purposes_are_held_to() {
    let good = TestCa::new("root").workload(&db());
    let lifetimes = [(-7_200, -3_600, "expired"), (3_600, 7_200, "not valid yet")];
    for (from, until, text) in lifetimes {
        let ca = TestCa::new("root").with_lifetime(seconds_from_now(from), seconds_from_now(until));
        let server = ca.issue(&db()).workload(&TlsConfig::default());
        let client = good_client_of(&ca);
        let refused = fault(between(&client, &server, &[db()]).await).to_string();
        assert!(refused.contains(text), "{text}: {refused}");
    }
    let ca = TestCa::new("root").with_usages(vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let refused = fault(between(&ca.workload(&web()), &ca.workload(&db()), &[db()]).await);
    assert!(
        matches!(refused, TlsFault::PeerCertificate(rustls::CertificateError::InvalidPurpose)),
        "{refused:?}"
    );
    let ca = TestCa::new("root").with_usages(vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let refused = fault(between(&ca.workload(&web()), &ca.workload(&db()), &[db()]).await);
    assert!(
        matches!(refused, TlsFault::PeerCertificate(rustls::CertificateError::InvalidPurpose)),
        "{refused:?}"
    );
    drop(good);
}

/// A sound client that trusts `ca`.
fn good_client_of(ca: &TestCa) -> WorkloadCert {
    TestCa::new("elsewhere").issue(&web()).trusting(&[ca]).workload(&TlsConfig::default())
}

#[tokio::test]
async fn the_name_that_was_admitted_is_the_identity_wherever_it_stands() {
    let ca = TestCa::new("root");
    let names = ["https://example.com/", "spiffe://other/ns/a/sa/b", web().as_str()].map(str::to_owned);
    let issued = ca.issue_names(&names.each_ref().map(String::as_str));
    let mixed = with_own_name(issued, &web());
    let server = ca.workload(&db());
    let (_, s) = between(&mixed, &server, &[db()]).await.unwrap();
    let presented = s.get_ref().1.peer_certificates().unwrap();
    assert_eq!(server.client_identity(presented), Some(web()), "not the first one, of another trust domain");
    between(&server, &mixed, &[web()]).await.unwrap();
    let other = id("other", "b");
    assert_eq!(WorkloadCert::server_identity(presented, &[other, web()]), Some(web()));
    assert_eq!(WorkloadCert::server_identity(presented, &[db()]), None);

    let mut params = CertificateParams::new(vec!["web.default.svc".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/default".try_into().unwrap()));
    let nobody = with_own_name(ca.issue_params(params), &web());
    let refused = fault(between(&ca.workload(&db()), &nobody, &[web()]).await).to_string();
    assert_eq!(refused, format!("peer presents spiffe://cluster.local/ns/default; expected {}", web()));
}

/// Certificates an authority of ours would never hand out, as a peer might have them.
fn with_own_name(issued: Issued, name: &Identity) -> WorkloadCert {
    let stand_in = TestCa::new("stand-in").issue(name);
    let mut chain = Chain::parse(&stand_in.chain_pems(), None).unwrap();
    let real: Vec<CertificateDer<'static>> = issued
        .chain_pems()
        .iter()
        .map(|p| rustls_pki_types::pem::PemObject::from_pem_slice(p.as_bytes()).unwrap())
        .collect();
    chain.leaf.der = real[0].clone();
    chain.roots[0].der = real[real.len() - 1].clone();
    WorkloadCert::new(chain, &issued.key, &TlsConfig::default()).unwrap()
}

#[tokio::test]
async fn post_quantum_only_and_tls12_are_what_they_say() {
    let ca = TestCa::new("root");
    let with = |who: &Identity, options: &TlsConfig| ca.issue(who).workload(options);
    let pqc = TlsConfig { compliance: Some(Compliance::Pqc), tls12: true, ..TlsConfig::default() };
    let (c, _) = between(&with(&web(), &pqc), &with(&db(), &pqc), &[db()]).await.unwrap();
    assert_eq!(c.get_ref().1.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(c.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    // A default client offers that group too.
    between(&ca.workload(&web()), &with(&db(), &pqc), &[db()]).await.unwrap();

    let both = TlsConfig { tls12: true, ..TlsConfig::default() };
    let issued = ca.issue(&db());
    let path = Chain::parse(&issued.chain_pems(), None).unwrap().leaf.der;
    let old = ServerConfig::builder_with_provider(options::provider(&both))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![path], issued.key.clone_key())
        .unwrap();
    let old = Arc::new(old);
    let (_, ends) = shake(with(&web(), &both).client_config(&[db()]), old.clone()).await;
    assert_eq!(ends.unwrap().0.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    let (_, ends) = shake(with(&web(), &both).client_config(&[web()]), old.clone()).await;
    ends.unwrap_err();
    let (_, ends) = shake(ca.workload(&web()).client_config(&[db()]), old).await;
    assert!(matches!(fault(ends), TlsFault::PeerProtocol(_)), "TLS 1.2 is off unless asked for");
}

#[test]
fn a_certificate_needs_its_own_key_and_a_root_that_is_one() {
    let ca = TestCa::new("root");
    let (mine, other) = (ca.issue(&web()), ca.issue(&web()));
    let chain = || Chain::parse(&mine.chain_pems(), Some(&web())).unwrap();
    let options = TlsConfig::default();
    let refused = WorkloadCert::new(chain(), &other.key, &options).unwrap_err();
    assert!(matches!(refused, CertificateError::OtherKey));
    let mut rootless = chain();
    rootless.roots[0].der = CertificateDer::from(vec![0x30, 0]);
    let refused = WorkloadCert::new(rootless.clone(), &mine.key, &options).unwrap_err();
    assert!(matches!(refused, CertificateError::Roots { count: 1, .. }), "{refused}");
    rootless.roots.push(chain().roots[0].clone());
    assert_eq!(WorkloadCert::new(rootless, &mine.key, &options).unwrap().unusable_roots(), 1);
}

#[test]
fn the_debug_text_names_the_certificate_and_hides_the_rest() {
    let cert = TestCa::new("root").workload(&web());
    let text = format!("{cert:?}");
    assert!(text.contains(web().as_str()) && text.contains(cert.serial()), "{text}");
    assert!(!text.contains("key") && !text.contains("BEGIN"), "{text}");
}

#[test]
fn validity_is_told_for_any_moment() {
    let (from, until) = (seconds_from_now(-100), seconds_from_now(100));
    let cert = TestCa::new("root").with_lifetime(from, until).workload(&web());
    let second = Duration::from_secs(1);
    assert!(cert.is_valid_at(from) && cert.is_valid_at(until - second));
    assert!(!cert.is_valid_at(from - second) && !cert.is_valid_at(until));
    assert!(!cert.is_expired_at(from - second));
    assert!(cert.expires_within(second * 100, until - second * 100));
    assert!(!cert.expires_within(second * 99, until - second * 100));
    assert!(cert.expires_within(Duration::MAX, from));
}

#[tokio::test]
async fn a_revoked_peer_is_refused_in_both_directions_and_others_are_not() {
    let (ca, plain, lists) = (TestCa::new("root"), TlsConfig::default(), Arc::<Revocations>::default());
    let good = ca.issue_numbered(&db(), 1).checking(lists.clone());
    let bad = ca.issue_numbered(&web(), 66).workload(&plain);
    // An old list still counts, and without the entry the peer is accepted again.
    for (serials, refuses) in [(vec![], false), (vec![66], true), (vec![67], false)] {
        lists.replace(RevocationLists::parse(ca.list(0, &serials).der()).unwrap());
        for result in [between(&bad, &good, &[db()]).await, between(&good, &bad, &[web()]).await] {
            if refuses {
                assert!(matches!(fault(result), TlsFault::PeerRevoked));
            } else {
                result.unwrap();
            }
        }
        between(&ca.issue_numbered(&web(), 2).workload(&plain), &good, &[db()]).await.unwrap();
    }
}

/// A certificate of a new CA of this name and the DER of another CA, which `issuer` names as its own.
fn junk_authority(subject: &str, issuer: &str) -> CertificateDer<'static> {
    let above = TestCa::new(issuer);
    let named = above.with_intermediate(subject);
    der(&named.issue(&web()).chain_pems()[1])
}

fn der(pem: &str) -> CertificateDer<'static> {
    rustls_pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap()
}

/// What either side says to a leaf with these intermediates.
fn verified(
    ca: &TestCa,
    leaf: &str,
    intermediates: &[CertificateDer<'static>],
) -> [Result<Identity, TlsFault>; 2] {
    let (own, leaf, now) = (ca.workload(&db()), der(leaf), rustls_pki_types::UnixTime::now());
    [
        own.check_client(&leaf, intermediates, now).map_err(|e| TlsFault::from(&e)),
        own.check_server(&leaf, intermediates, &[web()], now).map_err(|e| TlsFault::from(&e)),
    ]
}

#[test]
fn more_than_five_intermediates_are_refused_and_five_are_not() {
    let mut ca = TestCa::new("root");
    for n in 0..5 {
        ca = ca.with_intermediate(&format!("intermediate {n}"));
    }
    let pems = ca.issue(&web()).chain_pems();
    let mut path: Vec<_> = pems[1..6].iter().map(|pem| der(pem)).collect();
    for result in verified(&ca, &pems[0], &path) {
        assert_eq!(result.unwrap(), web());
    }
    path.push(path[0].clone());
    for result in verified(&ca, &pems[0], &path) {
        let refused = result.unwrap_err();
        assert!(
            matches!(refused, TlsFault::PeerIdentity(PeerFault::LongChain { count: 6, limit: 5 })),
            "{refused:?}"
        );
    }
}

#[test]
fn intermediates_that_form_many_chains_are_refused_before_any_is_verified() {
    let ca = TestCa::new("root");
    // Each names the root as its issuer and itself, so that all orders of all of them are chains.
    let stranger = TestCa::new("root").with_intermediate("root");
    let leaf = stranger.issue(&web()).chain_pems()[0].clone();
    let many: Vec<_> = (0..5).map(|_| junk_authority("root", "root")).collect();
    for result in verified(&ca, &leaf, &many) {
        let refused = result.unwrap_err();
        assert!(matches!(refused, TlsFault::PeerIdentity(PeerFault::ManyChains { limit: 8 })), "{refused:?}");
    }
    // Junk that is in no chain costs nothing and is ignored.
    let junk: Vec<_> = (0..4).map(|n| junk_authority(&format!("junk {n}"), "root")).collect();
    let genuine = TestCa::new("root").with_intermediate("real");
    let pems = genuine.issue(&web()).chain_pems();
    let path: Vec<_> = junk.iter().cloned().chain([der(&pems[1])]).collect();
    for result in verified(&genuine, &pems[0], &path) {
        assert_eq!(result.unwrap(), web());
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_for_signatures_is_refused_on_either_side() {
    for (usages, good) in [
        (vec![KeyUsagePurpose::KeyEncipherment], false),
        (vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment], true),
        // Without the extension any use is allowed.
        (vec![], true),
    ] {
        let ca = TestCa::new("root").with_key_usages(usages.clone());
        for result in verified(&ca, &ca.issue(&web()).leaf_pem, &[]) {
            match result {
                Ok(_) => assert!(good, "{usages:?}"),
                Err(why) => {
                    assert!(!good && matches!(why, TlsFault::PeerIdentity(PeerFault::KeyUsage)), "{why:?}")
                }
            }
        }
    }
}

thread_local! {
    static OWNER: WorkloadCert = TestCa::new("root").workload(&db());
}

proptest! {
    #[test]
    fn junk_in_place_of_a_certificate_names_nobody(junk in proptest::collection::vec(any::<u8>(), 0..256)) {
        prop_assert_eq!(OWNER.with(|owner| owner.client_identity(&[CertificateDer::from(junk)])), None);
    }

    #[test]
    fn a_damaged_certificate_never_panics(at in 0..400_usize, to in any::<u8>()) {
        thread_local!(static LEAF: Vec<u8> = {
            let cert = TestCa::new("root").workload(&web());
            cert.path().next().unwrap().der.to_vec()
        });
        let mut der = LEAF.with(Clone::clone);
        let at = at % der.len();
        der[at] = to;
        OWNER.with(|owner| drop(owner.client_identity(&[CertificateDer::from(der)])));
    }
}

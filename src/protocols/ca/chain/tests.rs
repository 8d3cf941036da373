use super::*;
use crate::protocols::tls::test_ca::TestCa;

fn web() -> Identity {
    Identity::new("cluster.local", "default", "web").unwrap()
}

#[test]
fn an_answer_is_taken_apart() {
    let ca = TestCa::new("root").with_intermediate("middle");
    let issued = ca.issue(&web());
    let mut pems = issued.chain_pems();
    pems.last_mut().unwrap().push_str(&TestCa::new("second").root_pem());
    let chain = Chain::parse(&pems, Some(&web())).unwrap();
    assert_eq!(chain.identity, web());
    assert_eq!((chain.intermediates.len(), chain.roots.len()), (1, 2));
    assert_eq!(*chain.intermediates[0].pem, pems[1].replace("\r\n", "\n"), "the text is kept for the dump");
    assert!(chain.leaf.serial.bytes().all(|b| b.is_ascii_digit()), "{}", chain.leaf.serial);
    assert_eq!(chain.leaf.not_before, issued.not_before);
    assert_eq!(chain.leaf.not_after, issued.not_after);
    assert_eq!(Chain::parse(&pems, None).unwrap().identity, web());
}

#[test]
fn faulty_answers_are_refused_by_name() {
    let good = TestCa::new("root").with_intermediate("middle").issue(&web()).chain_pems();
    let with = |at: usize, text: &str| {
        let mut pems = good.clone();
        pems[at] = text.into();
        pems
    };
    let cut = good[0][..good[0].len() / 2].to_owned();
    let not_x509 = format!("{BEGIN}\nAAAA\n{END}\n");
    let other = TestCa::new("root").issue(&Identity::new("cluster.local", "default", "db").unwrap());
    let nameless = TestCa::new("root").issue_names(&[]);
    let odd = TestCa::new("root").issue_names(&["https://example.com/"]);
    let many = vec![good[1].clone(); INTERMEDIATES_MAX + 1];
    let too_long = [&good[..1], &many, &good[2..]].concat();
    let cases: Vec<(&str, Vec<String>, &str)> = vec![
        ("empty", vec![], "the chain is empty"),
        ("no root", good[..1].to_vec(), "no root"),
        ("leaf is no PEM", with(0, "hello"), "element 0 of the chain holds no certificate"),
        ("leaf is empty", with(0, ""), "element 0 of the chain holds no certificate"),
        ("leaf is cut off", with(0, &cut), "element 0 of the chain holds no certificate"),
        ("intermediate is no PEM", with(1, "x"), "element 1 of the chain holds no certificate"),
        ("root is no PEM", with(2, "x"), "element 2 of the chain holds no certificate"),
        ("root is no X.509", with(2, &not_x509), "element 2 of the chain is no X.509 certificate"),
        ("leaf is no X.509", with(0, &not_x509), "element 0 of the chain is no X.509 certificate"),
        ("other identity", other.chain_pems(), "for spiffe://cluster.local/ns/default/sa/db, spiffe://"),
        ("no name", nameless.chain_pems(), "has no URI name, spiffe://cluster.local/ns/default/sa/web"),
        ("odd name", odd.chain_pems(), "for https://example.com/"),
        ("too long", too_long, "17 intermediates, at most 16"),
    ];
    for (what, pems, text) in cases {
        let error = Chain::parse(&pems, Some(&web())).expect_err(what).to_string();
        assert!(error.contains(text), "{what}: {error}");
    }
    assert!(matches!(Chain::parse(&odd.chain_pems(), None), Err(ChainError::Name(_))));
}

#[test]
fn text_around_the_certificates_is_ignored() {
    let mut pems = TestCa::new("root").issue(&web()).chain_pems();
    pems[1] = format!("# our root\n{}# the end\n", pems[1]);
    assert_eq!(Chain::parse(&pems, Some(&web())).unwrap().roots.len(), 1);
}

proptest::proptest! {
    #[test]
    fn garbage_never_panics(pems in proptest::collection::vec(".{0,200}", 0..4), der in proptest::collection::vec(0u8.., 0..64)) {
        let _ = Chain::parse(&pems, None);
        let _ = name(&CertificateDer::from(der), None);
    }
}

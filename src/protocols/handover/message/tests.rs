//! Messages come out of their bytes as they were, and peers that are of no use are named.

use proptest::prelude::*;

use super::*;
use crate::protocols::{
    handover::{record::tests::record, tunnel::tests::tunnel},
    tls::aead::Cipher,
};

#[test]
fn a_message_comes_out_of_its_bytes_as_it_was() {
    let hello = Hello::new("1.2.3", "one");
    assert_eq!(Message::decode(&encode_hello(&hello)), Ok(Message::Hello(hello)));
    let offered = record(Kind::Local);
    let decoded = Message::decode(&encode_record(9, offered.clone()));
    assert_eq!(decoded, Ok(Message::Record(9, Ok(Box::new(offered)))));
    let offered = tunnel(Kind::InboundTunnel, true, Cipher::Aes256);
    let decoded = Message::decode(&encode_tunnel(9, offered.clone()));
    assert_eq!(decoded, Ok(Message::Tunnel(9, Ok(Box::new(offered)))));
    for taken in [Ok(()), Err("no such pod".to_owned())] {
        let verdict = Verdict { number: 4, taken };
        assert_eq!(Message::decode(&encode_verdict(&verdict)), Ok(Message::Verdict(verdict)));
    }
    let long = Verdict { number: 4, taken: Err("ä".repeat(MAX_REASON)) };
    let Ok(Message::Verdict(cut)) = Message::decode(&encode_verdict(&long)) else { panic!("no verdict") };
    assert_eq!(cut.taken, Err("ä".repeat(MAX_REASON / 2)));
}

#[test]
fn a_record_that_cannot_be_taken_keeps_its_number() {
    let mut broken = record(Kind::Outbound).encode(5);
    broken.kind = 77;
    let decoded = Message::decode(&encode(pb::message::Body::Record(broken)));
    assert_eq!(decoded, Ok(Message::Record(5, Err(BadRecord::Kind(77)))));
}

#[test]
fn a_process_that_says_nothing_of_kinds_takes_those_without_tunnels() {
    let hello = |takes: &[i32]| {
        let hello = pb::Hello { protocol: PROTOCOL, takes: takes.to_vec(), ..Default::default() };
        let Ok(Message::Hello(hello)) = Message::decode(&encode(pb::message::Body::Hello(hello))) else {
            panic!("no greeting")
        };
        hello.takes
    };
    assert_eq!(hello(&[]), Kind::PLAIN);
    assert_eq!(hello(&[3, 5, 99]), [Kind::Local, Kind::InboundTunnel]);
    assert_eq!(Hello::new("1", "own").takes, Kind::ALL);
}

#[test]
fn a_peer_of_another_version_or_the_process_itself_is_refused() {
    let own = Hello::new("1", "own");
    assert_eq!(Hello::new("2", "other").check(&own), Ok(()));
    assert_eq!(Hello::new("1", "own").check(&own), Err(BadMessage::Own));
    let newer = Hello { protocol: PROTOCOL + 1, ..Hello::new("3", "newer") };
    assert_eq!(newer.check(&own), Err(BadMessage::Version(PROTOCOL + 1)));
    assert_eq!(Message::decode(&[]), Err(BadMessage::Unknown));
    assert!(matches!(Message::decode(&[0xff]), Err(BadMessage::Undecodable(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::decode(&bytes);
    }

    #[test]
    fn a_changed_byte_is_a_message_or_an_error(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = encode_record(1, record(Kind::Local));
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = Message::decode(&bytes);
    }
}

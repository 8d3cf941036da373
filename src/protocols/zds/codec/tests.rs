use proptest::prelude::*;

use super::*;

fn info() -> PodInfo {
    PodInfo { name: "web-1".into(), namespace: "shop".into(), service_account: "web".into() }
}

#[test]
fn packets_have_the_numbers_of_the_contract() {
    assert_eq!(encode_hello(), [0x08, 0x01]);
    assert_eq!(encode_answer(&Answer::Done), [0x0a, 0x00]);
    assert_eq!(encode_answer(&Answer::Refused("no".into())), [0x0a, 4, 0x0a, 2, b'n', b'o']);
    assert_eq!(encode_request(&Request::Keep { uid: "a".into() }), [0x2a, 3, 0x0a, 1, b'a']);
    assert_eq!(encode_request(&Request::Del { uid: "a".into() }), [0x12, 3, 0x12, 1, b'a']);
    assert_eq!(encode_request(&Request::SnapshotSent), [0x1a, 0]);
    let add = [0x0a, 14, 0x0a, 1, b'u', 0x12, 9, 0x0a, 1, b'n', 0x12, 1, b's', 0x1a, 1, b'a'];
    let info = PodInfo { name: "n".into(), namespace: "s".into(), service_account: "a".into() };
    assert_eq!(decode_request(&add), Ok(Request::Add { uid: "u".into(), info: Some(info) }));
}

#[test]
fn requests_come_back_as_they_were() {
    for request in [
        Request::Add { uid: "u1".into(), info: Some(info()) },
        Request::Add { uid: "u1".into(), info: None },
        Request::Keep { uid: "u1".into() },
        Request::Del { uid: "u1".into() },
        Request::SnapshotSent,
    ] {
        assert_eq!(decode_request(&encode_request(&request)), Ok(request));
    }
}

#[test]
fn what_is_no_message_is_refused() {
    assert_eq!(decode_request(&[]), Err(CodecError::PeerNoPayload));
    assert_eq!(decode_request(&[0x22, 0]), Err(CodecError::PeerNoPayload), "an unknown kind");
    assert!(matches!(decode_request(&[0x0a, 9, 1]), Err(CodecError::PeerMalformed(_))));
    assert!(matches!(decode_request(&[0x0a, 3, 0x0a, 1, 0xff]), Err(CodecError::PeerMalformed(_))));
    assert_eq!(decode_hello(&[]), Err(CodecError::PeerVersion(0)));
    assert_eq!(decode_hello(&[0x08, 0x02]), Err(CodecError::PeerVersion(2)));
    assert_eq!(decode_hello(&[0x08, 0x01]), Ok(()));
}

#[test]
fn a_refusal_never_reads_as_success_and_fills_no_packet() {
    for text in ["", "x", &"x".repeat(ZDS_TEXT_BYTES), &"x".repeat(5000), &"\u{1F980}".repeat(5000)] {
        let packet = encode_answer(&Answer::Refused(text.to_owned()));
        assert!(packet.len() < ZDS_PACKET_BYTES, "{} bytes", packet.len());
        assert!(matches!(decode_answer(&packet), Ok(Answer::Refused(_))));
    }
    assert_eq!(
        encode_answer(&Answer::Refused("x".repeat(5000))).len(),
        ZDS_PACKET_BYTES - 1,
        "no byte is wasted"
    );
}

proptest! {
    #[test]
    fn any_refusal_is_cut_to_a_prefix_below_the_limit(text in ".{1,1200}") {
        let packet = encode_answer(&Answer::Refused(text.clone()));
        prop_assert!(packet.len() < ZDS_PACKET_BYTES);
        let Ok(Answer::Refused(got)) = decode_answer(&packet) else { panic!("no refusal") };
        prop_assert!(text.starts_with(&got) && !got.is_empty());
        prop_assert!(got == text || text.len() > ZDS_TEXT_BYTES);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode_request(&bytes);
        let _ = decode_answer(&bytes);
        let _ = decode_hello(&bytes);
    }
}

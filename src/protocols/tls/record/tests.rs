use super::*;
use proptest::prelude::*;

fn pair(version: Version, bits: usize) -> (Protection, Protection) {
    let make = || {
        let (cipher, len) = if bits == 128 { (Cipher::Aes128, 32) } else { (Cipher::Aes256, 48) };
        let source = match version {
            Version::Tls12 => {
                KeySource::Fixed { key: SecretBytes::new(&vec![7; bits / 8]), salt: [9; SALT_LEN] }
            }
            Version::Tls13 => KeySource::Traffic(SecretBytes::new(&vec![7; len])),
        };
        Protection::of(DirectionKeys { cipher, source, sequence: 0 }).unwrap()
    };
    (make(), make())
}

proptest! {
    #[test]
    fn what_is_sealed_opens_again(
        head in proptest::collection::vec(any::<u8>(), 0..64),
        tail in proptest::collection::vec(any::<u8>(), 1..MAX_FRAGMENT - 64),
        tls13 in any::<bool>(), wide in any::<bool>(), content in ALERT..=DATA,
    ) {
        let version = if tls13 { Version::Tls13 } else { Version::Tls12 };
        let (mut seal, mut open) = pair(version, if wide { 256 } else { 128 });
        let mut both = pair(version, if wide { 256 } else { 128 }).0;
        let want: Vec<u8> = head.iter().chain(&tail).copied().collect();
        for _ in 0..3 {
            let mut out = vec![0; want.len() + OVERHEAD];
            let len = seal.seal(content, &head, &tail, &mut out).unwrap();
            out.truncate(len);
            // The one-piece way gives the same bytes.
            let mut again = vec![0; want.len() + OVERHEAD];
            let len = both.seal(content, &[], &want, &mut again).unwrap();
            prop_assert_eq!(&again[..len], &out[..]);
            let record = RecordHead::peek(&out).unwrap().unwrap();
            prop_assert_eq!(record.record_len(), out.len());
            let opened = open.open(&mut out).unwrap();
            prop_assert_eq!(opened.content, content);
            prop_assert_eq!(&out[opened.start..opened.start + opened.len], &want[..]);
        }
    }

    #[test]
    fn a_flipped_bit_never_opens(at in 0usize..60, bit in 0u8..8) {
        for version in [Version::Tls12, Version::Tls13] {
            let (mut seal, mut open) = pair(version, 256);
            let mut out = vec![0; 200];
            let len = seal.seal(DATA, &[], &[1; 48], &mut out).unwrap();
            out.truncate(len);
            // The version bytes of TLS 1.2 are replaced by ours in the additional data, lengths are checked before.
            if let Some(byte) = out.get_mut(at).filter(|_| !(1..5).contains(&at)) {
                *byte ^= 1 << bit;
                prop_assert_eq!(open.open(&mut out).unwrap_err(), RecordError::PeerBadRecord);
            }
        }
    }
}

#[test]
fn lengths_beyond_the_protocol_are_refused() {
    for (len, ok) in [(16u16, false), (17, true), (16_640, true), (16_641, false), (u16::MAX, false)] {
        let [high, low] = len.to_be_bytes();
        assert_eq!(RecordHead::peek(&[23, 3, 3, high, low]).is_ok(), ok, "{len}");
    }
    assert_eq!(RecordHead::peek(&[23, 3, 3, 0]), Ok(None));
}

#[test]
fn a_record_of_padding_only_is_malformed() {
    let (mut seal, mut open) = pair(Version::Tls13, 256);
    let mut out = vec![0; 100];
    // Content type 0 with zero text: nothing but padding after opening.
    let len = seal.seal(0, &[], &[0; 8], &mut out).unwrap();
    out.truncate(len);
    assert_eq!(open.open(&mut out).unwrap_err(), RecordError::PeerMalformed);
}

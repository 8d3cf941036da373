use super::*;

fn keys(cipher: Cipher) -> Vec<Key> {
    let bytes: Vec<u8> = (0..if cipher == Cipher::Aes128 { 16 } else { 32 }).collect();
    vec![
        Key::new(cipher, &bytes).unwrap(),
        Key::aws(cipher, &bytes).unwrap(),
        #[cfg(target_arch = "x86_64")]
        Key::ring(cipher, &bytes).unwrap(),
    ]
}

#[test]
fn both_libraries_make_the_same_of_a_text_and_open_what_the_other_sealed() {
    for cipher in [Cipher::Aes128, Cipher::Aes256] {
        for len in [0, 1, 15, 16, 17, 255, 4096, 16_384] {
            let plain: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let sealed: Vec<Vec<u8>> = keys(cipher)
                .iter()
                .map(|key| {
                    let (mut text, mut tag) = (plain.clone(), [0; TAG_LEN]);
                    key.seal([3; 12], b"head", &mut text, &mut tag).unwrap();
                    [text, tag.to_vec()].concat()
                })
                .collect();
            assert!(sealed.windows(2).all(|pair| pair[0] == pair[1]), "{cipher:?}, {len} bytes");
            for key in keys(cipher) {
                let mut bytes = sealed[0].clone();
                assert_eq!(key.open([3; 12], b"head", &mut bytes).unwrap(), &plain[..]);
                assert!(key.open([3; 12], b"Head", &mut sealed[0].clone()).is_none());
                assert!(key.open([4; 12], b"head", &mut sealed[0].clone()).is_none());
            }
        }
    }
}

#[test]
fn a_key_of_the_wrong_length_is_none() {
    assert!(Key::new(Cipher::Aes256, &[1; 16]).is_none() && Key::new(Cipher::Aes128, &[1; 32]).is_none());
    assert!(keys(Cipher::Aes128)[1].seal([0; 12], &[], &mut [], &mut [0; 15]).is_none());
}

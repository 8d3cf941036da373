use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The handshake of RFC 8448 section 3, whose cipher is AES-128-GCM with SHA-256.
#[test]
fn keys_are_those_of_the_published_handshake() {
    let secrets = [
        (
            "9e 40 64 6c e7 9a 7f 9d c0 5a f8 88 9b ce 65 52 87 5a fa 0b 06 df 00 87 f7 92 eb b7 c1 75 04 a5",
            "17 42 2d da 59 6e d5 d9 ac d8 90 e3 c6 3f 50 51",
            "5b 78 92 3d ee 08 57 90 33 e5 23 d9",
        ),
        (
            "a1 1a f9 f0 55 31 f8 56 ad 47 11 6b 45 a9 50 32 82 04 b4 f4 4b fb 6b 3a 4b 4f 1f 3f cb 63 16 43",
            "9f 02 28 3b 6c 9c 07 ef c2 6b b9 f2 ac 92 e3 56",
            "cf 78 2b 88 dd 83 54 9a ad f1 e9 84",
        ),
    ];
    for (secret, key, iv) in secrets {
        let source = KeySource::Traffic(SecretBytes::new(&bytes(secret)));
        let (made, made_iv) = source.key(Cipher::Aes128).unwrap();
        assert_eq!((made.expose(), &made_iv[..]), (&bytes(key)[..], &bytes(iv)[..]));
    }
}

#[test]
fn a_secret_of_another_length_makes_no_key() {
    for (cipher, len) in [(Cipher::Aes128, 48), (Cipher::Aes256, 32), (Cipher::Aes256, 0)] {
        let source = KeySource::Traffic(SecretBytes::new(&vec![1; len]));
        assert!(source.key(cipher).is_none() && source.next(cipher).is_none(), "{cipher:?} {len}");
    }
    let fixed = KeySource::Fixed { key: SecretBytes::new(&[1; 16]), salt: [2; 4] };
    assert!(fixed.next(Cipher::Aes128).is_none());
}

#[test]
fn debug_shows_no_secret() {
    let secret = SecretBytes::new(&[0xab; 32]);
    let source = KeySource::Traffic(secret.clone());
    let keys = DirectionKeys { cipher: Cipher::Aes128, source, sequence: 7 };
    let heard = Heard::default();
    heard.log(CLIENT_SECRET, &[], secret.expose());
    let shown = format!("{secret:?} {keys:?} {heard:?}");
    assert!(!shown.contains("171") && !shown.contains("ab, "), "{shown}");
    assert_eq!(heard.take().client, Some(secret));
}

#[test]
fn only_the_first_traffic_secrets_are_heard() {
    let heard = Heard::default();
    for label in ["CLIENT_RANDOM", "EXPORTER_SECRET", "CLIENT_HANDSHAKE_TRAFFIC_SECRET"] {
        assert!(!heard.will_log(label), "{label}");
        heard.log(label, &[], &[1]);
    }
    let FirstSecrets { client, server } = heard.take();
    assert!(client.is_none() && server.is_none());
}

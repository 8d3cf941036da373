//! The secrets of a TLS session, in memory that is wiped, and what is made of them (RFC 8446 section 7).

use std::fmt;

use aws_lc_rs::hkdf::{self, KeyType};
use parking_lot::Mutex;
use rustls::KeyLog;
use zeroize::Zeroizing;

use super::aead::Cipher;

/// The length of the IV of a direction.
/// No limit: a length that AES-GCM fixes.
pub(crate) const IV_LEN: usize = 12;
/// The length of the part of a nonce of TLS 1.2 that no record carries.
/// No limit: a length that TLS fixes.
pub(crate) const SALT_LEN: usize = 4;

/// Bytes that are wiped when they are dropped. `Debug` shows their number alone.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretBytes(Zeroizing<Box<[u8]>>);

/// What the key of a direction is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// TLS 1.3: the traffic secret. The key, the IV and the next secret are made of it.
    Traffic(SecretBytes),
    /// TLS 1.2: the key, and the part of each nonce that no record carries.
    Fixed {
        /// The key of the cipher.
        key: SecretBytes,
        /// The part of the nonce.
        salt: [u8; SALT_LEN],
    },
}

/// The keys of one direction as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DirectionKeys {
    /// The cipher.
    pub(crate) cipher: Cipher,
    /// What the key is made of.
    pub(crate) source: KeySource,
    /// The number of records that were sealed or opened with the key.
    pub(crate) sequence: u64,
}

/// Hears the first traffic secrets of one handshake of TLS 1.3. They are in no log.
#[derive(Default)]
pub(super) struct Heard(Mutex<FirstSecrets>);

/// The first traffic secrets of a session of TLS 1.3.
#[derive(Default)]
pub(super) struct FirstSecrets {
    /// That of what the client sends.
    pub(super) client: Option<SecretBytes>,
    /// That of what the server sends.
    pub(super) server: Option<SecretBytes>,
}

const CLIENT_SECRET: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER_SECRET: &str = "SERVER_TRAFFIC_SECRET_0";

// === impl SecretBytes ===

impl SecretBytes {
    /// Copies `bytes`.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes, for whoever needs the secret itself.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({})", self.0.len())
    }
}

// === impl KeySource ===

impl KeySource {
    /// The key and the IV of a direction, or `None` if the lengths do not fit the cipher.
    pub(super) fn key(&self, cipher: Cipher) -> Option<(SecretBytes, [u8; IV_LEN])> {
        let mut iv = [0; IV_LEN];
        match self {
            Self::Fixed { key, salt } => {
                iv.iter_mut().zip(salt).for_each(|(to, from)| *to = *from);
                Some((key.clone(), iv))
            }
            Self::Traffic(secret) => {
                let key = expand(cipher, secret, "key", cipher.key_len())?;
                let made = expand(cipher, secret, "iv", IV_LEN)?;
                iv.iter_mut().zip(made.expose()).for_each(|(to, from)| *to = *from);
                Some((key, iv))
            }
        }
    }

    /// The source of the next key. TLS 1.2 has none.
    pub(super) fn next(&self, cipher: Cipher) -> Option<Self> {
        match self {
            Self::Fixed { .. } => None,
            Self::Traffic(secret) => {
                expand(cipher, secret, "traffic upd", cipher.secret_len()).map(Self::Traffic)
            }
        }
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 section 7.1). `None`: the secret is not of the cipher's hash.
fn expand(cipher: Cipher, secret: &SecretBytes, label: &str, len: usize) -> Option<SecretBytes> {
    struct Length(usize);

    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }

    if secret.expose().len() != cipher.secret_len() {
        return None;
    }
    let hash = match cipher {
        Cipher::Aes128 => hkdf::HKDF_SHA256,
        Cipher::Aes256 => hkdf::HKDF_SHA384,
    };
    let of = u16::try_from(len).ok()?.to_be_bytes();
    let label_len = [u8::try_from("tls13 ".len() + label.len()).ok()?];
    let info = [&of[..], &label_len, b"tls13 ", label.as_bytes(), &[0]];
    let mut made = Zeroizing::new(vec![0; len].into_boxed_slice());
    let prk = hkdf::Prk::new_less_safe(hash, secret.expose());
    prk.expand(&info, Length(len)).ok()?.fill(&mut made).ok()?;
    Some(SecretBytes(made))
}

// === impl Heard ===

impl Heard {
    /// The secrets, once a handshake of TLS 1.3 is complete.
    pub(super) fn take(&self) -> FirstSecrets {
        std::mem::take(&mut self.0.lock())
    }
}

impl KeyLog for Heard {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        let mut heard = self.0.lock();
        match label {
            CLIENT_SECRET => heard.client = Some(SecretBytes::new(secret)),
            SERVER_SECRET => heard.server = Some(SecretBytes::new(secret)),
            _ => {}
        }
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT_SECRET | SERVER_SECRET)
    }
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heard").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

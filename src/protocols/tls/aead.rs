//! AES-GCM from the library that is faster on this processor.
//!
//! aws-lc is faster with the vector instructions of AVX-512 and on other architectures than x86-64. ring is faster on
//! processors with vector AES but without AVX-512, such as AMD's Zen 3 and many virtual machines. There ring takes
//! 2.4 µs for a record of 16 KiB, and aws-lc takes 4.3 µs.

use aws_lc_rs::aead as aws;
#[cfg(target_arch = "x86_64")]
use ring::aead as ring;

/// Length of the tag behind the ciphertext in bytes.
/// No limit: a length that AES-GCM fixes.
pub(super) const TAG_LEN: usize = 16;

/// The ciphers that are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cipher {
    /// AES-128-GCM.
    Aes128,
    /// AES-256-GCM.
    Aes256,
}

/// A key. The caller must never use a nonce twice with one key.
#[allow(clippy::large_enum_variant, reason = "the larger is the one in use, twice a tunnel")]
pub(super) enum Key {
    /// A key of aws-lc.
    Aws(aws::LessSafeKey),
    /// A key of ring.
    #[cfg(target_arch = "x86_64")]
    Ring(ring::LessSafeKey),
}

// === impl Cipher ===

impl Cipher {
    /// The length of a key in bytes.
    pub(super) fn key_len(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes256 => 32,
        }
    }

    /// The length of a traffic secret of TLS 1.3 in bytes, which is that of the suite's hash.
    pub(super) fn secret_len(self) -> usize {
        match self {
            Self::Aes128 => 32,
            Self::Aes256 => 48,
        }
    }
}

// === impl Key ===

impl Key {
    /// Makes a key of `bytes`. The result is `None` if the length does not fit the cipher.
    pub(super) fn new(cipher: Cipher, bytes: &[u8]) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if ring_is_faster() {
            return Self::ring(cipher, bytes);
        }
        Self::aws(cipher, bytes)
    }

    pub(super) fn aws(cipher: Cipher, bytes: &[u8]) -> Option<Self> {
        let algorithm = match cipher {
            Cipher::Aes128 => &aws::AES_128_GCM,
            Cipher::Aes256 => &aws::AES_256_GCM,
        };
        aws::UnboundKey::new(algorithm, bytes).ok().map(|key| Self::Aws(aws::LessSafeKey::new(key)))
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn ring(cipher: Cipher, bytes: &[u8]) -> Option<Self> {
        let algorithm = match cipher {
            Cipher::Aes128 => &ring::AES_128_GCM,
            Cipher::Aes256 => &ring::AES_256_GCM,
        };
        ring::UnboundKey::new(algorithm, bytes).ok().map(|key| Self::Ring(ring::LessSafeKey::new(key)))
    }

    /// Encrypts `text` in place and writes the tag. The result is `None` if the text is too long or if the length of
    /// `tag` is not [`TAG_LEN`].
    pub(super) fn seal(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8], tag: &mut [u8]) -> Option<()> {
        let tag: &mut [u8; TAG_LEN] = tag.try_into().ok()?;
        match self {
            Self::Aws(key) => {
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                let made = key.seal_in_place_separate_tag(nonce, aws::Aad::from(aad), text).ok()?;
                *tag = made.as_ref().try_into().ok()?;
            }
            #[cfg(target_arch = "x86_64")]
            Self::Ring(key) => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                let made = key.seal_in_place_separate_tag(nonce, ring::Aad::from(aad), text).ok()?;
                *tag = made.as_ref().try_into().ok()?;
            }
        }
        Some(())
    }

    /// Decrypts `sealed`, which ends in the tag, in place and returns the text. The result is `None` if `sealed` is not
    /// authentic.
    pub(super) fn open<'a>(&self, nonce: [u8; 12], aad: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        match self {
            Self::Aws(key) => {
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, aws::Aad::from(aad), sealed).ok()
            }
            #[cfg(target_arch = "x86_64")]
            Self::Ring(key) => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, ring::Aad::from(aad), sealed).ok()
            }
        }
    }
}

/// Whether this processor has the instructions that ring uses and lacks those that aws-lc would use. The standard
/// library caches the answer.
#[cfg(target_arch = "x86_64")]
fn ring_is_faster() -> bool {
    use std::arch::is_x86_feature_detected as has;
    let vectors = has!("avx2") && has!("vaes") && has!("vpclmulqdq");
    vectors && !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl"))
}

#[cfg(test)]
mod tests;

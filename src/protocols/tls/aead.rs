//! AES-GCM from the library that is fastest at it on this processor.
//!
//! aws-lc is, with the vector instructions of AVX-512 and on other architectures than x86-64. On processors that have
//! vector AES but not AVX-512, as AMD's Zen 3 and many virtual machines, ring is: 2.4 µs a record of 16 KiB against 4.3.

use aws_lc_rs::aead as aws;
#[cfg(target_arch = "x86_64")]
use ring::aead as ring;

/// Length of the tag behind the ciphertext in bytes.
/// No limit: a length that AES-GCM fixes.
pub(super) const TAG_LEN: usize = 16;

/// Which cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cipher {
    /// AES-128-GCM.
    Aes128,
    /// AES-256-GCM.
    Aes256,
}

/// A key. Whoever uses it never uses a nonce twice.
#[allow(clippy::large_enum_variant, reason = "the larger is the one in use, twice a tunnel")]
pub(super) enum Key {
    /// Used by aws-lc.
    Aws(aws::LessSafeKey),
    /// Used by ring.
    #[cfg(target_arch = "x86_64")]
    Ring(ring::LessSafeKey),
}

// === impl Key ===

impl Key {
    /// The key of these bytes; nothing if there are too many or too few.
    pub(super) fn new(cipher: Cipher, bytes: &[u8]) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if ring_is_faster() {
            return Self::ring(cipher, bytes);
        }
        Self::aws(cipher, bytes)
    }

    fn aws(cipher: Cipher, bytes: &[u8]) -> Option<Self> {
        let algorithm = match cipher {
            Cipher::Aes128 => &aws::AES_128_GCM,
            Cipher::Aes256 => &aws::AES_256_GCM,
        };
        aws::UnboundKey::new(algorithm, bytes).ok().map(|key| Self::Aws(aws::LessSafeKey::new(key)))
    }

    #[cfg(target_arch = "x86_64")]
    fn ring(cipher: Cipher, bytes: &[u8]) -> Option<Self> {
        let algorithm = match cipher {
            Cipher::Aes128 => &ring::AES_128_GCM,
            Cipher::Aes256 => &ring::AES_256_GCM,
        };
        ring::UnboundKey::new(algorithm, bytes).ok().map(|key| Self::Ring(ring::LessSafeKey::new(key)))
    }

    /// Encrypts `text` where it lies and writes the tag. Nothing if the text is too long, or `tag` not of [`TAG_LEN`].
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

    /// Decrypts `sealed`, the tag at its end, where it lies, and returns the text. Nothing if it is not authentic.
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

/// Whether this processor has what ring uses and lacks what aws-lc would use. Looked up, not asked, after the first time.
#[cfg(target_arch = "x86_64")]
fn ring_is_faster() -> bool {
    use std::arch::is_x86_feature_detected as has;
    let vectors = has!("avx2") && has!("vaes") && has!("vpclmulqdq");
    vectors && !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl"))
}

#[cfg(test)]
mod tests;

//! Record protection of established TLS connections (RFC 8446 section 5, RFC 5288 for TLS 1.2).
//!
//! rustls makes the handshake and hands over the traffic keys. This module seals and opens records in buffers of this
//! crate. That saves the copy and the allocation that the byte interface of rustls costs for each record.

use rustls::ConnectionTrafficSecrets;

use super::{
    aead::{Cipher, Key, TAG_LEN},
    buffer::copy,
    keys::{DirectionKeys, IV_LEN, KeySource, SALT_LEN, SecretBytes},
};

/// Most plaintext bytes in a record.
/// Limit: plain bytes of a TLS record: 16,384; past it: the connection ends.
pub(crate) const MAX_FRAGMENT: usize = 16_384;
/// Bytes before the protected part of a record.
/// No limit: a length that TLS fixes.
pub(crate) const HEADER_LEN: usize = 5;
/// Most bytes that protection adds to a fragment: header, explicit nonce or content type, and tag.
/// No limit: a length that TLS fixes.
pub(crate) const OVERHEAD: usize = HEADER_LEN + EXPLICIT_NONCE_LEN + TAG_LEN;

/// Content type of alerts.
pub(crate) const ALERT: u8 = 21;
/// Content type of handshake messages.
pub(crate) const HANDSHAKE: u8 = 22;
/// Content type of application data.
pub(crate) const DATA: u8 = 23;

/// No limit: a length that TLS fixes.
const EXPLICIT_NONCE_LEN: usize = 8;
/// The number of times that a key may have been replaced before this crate takes over.
/// Limit: key updates behind the last message of a handshake: 16; past it: the handshake fails.
const EARLY_KEY_UPDATES: usize = 16;
/// Longest protected part a record may have (RFC 8446 section 5.2; TLS 1.2 allows more, which nobody sends).
/// Limit: sealed bytes of a TLS record: 16,640; past it: the connection ends.
const MAX_PROTECTED: usize = MAX_FRAGMENT + 256;

/// The TLS version, which decides the rules of record protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// TLS 1.2 with AES-GCM.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Why a record cannot be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The keys are of a cipher that is never offered.
    #[error("unsupported cipher")]
    Cipher,
    /// The peer's record does not authenticate.
    #[error("peer sent a record that does not authenticate")]
    PeerBadRecord,
    /// The peer's record breaks a limit or the format.
    #[error("peer sent a malformed record")]
    PeerMalformed,
    /// The peer sent a message that is never allowed after the handshake.
    #[error("peer sent an unexpected message of type {0}")]
    PeerUnexpected(u8),
    /// The key has sealed as many records as it may, and TLS 1.2 has no way to replace it.
    #[error("the key of this connection is used up")]
    LocalKeyWorn,
    /// Sealing failed.
    #[error("cannot seal a record")]
    LocalSeal,
}

/// The keys of one direction.
pub(crate) struct Protection {
    key: Key,
    iv: [u8; IV_LEN],
    version: Version,
    keys: DirectionKeys,
}

/// The header of the record at the start of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHead {
    /// Outer content type.
    pub content: u8,
    /// The number of bytes of the protected part, which follows the header.
    pub protected_len: usize,
}

/// The plaintext of an opened record: the inner content type and the position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Inner content type.
    pub content: u8,
    /// Offset from the start of the record.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
}

// === impl RecordHead ===

impl RecordHead {
    /// Reads the header at the start of `buf`; `None` if fewer than five bytes are there.
    ///
    /// # Errors
    /// The length is beyond what the protocol allows.
    pub(crate) fn peek(buf: &[u8]) -> Result<Option<Self>, RecordError> {
        let Some(&[content, _, _, high, low]) = buf.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let protected_len = usize::from(u16::from_be_bytes([high, low]));
        if protected_len > MAX_PROTECTED || protected_len <= TAG_LEN {
            return Err(RecordError::PeerMalformed);
        }
        Ok(Some(Self { content, protected_len }))
    }

    /// Length of the whole record in bytes.
    pub(crate) fn record_len(self) -> usize {
        HEADER_LEN + self.protected_len
    }
}

// === impl Version ===

impl Version {
    /// The version whose keys are made of `source`.
    pub(crate) fn of(source: &KeySource) -> Self {
        match source {
            KeySource::Traffic(_) => Self::Tls13,
            KeySource::Fixed { .. } => Self::Tls12,
        }
    }
}

// === impl Protection ===

impl Protection {
    /// Takes over the keys of one direction from a handshake of TLS 1.2.
    ///
    /// # Errors
    /// The cipher is not AES-GCM.
    pub(crate) fn fixed(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, RecordError> {
        let (cipher, key, iv) = aes_gcm(secrets)?;
        let salt: [u8; SALT_LEN] = *iv.first_chunk().ok_or(RecordError::Cipher)?;
        let source = KeySource::Fixed { key: SecretBytes::new(key), salt };
        Self::of(DirectionKeys { cipher, source, sequence })
    }

    /// Takes over the keys of one direction from a handshake of TLS 1.3. `first`: the direction's first traffic secret.
    ///
    /// # Errors
    /// The cipher is not AES-GCM, or the secret is not that of the key.
    pub(crate) fn replaceable(
        sequence: u64,
        secrets: &ConnectionTrafficSecrets,
        first: SecretBytes,
    ) -> Result<Self, RecordError> {
        let (cipher, key, iv) = aes_gcm(secrets)?;
        let mut source = KeySource::Traffic(first);
        // A peer may replace its key right behind the handshake, and rustls has followed already.
        for _ in 0..=EARLY_KEY_UPDATES {
            let (made, made_iv) = source.key(cipher).ok_or(RecordError::Cipher)?;
            if made.expose() == key && made_iv == *iv {
                return Self::of(DirectionKeys { cipher, source, sequence });
            }
            source = source.next(cipher).ok_or(RecordError::Cipher)?;
        }
        Err(RecordError::PeerMalformed)
    }

    /// Goes on with the keys of one direction.
    ///
    /// # Errors
    /// The keys do not fit the cipher.
    pub(crate) fn of(keys: DirectionKeys) -> Result<Self, RecordError> {
        let (key, iv) = keys.source.key(keys.cipher).ok_or(RecordError::Cipher)?;
        let key = Key::new(keys.cipher, key.expose()).ok_or(RecordError::Cipher)?;
        Ok(Self { key, iv, version: Version::of(&keys.source), keys })
    }

    /// The keys as a value.
    pub(crate) fn keys(&self) -> &DirectionKeys {
        &self.keys
    }

    /// The keys that follow these (RFC 8446 section 7.2).
    ///
    /// # Errors
    /// The version is TLS 1.2, which cannot replace keys.
    pub(crate) fn next(&self) -> Result<Self, RecordError> {
        let cipher = self.keys.cipher;
        let source = self.keys.source.next(cipher).ok_or(RecordError::Cipher)?;
        Self::of(DirectionKeys { cipher, source, sequence: 0 })
    }

    /// Records sealed or opened with this key so far.
    pub(crate) fn sequence(&self) -> u64 {
        self.keys.sequence
    }

    /// Continues as if `sequence` records had been sealed or opened.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn age(&mut self, sequence: u64) {
        self.keys.sequence = sequence;
    }

    /// Continues with the key that `make` makes, such as that of another library.
    #[cfg(test)]
    pub(super) fn remake(&mut self, make: fn(Cipher, &[u8]) -> Option<Key>) {
        let (key, _) = self.keys.source.key(self.keys.cipher).unwrap_or_else(|| unreachable!());
        self.key = make(self.keys.cipher, key.expose()).unwrap_or_else(|| unreachable!());
    }

    /// Seals `head` followed by `tail`, together at most [`MAX_FRAGMENT`] bytes, as one record of type `content`
    /// at the start of `out`; the record's length is returned.
    ///
    /// # Errors
    /// `out` is too short (see [`OVERHEAD`]), the fragment too long, or the sequence numbers are used up.
    pub(crate) fn seal(
        &mut self,
        content: u8,
        head: &[u8],
        tail: &[u8],
        out: &mut [u8],
    ) -> Result<usize, RecordError> {
        let len = head.len() + tail.len();
        let tls13 = self.version == Version::Tls13;
        let (before, after) = if tls13 { (0, 1) } else { (EXPLICIT_NONCE_LEN, 0) };
        let protected = before + len + after + TAG_LEN;
        let out = out.get_mut(..HEADER_LEN + protected).ok_or(RecordError::LocalSeal)?;
        if len > MAX_FRAGMENT {
            return Err(RecordError::LocalSeal);
        }
        let (header, body) = out.split_at_mut(HEADER_LEN);
        let [high, low] = u16::try_from(protected).map_err(|_| RecordError::LocalSeal)?.to_be_bytes();
        let outer = if tls13 { DATA } else { content };
        header.copy_from_slice(&[outer, 3, 3, high, low]);
        let (explicit, body) = body.split_at_mut(before);
        let (text, tag) = body.split_at_mut(len + after);
        let sequence = self.keys.sequence;
        if !tls13 {
            explicit.copy_from_slice(&sequence.to_be_bytes());
        }
        let nonce = self.nonce(sequence);
        let mut aad = [0; 13];
        let aad = self.aad(&mut aad, header, content, len);
        let (first, rest) = text.split_at_mut(head.len());
        let (second, inner) = rest.split_at_mut(tail.len());
        first.copy_from_slice(head);
        copy(second, tail);
        inner.fill(content);
        self.key.seal(nonce, aad, text, tag).ok_or(RecordError::LocalSeal)?;
        self.keys.sequence = sequence.checked_add(1).ok_or(RecordError::LocalSeal)?;
        Ok(HEADER_LEN + protected)
    }

    /// Opens the whole record `record` where it lies. The offset returned is from the start of `record`.
    ///
    /// # Errors
    /// The record does not authenticate or is malformed. The connection is unusable after such an error.
    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<Opened, RecordError> {
        let (header, body) = record.split_at_mut_checked(HEADER_LEN).ok_or(RecordError::PeerMalformed)?;
        let outer = *header.first().unwrap_or(&0);
        let explicit = if self.version == Version::Tls12 { EXPLICIT_NONCE_LEN } else { 0 };
        let nonce = self.opening_nonce(body)?;
        let body = body.get_mut(explicit..).ok_or(RecordError::PeerMalformed)?;
        let len = body.len().checked_sub(TAG_LEN).ok_or(RecordError::PeerMalformed)?;
        let mut aad = [0; 13];
        let aad = self.aad(&mut aad, header, outer, len);
        let text = self.key.open(nonce, aad, body).ok_or(RecordError::PeerBadRecord)?;
        self.opened(outer, text, HEADER_LEN + explicit)
    }

    /// Strips the padding and the inner content type of TLS 1.3, and counts the record.
    fn opened(&mut self, outer: u8, text: &[u8], start: usize) -> Result<Opened, RecordError> {
        self.keys.sequence = self.keys.sequence.checked_add(1).ok_or(RecordError::PeerMalformed)?;
        if self.version == Version::Tls12 {
            return Ok(Opened { content: outer, start, len: text.len() });
        }
        let len = text.iter().rposition(|&b| b != 0).ok_or(RecordError::PeerMalformed)?;
        let content = *text.get(len).ok_or(RecordError::PeerMalformed)?;
        if len > MAX_FRAGMENT {
            return Err(RecordError::PeerMalformed);
        }
        Ok(Opened { content, start, len })
    }

    fn opening_nonce(&self, body: &[u8]) -> Result<[u8; 12], RecordError> {
        match self.version {
            Version::Tls13 => Ok(self.nonce(self.keys.sequence)),
            Version::Tls12 => {
                let explicit = body.first_chunk::<EXPLICIT_NONCE_LEN>().ok_or(RecordError::PeerMalformed)?;
                Ok(self.nonce(u64::from_be_bytes(*explicit)))
            }
        }
    }

    /// TLS 1.3: the IV with the sequence number XORed in. TLS 1.2: four bytes of salt, then the explicit part.
    fn nonce(&self, explicit: u64) -> [u8; IV_LEN] {
        let mut nonce = self.iv;
        let explicit = explicit.to_be_bytes();
        for (byte, number) in nonce.iter_mut().skip(4).zip(explicit) {
            *byte = if self.version == Version::Tls13 { *byte ^ number } else { number };
        }
        nonce
    }

    fn aad<'a>(&self, space: &'a mut [u8; 13], header: &[u8], content: u8, len: usize) -> &'a [u8] {
        if self.version == Version::Tls13 {
            let (aad, _) = space.split_at_mut(HEADER_LEN);
            aad.copy_from_slice(header);
            return aad;
        }
        let [high, low] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
        let (sequence, rest) = space.split_at_mut(8);
        sequence.copy_from_slice(&self.keys.sequence.to_be_bytes());
        rest.copy_from_slice(&[content, 3, 3, high, low]);
        space
    }
}

/// The cipher, the key and the IV that a handshake has made.
fn aes_gcm(secrets: &ConnectionTrafficSecrets) -> Result<(Cipher, &[u8], &[u8; IV_LEN]), RecordError> {
    let (cipher, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256, key, iv),
        _ => return Err(RecordError::Cipher),
    };
    let iv = iv.as_ref().try_into().map_err(|_| RecordError::Cipher)?;
    Ok((cipher, key.as_ref(), iv))
}

#[cfg(test)]
mod tests;

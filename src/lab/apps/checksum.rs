//! A fast checksum of a byte stream that does not depend on how the stream is cut, and bytes to check with it.

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Sums up a stream, eight bytes at a time. The checksum detects lost, doubled, changed and swapped bytes; it does
/// not withstand attackers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Checksum {
    sum: u64,
    length: u64,
    /// The bytes that do not fill a word yet, the first one lowest.
    rest: u64,
}

/// An endless stream of bytes that do not repeat; equal seeds give equal streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pattern(u64);

// === impl Checksum ===

impl Checksum {
    pub(super) fn add(&mut self, mut bytes: &[u8]) {
        while !self.length.is_multiple_of(8)
            && let Some((first, others)) = bytes.split_first()
        {
            self.push(*first);
            bytes = others;
        }
        let (words, others) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        self.length += 8 * words.len() as u64;
        for byte in others {
            self.push(*byte);
        }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn value(&self) -> u64 {
        let mut last = *self;
        last.mix(self.rest);
        last.mix(self.length);
        last.sum
    }

    fn push(&mut self, byte: u8) {
        self.rest |= u64::from(byte) << (self.length % 8 * 8);
        self.length += 1;
        if self.length.is_multiple_of(8) {
            self.mix(self.rest);
            self.rest = 0;
        }
    }

    fn mix(&mut self, word: u64) {
        self.sum = (self.sum ^ word).wrapping_mul(MULTIPLIER).rotate_left(29);
    }
}

// === impl Pattern ===

impl Pattern {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(MULTIPLIER) | 1)
    }

    /// Fills `buffer`, whose length must be a multiple of eight, with the next bytes of the stream.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.as_chunks_mut::<8>().0 {
            // Xorshift never yields zero and has the period 2^64 - 1.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *word = self.0.to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests;

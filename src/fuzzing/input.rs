//! The values that a target takes off the front of its bytes. Where the bytes end, zeros follow.

/// The bytes of one run.
#[derive(Clone, Debug)]
pub(super) struct Input<'a>(&'a [u8]);

// === impl Input ===

impl<'a> Input<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(super) fn flip(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    /// A number below `bound`, of one byte, or of two for a large bound.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let drawn: usize = if bound <= 256 { self.byte().into() } else { self.u16().into() };
        drawn % bound.max(1)
    }

    /// A length, and then so many bytes, at most `most`.
    pub(super) fn bytes(&mut self, most: usize) -> &'a [u8] {
        let length = self.below(most + 1).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    pub(super) fn text(&mut self, most: usize) -> String {
        String::from_utf8_lossy(self.bytes(most)).into_owned()
    }

    pub(super) fn pick<'b, T>(&mut self, of: &'b [T]) -> &'b T {
        &of[self.below(of.len())]
    }

    /// One of these texts, or now and then any text.
    pub(super) fn word(&mut self, of: &[&str]) -> String {
        match self.below(of.len() + 1) {
            at if at < of.len() => of[at].to_owned(),
            _ => self.text(64),
        }
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

//! Where the peer's bytes are in their frames.

use bytes::Bytes;

use crate::protocols::hbone::wire::{HEADER_BYTES, Header};

/// The longest field of a frame, and the length of a frame header.
/// No limit: a length of the wire.
const FIELD_BYTES: usize = HEADER_BYTES;

/// Where the peer's bytes are.
#[derive(Debug)]
pub(super) struct Input {
    /// The largest payload of a frame.
    pub(super) max_frame: u32,
    /// The frame that is under way.
    pub(super) header: Header,
    pub(super) at: At,
    /// The bytes of the payload behind what `at` says, padding included.
    pub(super) left: usize,
    /// The padding at the end of the payload.
    pub(super) padding: usize,
    /// The stream that the frame belongs to, if somebody is to hear of it.
    pub(super) stream: Option<u32>,
    /// The bytes of a frame header or field.
    pub(super) field: [u8; FIELD_BYTES],
    pub(super) have: usize,
    /// The stream of the header block that is under way.
    pub(super) block: Option<u32>,
    pub(super) block_len: usize,
    pub(super) refused: usize,
}

/// What comes next in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// The header.
    Header,
    /// A field of so many bytes.
    Field(usize),
    /// Payload of DATA.
    Data,
    /// Bytes that nobody needs.
    Skipped,
}

// === impl Input ===

impl Input {
    pub(super) fn new(max_frame: u32) -> Self {
        Self {
            max_frame,
            header: Header::default(),
            at: At::Header,
            left: 0,
            padding: 0,
            stream: None,
            field: [0; FIELD_BYTES],
            have: 0,
            block: None,
            block_len: 0,
            refused: 0,
        }
    }

    pub(super) fn is_between_frames(&self) -> bool {
        self.at == At::Header && self.have == 0 && self.block.is_none()
    }

    /// Reads on in a field of `len` bytes. Returns whether it is whole.
    pub(super) fn read(&mut self, bytes: &mut Bytes, len: usize) -> bool {
        let taken = bytes.len().min(len - self.have);
        for (to, from) in self.field.iter_mut().skip(self.have).zip(bytes.split_to(taken)) {
            *to = from;
        }
        self.have += taken;
        if self.have == len {
            self.have = 0;
            return true;
        }
        false
    }

    /// The first four bytes of the field, and the next four.
    pub(super) fn numbers(&self) -> (u32, u32) {
        let [b0, b1, b2, b3, b4, b5, b6, b7, _] = self.field;
        (u32::from_be_bytes([b0, b1, b2, b3]), u32::from_be_bytes([b4, b5, b6, b7]))
    }
}

//! The headers of HTTP/2 frames, and the few fields that move windows, in a byte stream that arrives in any pieces.
//!
//! All else of the payloads is passed over.

/// The length of a frame header (RFC 9113 section 4.1).
/// No limit: a length of the wire.
pub(super) const HEADER_BYTES: usize = 9;
/// The length of the client's connection preface (RFC 9113 section 3.4).
/// No limit: a length of the wire.
const PREFACE_BYTES: u32 = 24;
/// The length of a setting: an identifier and a value.
/// No limit: a length of the wire.
pub(super) const SETTING_BYTES: usize = 6;
/// The longest field that is read.
/// No limit: a length of the wire.
const FIELD_BYTES: usize = 6;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const HAS_PRIORITY: u8 = 0x20;

/// SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 section 6.5.2).
/// No limit: a number of the wire.
pub(super) const INITIAL_WINDOW: u16 = 4;
/// SETTINGS_MAX_FRAME_SIZE (RFC 9113 section 6.5.2).
/// No limit: a number of the wire.
pub(super) const MAX_FRAME: u16 = 5;

/// The end of a tunnel that this process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The end that opens streams.
    Client,
    /// The end that accepts streams.
    Server,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) payload: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

/// What has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// The header of a frame. What the payload says comes after it.
    Frame(Header),
    /// A setting of the frame before: its identifier and its value.
    Setting(u16, u32),
    /// How much more may be sent on a stream, or on the connection if the stream is 0.
    Update {
        /// The stream.
        stream: u32,
        /// The number of bytes.
        more: u32,
    },
    /// The last stream that a GOAWAY names.
    GoAway(u32),
}

/// Finds what passes in a byte stream that arrives in any pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Headers {
    /// The bytes of the next header that have passed.
    head: [u8; HEADER_BYTES],
    have: usize,
    /// The bytes before the next header.
    skip: u32,
    /// Whether the frames of a header list have begun and not ended.
    in_headers: bool,
    field: Field,
    /// The stream of the DATA whose first byte, which comes next, is the length of its padding.
    padded: Option<u32>,
    /// The streams of padded DATA, and how much of it was no payload.
    pub(super) padding: Vec<(u32, u32)>,
}

/// A field of the current frame that is being read.
#[derive(Clone, Copy, Debug, Default)]
struct Field {
    header: Header,
    bytes: [u8; FIELD_BYTES],
    have: usize,
    /// The length of the field. 0: nothing more of this frame is read.
    len: usize,
}

// === impl Role ===

impl Role {
    /// Whether this end opens the stream. Streams that clients open have odd numbers.
    pub(super) fn opens(self, stream: u32) -> bool {
        (stream % 2 == 1) == (self == Self::Client)
    }
}

// === impl Header ===

impl Header {
    pub(super) fn of([l0, l1, l2, kind, flags, s0, s1, s2, s3]: [u8; HEADER_BYTES]) -> Self {
        let payload = u32::from_be_bytes([0, l0, l1, l2]);
        Self { payload, kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]) }
    }

    /// The bytes of the header.
    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        let ([_, l0, l1, l2], [s0, s1, s2, s3]) = (self.payload.to_be_bytes(), self.stream.to_be_bytes());
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }

    /// Whether the header has all of these flags.
    pub(super) fn has(self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Whether the frame ends its half of the stream.
    pub(super) fn ends_stream(self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.has(END_STREAM)
    }

    /// Whether the frame is DATA whose payload begins with the length of its padding (RFC 9113 section 6.1).
    fn is_padded_data(self) -> bool {
        self.kind == DATA && self.has(PADDED) && self.payload > 0
    }

    /// The length of the fields that are read, or 0.
    fn field(self) -> usize {
        match self.kind {
            SETTINGS if !self.has(ACK) => SETTING_BYTES,
            WINDOW_UPDATE | GOAWAY => 4,
            _ => 0,
        }
    }
}

// === impl Field ===

impl Field {
    fn of(header: Header) -> Self {
        Self { header, len: header.field(), ..Self::default() }
    }

    /// Reads on in the payload of the frame, and returns what a field says that has ended, and the bytes behind it.
    fn read<'a>(&mut self, payload: &'a [u8]) -> Option<(Passed, &'a [u8])> {
        let taken = payload.len().min(self.len - self.have);
        for (to, from) in self.bytes.iter_mut().skip(self.have).zip(payload.iter().take(taken)) {
            *to = *from;
        }
        self.have += taken;
        if self.have < self.len || self.len == 0 {
            return None;
        }
        self.have = 0;
        let [b0, b1, b2, b3, b4, b5] = self.bytes;
        let number = u32::from_be_bytes([b0, b1, b2, b3]) & (u32::MAX >> 1);
        let passed = match self.header.kind {
            SETTINGS => Passed::Setting(u16::from_be_bytes([b0, b1]), u32::from_be_bytes([b2, b3, b4, b5])),
            WINDOW_UPDATE => Passed::Update { stream: self.header.stream, more: number },
            _ => Passed::GoAway(number),
        };
        if self.header.kind != SETTINGS {
            self.len = 0;
        }
        Some((passed, payload.get(taken..).unwrap_or_default()))
    }
}

// === impl Headers ===

impl Headers {
    /// What is sent by a client, who begins with the preface.
    pub(super) fn after_preface() -> Self {
        Self { skip: PREFACE_BYTES, ..Self::default() }
    }

    /// Calls `each` with what ends in `bytes`, and with the number of bytes behind each frame header.
    pub(super) fn pass(&mut self, mut bytes: &[u8], mut each: impl FnMut(Passed, usize)) {
        while let Some(first) = bytes.first() {
            if let Some(stream) = self.padded.take() {
                self.padding.push((stream, u32::from(*first) + 1));
            }
            let skipped = bytes.len().min(self.skip as usize);
            self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
            let (payload, rest) = bytes.split_at_checked(skipped).unwrap_or_default();
            if self.field.len > 0 {
                let mut payload = payload;
                while let Some((passed, rest)) = self.field.read(payload) {
                    payload = rest;
                    each(passed, 0);
                }
            }
            let taken = rest.len().min(HEADER_BYTES - self.have);
            for (to, from) in self.head.iter_mut().skip(self.have).zip(rest) {
                *to = *from;
            }
            self.have += taken;
            bytes = rest.get(taken..).unwrap_or_default();
            if self.have == HEADER_BYTES {
                let header = Header::of(self.head);
                (self.have, self.skip) = (0, header.payload);
                self.in_headers = match header.kind {
                    HEADERS | CONTINUATION => !header.has(END_HEADERS),
                    _ => self.in_headers,
                };
                self.field = Field::of(header);
                self.padded = header.is_padded_data().then_some(header.stream);
                each(Passed::Frame(header), bytes.len());
            }
        }
    }

    /// Whether another frame may be put in before the next byte.
    pub(super) fn is_between_frames(&self) -> bool {
        self.until_boundary() == 0
    }

    /// The number of bytes that certainly come before the next place between two frames. 0: this is such a place.
    pub(super) fn until_boundary(&self) -> usize {
        if self.skip > 0 {
            self.skip as usize
        } else if self.have > 0 || self.in_headers {
            HEADER_BYTES - self.have
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests;

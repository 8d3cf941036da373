//! The HTTP/2 frames of a tunnel as they pass: how many there are in a turn, and how many of them move nothing.
//!
//! Only the headers of frames are read. HTTP/2 itself checks them.

use std::{
    io,
    time::{Duration, Instant},
};

/// The length of a frame header (RFC 9113 section 4.1).
/// No limit: a length of the wire.
pub(super) const HEADER_BYTES: usize = 9;
/// The length of the client's connection preface (RFC 9113 section 3.4).
/// No limit: a length of the wire.
const PREFACE_BYTES: u32 = 24;
/// The number of frames that a tunnel hands to HTTP/2 in one turn.
/// Limit: frames of a tunnel in one turn: 512; past it: other tasks of the shard go first.
const TURN_FRAMES: u32 = 512;
/// The number of bytes that a tunnel hands to HTTP/2 in one turn.
/// Limit: bytes of a tunnel in one turn: 2 MiB; past it: other tasks of the shard go first.
const TURN_BYTES: usize = 2 * 1024 * 1024;
/// The number of bytes of one read from a peer whose frames are tiny. A read cannot stop between its frames.
/// Limit: bytes of a read while the peer's frames are tiny: 4 KiB; past it: the rest is read later.
const TINY_READ_BYTES: usize = 4 * 1024;
/// A read whose frames are smaller on average has tiny frames.
/// Limit: average frame of a read: 128 bytes; past it: the next reads are whole.
const TINY_FRAME_BYTES: usize = 128;
/// The number of frames beyond those that this side has asked for that move nothing, in one interval.
/// Limit: frames of a tunnel that move nothing: 4096 a second; past it: GOAWAY with ENHANCE_YOUR_CALM.
const HOLLOW_FRAMES: u32 = 4096;
/// The interval in which frames that move nothing are counted.
/// Limit: interval of frames that move nothing: 1 s; past it: the count starts anew.
const HOLLOW_INTERVAL: Duration = Duration::from_secs(1);
/// The longest padded frame that counts as one that moves nothing.
/// Limit: padded DATA that counts as empty: 256 bytes; past it: DATA counts as DATA.
const PADDING_BYTES: u32 = 256;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// The end of a tunnel that this process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The end that opens streams.
    Client,
    /// The end that accepts streams.
    Server,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    payload: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Finds the frame headers in a byte stream that arrives in any pieces.
#[derive(Clone, Debug, Default)]
struct Headers {
    /// The bytes of the next header that have passed.
    head: [u8; HEADER_BYTES],
    have: usize,
    /// The bytes before the next header.
    skip: u32,
    /// Whether the frames of a header list have begun and not ended.
    in_headers: bool,
    /// The stream of the DATA whose first byte, which comes next, is the length of its padding.
    padded: Option<u32>,
    /// The streams of padded DATA, and how much of it was no payload.
    padding: Vec<(u32, u32)>,
}

/// What has passed through a tunnel.
#[derive(Debug)]
pub struct Frames {
    received: Headers,
    sent: Headers,
    role: Role,
    turn: Turn,
    tiny: bool,
    /// Received frames that moved nothing, less those that this side has asked for.
    hollow: u32,
    /// The start of the interval in which `hollow` counts.
    since: Option<Instant>,
    /// The highest stream that the peer has opened.
    last_stream: u32,
}

/// What is left of a turn.
#[derive(Debug)]
struct Turn {
    frames: u32,
    bytes: usize,
}

// === impl Headers ===

impl Headers {
    /// Calls `each` with the frame headers that end in `bytes`, and with the number of bytes behind each header.
    fn pass(&mut self, mut bytes: &[u8], mut each: impl FnMut(Header, usize)) {
        while let Some(first) = bytes.first() {
            if let Some(stream) = self.padded.take() {
                self.padding.push((stream, u32::from(*first) + 1));
            }
            let skipped = bytes.len().min(self.skip as usize);
            self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
            bytes = bytes.get(skipped..).unwrap_or_default();
            let taken = bytes.len().min(HEADER_BYTES - self.have);
            for (to, from) in self.head.iter_mut().skip(self.have).zip(bytes) {
                *to = *from;
            }
            self.have += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.have == HEADER_BYTES {
                let header = Header::of(self.head);
                (self.have, self.skip) = (0, header.payload);
                if matches!(header.kind, HEADERS | CONTINUATION) {
                    self.in_headers = header.flags & END_HEADERS == 0;
                }
                self.padded = header.is_padded_data().then_some(header.stream);
                each(header, bytes.len());
            }
        }
    }

    /// Whether another frame may be put in before the next byte.
    fn is_between_frames(&self) -> bool {
        self.have == 0 && self.skip == 0 && !self.in_headers
    }
}

// === impl Header ===

impl Header {
    fn of([l0, l1, l2, kind, flags, s0, s1, s2, s3]: [u8; HEADER_BYTES]) -> Self {
        let payload = u32::from_be_bytes([0, l0, l1, l2]);
        Self { payload, kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]) }
    }

    /// Whether the frame says something about the windows of streams.
    fn is_about_streams_windows(self) -> bool {
        match self.kind {
            SETTINGS => self.flags & ACK == 0,
            WINDOW_UPDATE => self.stream != 0,
            _ => false,
        }
    }

    /// Whether the frame is DATA whose payload begins with the length of its padding (RFC 9113 section 6.1).
    fn is_padded_data(self) -> bool {
        self.kind == DATA && self.flags & PADDED != 0 && self.payload > 0
    }

    /// Whether a received frame moves no byte of a stream and opens none. Another frame may have asked for it.
    fn is_hollow(self) -> bool {
        match self.kind {
            DATA if self.flags & END_STREAM != 0 => false,
            DATA => self.payload == 0 || (self.flags & PADDED != 0 && self.payload <= PADDING_BYTES),
            HEADERS | CONTINUATION => false,
            _ => true,
        }
    }

    /// How many hollow frames the other end may send because of this frame.
    fn asks_for(self) -> u32 {
        match self.kind {
            // A WINDOW_UPDATE for the stream and one for the connection, or a reset after an opening.
            DATA | HEADERS => 2,
            PRIORITY | CONTINUATION => 0,
            // An acknowledgement.
            _ => 1,
        }
    }
}

// === impl Frames ===

impl Frames {
    /// Counts the frames of a tunnel of which this process is the `role`.
    pub fn new(role: Role) -> Self {
        let preface = Headers { skip: PREFACE_BYTES, ..Headers::default() };
        let (received, sent) = match role {
            Role::Client => (Headers::default(), preface),
            Role::Server => (preface, Headers::default()),
        };
        let turn = Turn { frames: TURN_FRAMES, bytes: TURN_BYTES };
        Self { received, sent, role, turn, tiny: false, hollow: 0, since: None, last_stream: 0 }
    }

    /// Begins a turn.
    pub fn begin_turn(&mut self) {
        self.turn = Turn { frames: TURN_FRAMES, bytes: TURN_BYTES };
    }

    /// Whether HTTP/2 has got all that one turn gives.
    pub fn is_turn_over(&self) -> bool {
        self.turn.frames == 0 || self.turn.bytes == 0
    }

    /// The most bytes of the next read, if the next read has to be short.
    pub fn short_read(&self) -> Option<usize> {
        self.tiny.then_some(TINY_READ_BYTES)
    }

    /// Counts received bytes.
    pub fn received(&mut self, bytes: &[u8]) {
        let (mut frames, mut hollow, mut asked, mut last) = (0u32, self.hollow, 0u32, self.last_stream);
        self.received.pass(bytes, |header, _| {
            frames += 1;
            if header.is_hollow() {
                hollow = hollow.saturating_add(1);
            } else if header.kind == HEADERS {
                asked += header.asks_for();
                last = last.max(header.stream);
            }
        });
        self.hollow = hollow.saturating_sub(asked);
        self.last_stream = last;
        self.turn.frames = self.turn.frames.saturating_sub(frames);
        self.turn.bytes = self.turn.bytes.saturating_sub(bytes.len());
        self.tiny = frames > 1 && bytes.len() < TINY_FRAME_BYTES * frames as usize;
    }

    /// Counts sent bytes.
    pub fn sent(&mut self, bytes: &[u8]) {
        let mut asked = 0u32;
        self.sent.pass(bytes, |header, _| asked += header.asks_for());
        self.hollow = self.hollow.saturating_sub(asked);
    }

    /// What was received of streams and was padding, since the last call. It counts against their windows, and nobody
    /// reads it.
    pub fn padding(&mut self) -> Vec<(u32, u32)> {
        std::mem::take(&mut self.received.padding)
    }

    /// Whether another frame may be sent now.
    pub fn may_insert(&self) -> bool {
        self.sent.is_between_frames()
    }

    /// The first frame that begins in `bufs`, which are to be sent next, and says something about the windows of streams:
    /// its place, and its length with the header.
    pub fn about_windows(&self, bufs: &[io::IoSlice<'_>]) -> Option<(usize, usize)> {
        let (mut headers, mut before, mut found) = (self.sent.clone(), 0, None);
        for buf in bufs {
            before += buf.len();
            headers.pass(buf, |header, rest| {
                let start = (before - rest).checked_sub(HEADER_BYTES);
                if let Some(start) = start.filter(|_| found.is_none() && header.is_about_streams_windows()) {
                    found = Some((start, HEADER_BYTES + header.payload as usize));
                }
            });
        }
        found
    }

    /// Whether the peer sends more frames that move nothing than any honest peer. `now` is only called after many of
    /// them.
    pub fn are_too_many(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.hollow < HOLLOW_FRAMES {
            return false;
        }
        let now = now();
        let since = self.since.replace(now);
        self.hollow = 0;
        since.is_some_and(|since| now.saturating_duration_since(since) < HOLLOW_INTERVAL)
    }

    /// A GOAWAY with ENHANCE_YOUR_CALM (RFC 9113 sections 6.8 and 7), if a frame may begin now.
    pub fn goaway(&self) -> Option<[u8; 17]> {
        let last = if self.role == Role::Server { self.last_stream } else { 0 };
        let [l0, l1, l2, l3] = last.to_be_bytes();
        let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, l0, l1, l2, l3, 0, 0, 0, 0xb];
        self.sent.is_between_frames().then_some(goaway)
    }
}

#[cfg(test)]
mod tests;

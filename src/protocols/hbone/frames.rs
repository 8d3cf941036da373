//! The HTTP/2 frames of a tunnel as they pass: how many there are in a turn, and how many of them move nothing.
//!
//! HTTP/2 itself checks the frames.

use std::{
    io,
    time::{Duration, Instant},
};

pub use super::wire::Role;
use super::{
    ledger::Ledger,
    wire::{
        ACK, CONTINUATION, DATA, END_STREAM, HEADER_BYTES, HEADERS, Header, Headers, PADDED, PRIORITY,
        Passed, SETTINGS, WINDOW_UPDATE,
    },
};

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

/// What has passed through a tunnel.
#[derive(Debug)]
pub struct Frames {
    received: Headers,
    sent: Headers,
    ledger: Ledger,
    pace: Pace,
    tiny: bool,
}

/// How much a peer sends: in a turn, and of what moves nothing.
#[derive(Debug)]
pub(super) struct Pace {
    turn: Turn,
    /// Received frames that moved nothing, less those that this side has asked for.
    hollow: u32,
    /// The start of the interval in which `hollow` counts.
    since: Option<Instant>,
}

/// What is left of a turn.
#[derive(Debug)]
struct Turn {
    frames: u32,
    bytes: usize,
}

/// What some bytes of the peer contain.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    frames: u32,
    hollow: u32,
    asked: u32,
}

// === impl Header ===

impl Header {
    /// Whether the frame says something about the windows of streams.
    fn is_about_streams_windows(self) -> bool {
        match self.kind {
            SETTINGS => self.flags & ACK == 0,
            WINDOW_UPDATE => self.stream != 0,
            _ => false,
        }
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

// === impl Counted ===

impl Counted {
    fn add(&mut self, header: Header) {
        self.frames += 1;
        if header.is_hollow() {
            self.hollow = self.hollow.saturating_add(1);
        } else if header.kind == HEADERS {
            self.asked += header.asks_for();
        }
    }
}

// === impl Pace ===

impl Pace {
    /// The pace of a peer that has sent nothing yet.
    pub(super) fn new() -> Self {
        Self { turn: Turn { frames: TURN_FRAMES, bytes: TURN_BYTES }, hollow: 0, since: None }
    }

    /// Begins a turn.
    pub(super) fn begin_turn(&mut self) {
        self.turn = Turn { frames: TURN_FRAMES, bytes: TURN_BYTES };
    }

    /// Whether the tunnel has got all that one turn gives.
    pub(super) fn is_turn_over(&self) -> bool {
        self.turn.frames == 0 || self.turn.bytes == 0
    }

    /// Counts a received frame.
    pub(super) fn received(&mut self, header: Header) {
        let mut counted = Counted::default();
        counted.add(header);
        self.count(counted, HEADER_BYTES + header.payload as usize);
    }

    fn count(&mut self, counted: Counted, bytes: usize) {
        self.hollow = self.hollow.saturating_add(counted.hollow).saturating_sub(counted.asked);
        self.turn.frames = self.turn.frames.saturating_sub(counted.frames);
        self.turn.bytes = self.turn.bytes.saturating_sub(bytes);
    }

    /// Counts a frame that is sent.
    pub(super) fn sent(&mut self, header: Header) {
        self.hollow = self.hollow.saturating_sub(header.asks_for());
    }

    /// Whether the peer sends more frames that move nothing than any honest peer. `now` is only called after many of
    /// them.
    pub(super) fn is_too_fast(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.hollow < HOLLOW_FRAMES {
            return false;
        }
        let now = now();
        let since = self.since.replace(now);
        self.hollow = 0;
        since.is_some_and(|since| now.saturating_duration_since(since) < HOLLOW_INTERVAL)
    }
}

// === impl Frames ===

impl Frames {
    /// Counts the frames of a tunnel of which this process is the `role`.
    pub fn new(role: Role) -> Self {
        let (received, sent) = match role {
            Role::Client => (Headers::default(), Headers::after_preface()),
            Role::Server => (Headers::after_preface(), Headers::default()),
        };
        Self { received, sent, ledger: Ledger::new(role), pace: Pace::new(), tiny: false }
    }

    /// Begins a turn.
    pub fn begin_turn(&mut self) {
        self.pace.begin_turn();
    }

    /// Whether HTTP/2 has got all that one turn gives.
    pub fn is_turn_over(&self) -> bool {
        self.pace.is_turn_over()
    }

    /// The most bytes of the next read, if the next read has to be short.
    pub fn short_read(&self) -> Option<usize> {
        self.tiny.then_some(TINY_READ_BYTES)
    }

    /// Counts received bytes.
    pub fn received(&mut self, bytes: &[u8]) {
        let (ledger, mut counted) = (&mut self.ledger, Counted::default());
        self.received.pass(bytes, |passed, _| {
            if let Passed::Frame(header) = passed {
                counted.add(header);
            }
            ledger.received(passed);
        });
        self.pace.count(counted, bytes.len());
        self.tiny = counted.frames > 1 && bytes.len() < TINY_FRAME_BYTES * counted.frames as usize;
    }

    /// Counts sent bytes.
    pub fn sent(&mut self, bytes: &[u8]) {
        let (ledger, pace) = (&mut self.ledger, &mut self.pace);
        self.sent.pass(bytes, |passed, _| {
            if let Passed::Frame(header) = passed {
                pace.sent(header);
            }
            ledger.sent(passed);
        });
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

    /// The number of bytes that certainly come from the peer before a place between two frames. 0: this is such a place.
    pub(super) fn until_boundary(&self) -> usize {
        self.received.until_boundary()
    }

    /// What has passed so far.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The first frame that begins in `bufs`, which are to be sent next, and says something about the windows of streams:
    /// its place, and its length with the header.
    pub fn about_windows(&self, bufs: &[io::IoSlice<'_>]) -> Option<(usize, usize)> {
        let (mut headers, mut before, mut found) = (self.sent.clone(), 0, None);
        for buf in bufs {
            before += buf.len();
            headers.pass(buf, |passed, rest| {
                let Passed::Frame(header) = passed else { return };
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
        self.pace.is_too_fast(now)
    }

    /// A GOAWAY with ENHANCE_YOUR_CALM (RFC 9113 sections 6.8 and 7), if a frame may begin now.
    pub fn goaway(&self) -> Option<[u8; 17]> {
        let [l0, l1, l2, l3] = self.ledger.last_peer().to_be_bytes();
        let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, l0, l1, l2, l3, 0, 0, 0, 0xb];
        self.sent.is_between_frames().then_some(goaway)
    }
}

#[cfg(test)]
mod tests;

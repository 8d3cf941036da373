//! The state of an adopted tunnel, and what this end does with it.

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;
use h2::Reason;

use super::input::Input;
use crate::protocols::hbone::{
    frames::Pace,
    ledger::{BadSnapshot, LARGEST_WINDOW, Ledger, PeerSettings, Snapshot, Standing},
    wire::{ACK, DATA, END_STREAM, GOAWAY, Header, PING, Passed, RST_STREAM, Role, SETTINGS, WINDOW_UPDATE},
};

/// The number of bytes that wait for the connection before no stream may send more. The last one to send may exceed it by
/// as much.
/// Limit: bytes that wait in a tunnel that was taken over: twice 256 KiB; past it: the streams' relays wait.
const MAX_OUTPUT: usize = 256 * 1024;
/// The bytes of frames that carry no bytes of streams, such as answers, that wait before nothing more is received.
/// Limit: answers that wait in a tunnel that was taken over: 64 KiB; past it: the peer's frames wait.
const MAX_ANSWERS: usize = 64 * 1024;
/// The payload of a PING of this end.
/// No limit: a value of the wire.
pub(super) const PING_PAYLOAD: [u8; 8] = *b"warrenup";
/// The part of the connection's window that is given back at a time, as a divisor.
/// Limit: window of a tunnel that is not given back yet: a half; past it: it is given back.
const GIVEN_PART: i64 = 2;

/// An HTTP/2 connection that goes on where a snapshot says.
#[derive(Debug)]
pub struct Adopted {
    pub(super) ledger: Ledger,
    pub(super) pace: Pace,
    pub(super) input: Input,
    pub(super) events: VecDeque<Event>,
    output: VecDeque<Bytes>,
    output_len: usize,
    /// Which pieces of the output carry no bytes of streams.
    answers: VecDeque<bool>,
    answers_len: usize,
    /// What the peer may send on the connection while nothing is unread.
    target: i64,
    /// What was received and not released.
    unread: i64,
}

/// What the peer has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes of a stream.
    Data(u32, Bytes),
    /// The peer has ended its half of a stream.
    End(u32),
    /// The peer has reset a stream, or has said that it never knew it.
    Reset(u32, Reason),
    /// More may be sent on this stream, or on all if it is 0.
    Room(u32),
    /// The peer has answered a PING.
    Pong,
}

// === impl Adopted ===

impl Adopted {
    /// Goes on where `snapshot` says. `max_frame`: the largest payload of a frame that the peer was told of, in bytes.
    /// `target`: what the peer may send on the connection while nothing is unread, in bytes.
    ///
    /// A server tells the peer that it accepts no more streams, if the peer was not told.
    ///
    /// # Errors
    /// No connection can be like that.
    pub fn new(snapshot: &Snapshot, max_frame: u32, target: u32) -> Result<Self, BadSnapshot> {
        let mut this = Self {
            ledger: Ledger::restore(snapshot)?,
            pace: Pace::new(),
            input: Input::new(max_frame),
            events: VecDeque::new(),
            output: VecDeque::new(),
            output_len: 0,
            answers: VecDeque::new(),
            answers_len: 0,
            target: i64::from(target).min(LARGEST_WINDOW),
            unread: 0,
        };
        for _ in 0..snapshot.acks_owed {
            this.write(SETTINGS, ACK, 0, &[]);
        }
        let is_told = snapshot.goaway_sent.is_some_and(|last| last <= snapshot.last_peer);
        if snapshot.role == Role::Server && !is_told {
            this.goaway(Reason::NO_ERROR);
        }
        Ok(this)
    }

    /// Puts bytes first that the ledger counts as sent already.
    pub(super) fn put_first(&mut self, unsent: Bytes) {
        if !unsent.is_empty() {
            self.output_len += unsent.len();
            self.output.push_front(unsent);
            self.answers.push_front(false);
        }
    }

    /// Begins a turn.
    pub fn begin_turn(&mut self) {
        self.pace.begin_turn();
    }

    /// Whether the tunnel has got all that one turn gives.
    pub fn is_turn_over(&self) -> bool {
        self.pace.is_turn_over()
    }

    /// Whether the peer sends more frames that move nothing than any honest peer. `now` is only called after many of
    /// them.
    pub fn is_flooded(&mut self, now: impl FnOnce() -> Instant) -> bool {
        self.pace.is_too_fast(now)
    }

    /// Whether so much waits to be sent that no stream has room.
    pub(super) fn is_full(&self) -> bool {
        self.output_len >= MAX_OUTPUT
    }

    /// Whether so many answers wait to be sent that nothing should be received. Bytes of streams do not count: two ends
    /// that both have many of them would wait for each other.
    pub fn is_clogged(&self) -> bool {
        self.answers_len >= MAX_ANSWERS
    }

    /// The open streams.
    pub fn streams(&self) -> impl Iterator<Item = u32> + '_ {
        self.ledger.streams().iter().map(|stream| stream.id)
    }

    /// Whether no stream is open.
    pub fn is_unused(&self) -> bool {
        self.ledger.streams().is_empty()
    }

    /// What the peer may send on a stream, in bytes. 0 for a stream that is closed.
    pub(super) fn credit(&self, stream: u32) -> usize {
        match self.ledger.standing(stream) {
            Standing::Open(open) => usize::try_from(open.receive).unwrap_or(0),
            _ => 0,
        }
    }

    /// The number of bytes that may be sent on a stream now.
    pub fn room(&self, stream: u32) -> usize {
        let Standing::Open(open) = self.ledger.standing(stream) else {
            return 0;
        };
        if open.sent_all || self.is_full() {
            return 0;
        }
        usize::try_from(open.send.min(self.ledger.windows().0)).unwrap_or(0).min(MAX_OUTPUT)
    }

    /// Sends as many of `bytes` as there is room for, and takes them off. If all are sent and `end` says so, this half of
    /// the stream ends. Returns whether all is sent.
    pub fn send(&mut self, stream: u32, bytes: &mut Bytes, end: bool) -> bool {
        let mut room = self.room(stream);
        let most = self.ledger.peer().max_frame as usize;
        let mut ended = false;
        while room > 0 && !bytes.is_empty() {
            let piece = bytes.split_to(room.min(most).min(bytes.len()));
            room -= piece.len();
            ended = end && bytes.is_empty();
            let payload = u32::try_from(piece.len()).unwrap_or(0);
            let flags = if ended { END_STREAM } else { 0 };
            self.header(Header { payload, kind: DATA, flags, stream });
            self.push(piece, false);
        }
        let is_open = matches!(self.ledger.standing(stream), Standing::Open(open) if !open.sent_all);
        if bytes.is_empty() && end && !ended && is_open {
            self.write(DATA, END_STREAM, stream, &[]);
        }
        bytes.is_empty()
    }

    /// Resets a stream, unless it is closed.
    pub fn reset(&mut self, stream: u32, reason: Reason) {
        if matches!(self.ledger.standing(stream), Standing::Open(_)) {
            self.write(RST_STREAM, 0, stream, &u32::from(reason).to_be_bytes());
        }
    }

    /// Refuses a stream that the peer has just opened.
    pub(super) fn refuse_stream(&mut self, stream: u32) {
        self.write(RST_STREAM, 0, stream, &u32::from(Reason::REFUSED_STREAM).to_be_bytes());
    }

    /// Lets the peer send so many bytes more on a stream, unless it has ended its half.
    pub fn grant(&mut self, stream: u32, more: u32) {
        if let Standing::Open(open) = self.ledger.standing(stream)
            && !open.received_all
        {
            self.update(stream, i64::from(more).min(LARGEST_WINDOW - open.receive));
        }
    }

    /// Sets what the peer may send on the connection while nothing is unread, in bytes.
    pub fn set_target(&mut self, target: u32) {
        self.target = i64::from(target).min(LARGEST_WINDOW);
        self.top_up();
    }

    /// Counts bytes as unread that another process has received.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.unread += i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// Counts received bytes that have been passed on, or that nobody wants any more.
    pub fn release(&mut self, bytes: usize) {
        self.unread -= i64::try_from(bytes).unwrap_or(i64::MAX);
        self.top_up();
    }

    /// Lets the peer send more on the connection, if enough has been released.
    pub(super) fn top_up(&mut self) {
        let window = self.ledger.windows().1;
        let owed = self.target - self.unread - window;
        if owed > 0 && owed >= self.target / GIVEN_PART {
            self.update(0, owed);
        }
    }

    fn update(&mut self, stream: u32, more: i64) {
        let more = u32::try_from(more).unwrap_or(0);
        if more > 0 {
            self.write(WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
            self.ledger.sent(Passed::Update { stream, more });
        }
    }

    /// Sends a PING. The answer is [`Event::Pong`].
    pub fn ping(&mut self) {
        self.write(PING, 0, 0, &PING_PAYLOAD);
    }

    /// Tells the peer that no further stream is accepted, and why.
    pub fn goaway(&mut self, reason: Reason) {
        // The last stream of a GOAWAY may not rise (RFC 9113 section 6.8).
        let before = self.ledger.goaways().0.unwrap_or(u32::MAX);
        let last = self.ledger.last_peer().min(before);
        let payload = (u64::from(last) << 32 | u64::from(u32::from(reason))).to_be_bytes();
        self.write(GOAWAY, 0, 0, &payload);
        self.ledger.sent(Passed::GoAway(last));
    }

    /// Whether the peer knows that this end goes away.
    pub fn has_said_goodbye(&self) -> bool {
        self.ledger.goaways().0.is_some()
    }

    pub(super) fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap_or(0);
        let header = Header { payload: len, kind, flags, stream };
        self.count(header);
        let frame = [&header.encode(), payload].concat();
        self.push(frame.into(), true);
    }

    fn header(&mut self, header: Header) {
        self.count(header);
        let bytes = Bytes::copy_from_slice(&header.encode());
        self.push(bytes, false);
    }

    fn push(&mut self, bytes: Bytes, answer: bool) {
        self.output_len += bytes.len();
        self.answers_len += if answer { bytes.len() } else { 0 };
        self.output.push_back(bytes);
        self.answers.push_back(answer);
    }

    fn count(&mut self, header: Header) {
        self.ledger.sent(Passed::Frame(header));
        self.pace.sent(header);
    }

    /// The bytes to send next, in pieces.
    pub fn output(&self) -> &VecDeque<Bytes> {
        &self.output
    }

    /// Forgets `n` bytes that were sent. Returns whether streams may have room again.
    pub fn sent(&mut self, mut n: usize) -> bool {
        let was_full = self.is_full();
        self.output_len = self.output_len.saturating_sub(n);
        while let Some(first) = self.output.front_mut() {
            if first.len() > n {
                let _ = first.split_to(n);
                if self.answers.front() == Some(&true) {
                    self.answers_len = self.answers_len.saturating_sub(n);
                }
                break;
            }
            n -= first.len();
            if self.answers.pop_front() == Some(true) {
                self.answers_len = self.answers_len.saturating_sub(first.len());
            }
            self.output.pop_front();
        }
        was_full && !self.is_full()
    }

    /// Whether the peer's next byte begins a frame, and no header block is half way.
    pub fn is_between_frames(&self) -> bool {
        self.input.is_between_frames()
    }

    /// What has passed so far.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The settings of the peer.
    pub fn peer(&self) -> PeerSettings {
        self.ledger.peer()
    }
}

#[cfg(test)]
mod tests;

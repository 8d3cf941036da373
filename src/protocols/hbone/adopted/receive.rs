//! What a peer sends on a tunnel that was taken over, and the rules that it has to keep (RFC 9113 sections 4 to 6).

use bytes::{Buf, Bytes};
use h2::Reason;

use super::{
    connection::{Adopted, Event, PING_PAYLOAD},
    input::At,
};
use crate::protocols::hbone::{
    ledger::{FIRST_MAX_FRAME, LARGEST_MAX_FRAME, LARGEST_WINDOW, Standing, Stream},
    wire::{
        ACK, CONTINUATION, DATA, END_HEADERS, GOAWAY, HAS_PRIORITY, HEADER_BYTES, HEADERS, Header,
        INITIAL_WINDOW, MAX_FRAME, PADDED, PING, PRIORITY, PUSH_PROMISE, Passed, RST_STREAM, Role,
        SETTING_BYTES, SETTINGS, WINDOW_UPDATE,
    },
};

/// The bytes of a header block that is skipped, its frame headers included.
/// Limit: header block on a tunnel that was taken over: 64 KiB; past it: GOAWAY with ENHANCE_YOUR_CALM.
const MAX_BLOCK: usize = 64 * 1024;
/// The new streams that are refused.
/// Limit: streams that are refused on a tunnel that was taken over: 1024; past it: GOAWAY with ENHANCE_YOUR_CALM.
const MAX_REFUSED: usize = 1024;
/// SETTINGS_ENABLE_PUSH (RFC 9113 section 6.5.2).
/// No limit: a number of the wire.
const ENABLE_PUSH: u16 = 2;

// === impl Adopted ===

impl Adopted {
    /// Takes bytes of the peer off `bytes` until something has happened. `None`: all bytes are taken.
    ///
    /// # Errors
    /// The peer has broken a rule. The tunnel has to end with this error.
    pub fn receive(&mut self, bytes: &mut Bytes) -> Result<Option<Event>, Reason> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            match self.input.at {
                At::Header => {
                    if self.input.read(bytes, HEADER_BYTES) {
                        self.begin(Header::of(self.input.field))?;
                    }
                }
                At::Field(len) => {
                    if self.input.read(bytes, len) {
                        self.field(len)?;
                    }
                }
                At::Data => {
                    let piece = bytes.split_to(bytes.len().min(self.input.left - self.input.padding));
                    self.input.left -= piece.len();
                    if let Some(stream) = self.input.stream.filter(|_| !piece.is_empty()) {
                        self.hold(piece.len());
                        self.events.push_back(Event::Data(stream, piece));
                    } else {
                        self.top_up();
                    }
                    if self.input.left == self.input.padding {
                        self.input.at = At::Skipped;
                        self.end();
                    }
                }
                At::Skipped => {
                    let skipped = bytes.len().min(self.input.left);
                    bytes.advance(skipped);
                    self.input.left -= skipped;
                    self.end();
                }
            }
        }
    }

    /// Receives only what belongs to the frame that is under way, if one is. Returns as [`Adopted::receive`].
    ///
    /// # Errors
    /// As [`Adopted::receive`].
    pub(super) fn receive_to_boundary(&mut self, bytes: &mut Bytes) -> Result<Option<Event>, Reason> {
        loop {
            if self.events.is_empty() && (self.is_between_frames() || bytes.is_empty()) {
                return Ok(None);
            }
            let most = match self.input.at {
                At::Header => HEADER_BYTES - self.input.have,
                At::Field(len) => len - self.input.have,
                At::Data | At::Skipped => self.input.left,
            };
            let mut next = bytes.split_to(bytes.len().min(most));
            let received = self.receive(&mut next);
            if !next.is_empty() {
                // An event came before all bytes were taken.
                *bytes = [next, std::mem::take(bytes)].concat().into();
            }
            match received? {
                Some(event) => return Ok(Some(event)),
                None => continue,
            }
        }
    }

    /// Begins a frame.
    fn begin(&mut self, header: Header) -> Result<(), Reason> {
        let Header { payload, kind, stream, .. } = header;
        self.pace.received(header);
        if payload > self.input.max_frame {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        if self.input.block.is_some_and(|block| kind != CONTINUATION || block != stream) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let standing = self.ledger.standing(stream);
        let input = &mut self.input;
        (input.header, input.left, input.padding) = (header, payload as usize, 0);
        (input.at, input.stream) = (At::Skipped, None);
        match kind {
            DATA => self.begin_data(header, standing)?,
            HEADERS => self.begin_headers(header, standing)?,
            CONTINUATION => self.continue_block(header)?,
            PUSH_PROMISE => return Err(Reason::PROTOCOL_ERROR),
            PRIORITY if stream == 0 => return Err(Reason::PROTOCOL_ERROR),
            PRIORITY if payload != 5 => return Err(Reason::FRAME_SIZE_ERROR),
            RST_STREAM | WINDOW_UPDATE => self.begin_number(header, standing)?,
            SETTINGS | PING | GOAWAY => self.begin_control(header)?,
            _ => {}
        }
        self.ledger.received(Passed::Frame(header));
        if kind == HEADERS && standing == Standing::Idle {
            self.refuse(stream)?;
        }
        if self.input.left == 0 {
            self.end();
        }
        Ok(())
    }

    fn begin_data(&mut self, header: Header, standing: Standing) -> Result<(), Reason> {
        let payload = i64::from(header.payload);
        if header.has(PADDED) && header.payload == 0 {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let open = self.may_receive(header.stream, standing)?;
        let window = open.map_or(LARGEST_WINDOW, |open| open.receive);
        if payload > window.min(self.ledger.windows().1) {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        self.input.stream = open.map(|open| open.id);
        self.input.at = if header.has(PADDED) { At::Field(1) } else { At::Data };
        Ok(())
    }

    fn begin_headers(&mut self, header: Header, standing: Standing) -> Result<(), Reason> {
        let (padded, priority) = (header.has(PADDED), header.has(HAS_PRIORITY));
        let least = usize::from(padded) + if priority { 5 } else { 0 };
        if self.input.left < least {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        // The caller refuses a new stream.
        let opens = header.stream > 0 && self.ledger.role() == Role::Server && header.stream % 2 == 1;
        if standing != Standing::Idle || !opens {
            let open = self.may_receive(header.stream, standing)?;
            // Trailers end the stream (RFC 9113 section 8.1).
            if open.is_some() && !header.ends_stream() {
                return Err(Reason::PROTOCOL_ERROR);
            }
            self.input.stream = open.map(|open| open.id);
        }
        if padded {
            self.input.at = At::Field(1);
        }
        self.input.block = Some(header.stream);
        self.input.block_len = 0;
        self.continue_block(header)
    }

    fn continue_block(&mut self, header: Header) -> Result<(), Reason> {
        if self.input.block.is_none() {
            return Err(Reason::PROTOCOL_ERROR);
        }
        self.input.block_len += HEADER_BYTES + header.payload as usize;
        if self.input.block_len > MAX_BLOCK {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        if header.has(END_HEADERS) {
            self.input.block = None;
        }
        Ok(())
    }

    fn begin_number(&mut self, header: Header, standing: Standing) -> Result<(), Reason> {
        if header.payload != 4 {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let on_connection = header.stream == 0 && header.kind == WINDOW_UPDATE;
        if !on_connection && (standing == Standing::Idle || header.stream == 0) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if let Standing::Open(open) = standing {
            self.input.stream = Some(open.id);
        }
        self.input.at = At::Field(4);
        Ok(())
    }

    fn begin_control(&mut self, header: Header) -> Result<(), Reason> {
        let payload = header.payload as usize;
        if header.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let (is_sized, field) = match header.kind {
            SETTINGS if header.has(ACK) => (payload == 0, 0),
            SETTINGS => (payload.is_multiple_of(SETTING_BYTES), SETTING_BYTES),
            PING => (payload == 8, 8),
            _ => (payload >= 8, 8),
        };
        if !is_sized {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        if header.kind == SETTINGS && header.has(ACK) && self.ledger.unacknowledged().1 == 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if payload > 0 {
            self.input.at = At::Field(field);
        }
        Ok(())
    }

    /// The stream on which DATA or HEADERS have come. `None`: this end has reset it, and the peer may not know.
    fn may_receive(&self, stream: u32, standing: Standing) -> Result<Option<Stream>, Reason> {
        match standing {
            Standing::Idle => Err(Reason::PROTOCOL_ERROR),
            Standing::Open(open) if open.received_all => Err(Reason::STREAM_CLOSED),
            Standing::Open(open) => Ok(Some(open)),
            Standing::Closed { .. } if stream == 0 => Err(Reason::PROTOCOL_ERROR),
            Standing::Closed { reset: true } => Ok(None),
            Standing::Closed { reset: false } => Err(Reason::STREAM_CLOSED),
        }
    }

    /// Refuses a stream that the peer has opened. The peer may open it again elsewhere.
    fn refuse(&mut self, stream: u32) -> Result<(), Reason> {
        self.input.refused += 1;
        if self.input.refused > MAX_REFUSED {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        self.refuse_stream(stream);
        Ok(())
    }

    /// Takes a field that is whole.
    fn field(&mut self, len: usize) -> Result<(), Reason> {
        self.input.left = self.input.left.saturating_sub(len);
        self.input.at = At::Skipped;
        let stream = self.input.stream;
        let (first, second) = self.input.numbers();
        match self.input.header.kind {
            DATA | HEADERS => self.padded()?,
            RST_STREAM => {
                self.events.extend(stream.map(|stream| Event::Reset(stream, first.into())));
            }
            WINDOW_UPDATE => self.may_send_more(first & (u32::MAX >> 1))?,
            SETTINGS => {
                let [i0, i1, v0, v1, v2, v3, ..] = self.input.field;
                self.setting(u16::from_be_bytes([i0, i1]), u32::from_be_bytes([v0, v1, v2, v3]))?;
                if self.input.left > 0 {
                    self.input.at = At::Field(SETTING_BYTES);
                }
            }
            PING => self.pinged(),
            _ => self.went_away(first & (u32::MAX >> 1), second.into())?,
        }
        if self.input.left == 0 {
            self.end();
        }
        Ok(())
    }

    /// Takes the length of the padding. Nobody reads it, so the peer may send as much again.
    fn padded(&mut self) -> Result<(), Reason> {
        let [padding, ..] = self.input.field;
        let input = &mut self.input;
        let before = if input.header.kind == HEADERS && input.header.has(HAS_PRIORITY) { 5 } else { 0 };
        if usize::from(padding) + before > input.left {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if input.header.kind == DATA {
            (input.padding, input.at) = (padding.into(), At::Data);
            if input.left == input.padding {
                input.at = At::Skipped;
            }
            if let Some(stream) = input.stream {
                self.grant(stream, u32::from(padding) + 1);
            }
            self.top_up();
        }
        Ok(())
    }

    fn may_send_more(&mut self, more: u32) -> Result<(), Reason> {
        let Header { stream, .. } = self.input.header;
        if more == 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let window = match (stream, self.ledger.standing(stream)) {
            (0, _) => self.ledger.windows().0,
            (_, Standing::Open(open)) => open.send,
            _ => return Ok(()),
        };
        if window + i64::from(more) > LARGEST_WINDOW {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        self.ledger.received(Passed::Update { stream, more });
        self.events.push_back(Event::Room(stream));
        Ok(())
    }

    fn setting(&mut self, id: u16, value: u32) -> Result<(), Reason> {
        match id {
            ENABLE_PUSH if value > 1 || value == 1 && self.ledger.role() == Role::Client => {
                return Err(Reason::PROTOCOL_ERROR);
            }
            INITIAL_WINDOW => {
                let more = i64::from(value) - i64::from(self.ledger.peer().initial_window);
                let overflows = |stream: &Stream| stream.send + more > LARGEST_WINDOW;
                if i64::from(value) > LARGEST_WINDOW || self.ledger.streams().iter().any(overflows) {
                    return Err(Reason::FLOW_CONTROL_ERROR);
                }
                self.events.push_back(Event::Room(0));
            }
            MAX_FRAME if !(FIRST_MAX_FRAME..=LARGEST_MAX_FRAME).contains(&value) => {
                return Err(Reason::PROTOCOL_ERROR);
            }
            _ => {}
        }
        self.ledger.received(Passed::Setting(id, value));
        Ok(())
    }

    fn pinged(&mut self) {
        let [payload @ .., _] = self.input.field;
        if !self.input.header.has(ACK) {
            self.write(PING, ACK, 0, &payload);
        } else if payload == PING_PAYLOAD {
            self.events.push_back(Event::Pong);
        }
    }

    /// Takes a GOAWAY. Streams of this end beyond the last one are lost.
    fn went_away(&mut self, last: u32, reason: Reason) -> Result<(), Reason> {
        if self.ledger.goaways().1.is_some_and(|before| last > before) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let role = self.ledger.role();
        let lost = self.ledger.streams().iter().filter(|stream| stream.id > last && role.opens(stream.id));
        let reason = if reason == Reason::NO_ERROR { Reason::REFUSED_STREAM } else { reason };
        self.events.extend(lost.map(|stream| Event::Reset(stream.id, reason)));
        self.ledger.received(Passed::GoAway(last));
        Ok(())
    }

    /// Ends the frame, if all of it has come.
    fn end(&mut self) {
        if self.input.left > 0 {
            return;
        }
        self.input.at = At::Header;
        let header = self.input.header;
        if header.kind == SETTINGS && !header.has(ACK) {
            self.write(SETTINGS, ACK, 0, &[]);
        }
        if header.ends_stream() {
            self.events.extend(self.input.stream.map(Event::End));
        }
    }
}

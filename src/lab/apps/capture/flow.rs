//! Reassembles TCP segments into streams, and inspects the streams.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
};

use super::{
    captured::{Captured, Flow},
    packet::{Packet, Segment, parse},
};

const MAX_FLOWS: usize = 16_384;
/// The largest number of bytes of one flow that wait for a missing segment.
const MAX_PENDING_BYTES: usize = 8 << 20;
const RECORD_HEADER_BYTES: usize = 5;
/// RFC 8446 section 5.2: 2^14 bytes of content and at most 256 more.
const TLS_RECORD_BYTES: usize = (1 << 14) + 256;

/// All flows of a capture.
pub(super) struct Flows {
    marker: Vec<u8>,
    streams: BTreeMap<(SocketAddr, SocketAddr), Stream>,
    untracked: u64,
    marked_datagrams: u64,
}

/// One direction of a connection.
#[derive(Debug)]
struct Stream {
    /// The sequence number of the next byte in order.
    next: u32,
    from_start: bool,
    /// Segments past a missing one, by their sequence number.
    pending: BTreeMap<u32, Vec<u8>>,
    pending_bytes: usize,
    overflowed: bool,
    bytes: u64,
    records: Records,
    finder: Finder,
}

/// Walks over TLS records.
#[derive(Debug, Default)]
struct Records {
    header: Vec<u8>,
    /// Bytes left of the current record's content.
    left: usize,
    whole: u64,
    is_broken: bool,
}

/// Finds a marker, also across segments.
#[derive(Debug, Default)]
struct Finder {
    tail: Vec<u8>,
    found: bool,
}

// === impl Flows ===

impl Flows {
    pub(super) fn new(marker: &[u8]) -> Self {
        Self { marker: marker.to_vec(), streams: BTreeMap::new(), untracked: 0, marked_datagrams: 0 }
    }

    pub(super) fn on_frame(&mut self, frame: &[u8]) {
        match parse(frame) {
            Some(Packet::Tcp(segment)) => self.on_segment(&segment),
            Some(Packet::Udp(payload)) => {
                self.marked_datagrams += u64::from(contains(payload, &self.marker));
            }
            None => {}
        }
    }

    pub(super) fn finish(self, dropped: u64) -> Captured {
        let marker = self.marker;
        let flows = self.streams.into_iter().map(|((from, to), stream)| stream.finish(from, to, &marker));
        let (untracked, marked_datagrams) = (self.untracked, self.marked_datagrams);
        Captured { flows: flows.collect(), dropped, untracked, marked_datagrams }
    }

    fn on_segment(&mut self, segment: &Segment<'_>) {
        let full = self.streams.len() >= MAX_FLOWS;
        match self.streams.entry((segment.from, segment.to)) {
            Entry::Occupied(stream) => stream.into_mut().on(segment, &self.marker),
            Entry::Vacant(_) if full => self.untracked += 1,
            Entry::Vacant(place) => place.insert(Stream::new(segment)).on(segment, &self.marker),
        }
    }
}

// === impl Stream ===

impl Stream {
    fn new(first: &Segment<'_>) -> Self {
        Self {
            next: first.sequence.wrapping_add(u32::from(first.syn)),
            from_start: first.syn,
            pending: BTreeMap::new(),
            pending_bytes: 0,
            overflowed: false,
            bytes: 0,
            records: Records::default(),
            finder: Finder::default(),
        }
    }

    fn on(&mut self, segment: &Segment<'_>, marker: &[u8]) {
        let start = segment.sequence.wrapping_add(u32::from(segment.syn));
        // Sequence numbers wrap around: the distance as a signed number tells old from new.
        if start.wrapping_sub(self.next).cast_signed() > 0 {
            return self.keep(start, segment.payload);
        }
        self.take(start, segment.payload, marker);
        while let Some(start) = self.first_pending() {
            let Some(payload) = self.pending.remove(&start) else { return };
            self.pending_bytes -= payload.len();
            self.take(start, &payload, marker);
        }
    }

    /// The start of the first pending segment that is due.
    fn first_pending(&self) -> Option<u32> {
        let due = |start: &&u32| start.wrapping_sub(self.next).cast_signed() <= 0;
        self.pending.keys().find(due).copied()
    }

    fn keep(&mut self, start: u32, payload: &[u8]) {
        let known = self.pending.get(&start).map_or(0, Vec::len);
        if payload.len() <= known {
            return;
        }
        if self.pending_bytes + payload.len() > MAX_PENDING_BYTES {
            self.overflowed = true;
            return;
        }
        self.pending_bytes += payload.len();
        if let Some(older) = self.pending.insert(start, payload.to_vec()) {
            self.pending_bytes -= older.len();
        }
    }

    /// Takes the new bytes of a segment that starts at or before the next byte.
    fn take(&mut self, start: u32, payload: &[u8], marker: &[u8]) {
        let seen = self.next.wrapping_sub(start) as usize;
        let Some(new) = payload.get(seen..).filter(|new| !new.is_empty()) else { return };
        self.next = self.next.wrapping_add(new.len() as u32);
        self.bytes += new.len() as u64;
        self.records.on(new);
        self.finder.on(new, marker);
    }

    fn finish(self, from: SocketAddr, to: SocketAddr, marker: &[u8]) -> Flow {
        let hidden = self.pending.values().any(|payload| contains(payload, marker));
        Flow {
            from,
            to,
            bytes: self.bytes,
            records: self.records.whole,
            is_tls: self.from_start && self.bytes > 0 && !self.records.is_broken,
            has_marker: self.finder.found || hidden,
            is_complete: self.from_start && self.pending.is_empty() && !self.overflowed,
        }
    }
}

// === impl Records ===

impl Records {
    fn on(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_broken {
            if self.left > 0 {
                let part = self.left.min(bytes.len());
                self.left -= part;
                self.whole += u64::from(self.left == 0);
                bytes = bytes.get(part..).unwrap_or_default();
                continue;
            }
            let part = (RECORD_HEADER_BYTES - self.header.len()).min(bytes.len());
            self.header.extend(bytes.get(..part).unwrap_or_default());
            bytes = bytes.get(part..).unwrap_or_default();
            self.on_header();
        }
    }

    fn on_header(&mut self) {
        const HANDSHAKE: u8 = 22;
        let Some([kind, major, minor, high, low]) = self.header.first_chunk().copied() else {
            // The received part of the header must look right already: plaintext may be short.
            self.is_broken = self.header.first().is_some_and(|kind| !(20..=23).contains(kind));
            return;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let known = if self.whole == 0 { kind == HANDSHAKE } else { (20..=23).contains(&kind) };
        let version = major == 3 && (1..=3).contains(&minor);
        self.is_broken = !known || !version || length == 0 || length > TLS_RECORD_BYTES;
        self.left = length;
        self.header.clear();
    }
}

// === impl Finder ===

impl Finder {
    fn on(&mut self, bytes: &[u8], marker: &[u8]) {
        if self.found {
            return;
        }
        let overlap = marker.len().saturating_sub(1);
        let start = bytes.get(..overlap.min(bytes.len())).unwrap_or_default();
        self.tail.extend(start);
        self.found = contains(&self.tail, marker) || contains(bytes, marker);
        if bytes.len() > overlap {
            self.tail.clear();
            self.tail.extend(bytes.get(bytes.len() - overlap..).unwrap_or_default());
        } else {
            let excess = self.tail.len().saturating_sub(overlap);
            self.tail.drain(..excess);
        }
    }
}

fn contains(bytes: &[u8], marker: &[u8]) -> bool {
    let Some(first) = marker.first() else { return false };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = rest.get(at..).unwrap_or_default();
        if rest.starts_with(marker) {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests;

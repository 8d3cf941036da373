//! What an HTTP/2 connection has come to, from the frames that have passed: windows, streams, settings (RFC 9113).
//!
//! A ledger believes what it sees. HTTP/2 itself checks the frames. What a frame says counts from the end of its header
//! or field on, so a ledger is exact wherever a frame ends.

use std::collections::VecDeque;

use super::{
    windows::Mention,
    wire::{ACK, DATA, HEADERS, Header, INITIAL_WINDOW, MAX_FRAME, Passed, RST_STREAM, Role, SETTINGS},
};

/// The window with which streams and connections begin (RFC 9113 section 6.9.2).
/// No limit: a number of the wire.
const FIRST_WINDOW: u32 = 65_535;
/// The largest window (RFC 9113 section 6.9.1).
/// No limit: a number of the wire.
pub(super) const LARGEST_WINDOW: i64 = (1 << 31) - 1;
/// The largest frame before the settings say otherwise, and the smallest such setting (RFC 9113 section 6.5.2).
/// No limit: a number of the wire.
pub(super) const FIRST_MAX_FRAME: u32 = 16_384;
/// The largest setting for the size of frames (RFC 9113 section 6.5.2).
/// No limit: a number of the wire.
pub(super) const LARGEST_MAX_FRAME: u32 = (1 << 24) - 1;
/// Limit: open streams of a tunnel that are kept account of: 1024; past it: the tunnel cannot be handed over.
const MAX_STREAMS: usize = 1024;
/// Limit: streams of a tunnel that were reset and are remembered: 1024; past it: the earliest one is forgotten.
const MAX_RESET: usize = 1024;
/// Limit: own settings of a tunnel that the peer has not acknowledged: 4; past it: the tunnel cannot be handed over.
const MAX_UNACKNOWLEDGED: usize = 4;

/// The state of an HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Ledger {
    role: Role,
    send: i64,
    receive: i64,
    peer: PeerSettings,
    own_initial: u32,
    own_pending: VecDeque<Option<u32>>,
    acks_owed: u32,
    last_own: u32,
    last_peer: u32,
    goaway_sent: Option<u32>,
    goaway_received: Option<u32>,
    /// The open streams by their numbers, in order.
    streams: Vec<Stream>,
    reset: VecDeque<u32>,
    /// Whether a bound was passed, so that the ledger is not exact any more.
    lost: bool,
}

/// An open stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// What this end may send.
    pub(super) send: i64,
    /// What the peer may send.
    pub(super) receive: i64,
    /// The number of bytes that this end has sent, without what is beyond 32 bits.
    pub(super) sent: u32,
    /// Whether the peer has sent HEADERS.
    pub(super) headed: bool,
    /// Whether this end has ended its half.
    pub(super) sent_all: bool,
    /// Whether the peer has ended its half.
    pub(super) received_all: bool,
}

/// How a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody has opened it.
    Idle,
    /// It is open, at least in one direction.
    Open(Stream),
    /// It is closed.
    Closed {
        /// Whether this end has reset it, so that frames of the peer may still be on their way.
        reset: bool,
    },
}

/// A connection between two frames, as a value. Another process can go on with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The end that the process has.
    pub role: Role,
    /// What this end may send on the connection, in bytes.
    pub send: i64,
    /// What the peer may send on the connection, in bytes.
    pub receive: i64,
    /// The peer's settings.
    pub peer: PeerSettings,
    /// The own initial window of streams that the peer has acknowledged.
    pub own_initial: u32,
    /// The initial windows in own settings that the peer has not acknowledged, in order. `None`: settings without one.
    pub own_pending: Vec<Option<u32>>,
    /// The settings of the peer that this end has not acknowledged.
    pub acks_owed: u32,
    /// The highest stream that this end has opened, or 0.
    pub last_own: u32,
    /// The highest stream that the peer has opened, or 0.
    pub last_peer: u32,
    /// The last stream of the last GOAWAY that was sent.
    pub goaway_sent: Option<u32>,
    /// The last stream of the last GOAWAY that was received.
    pub goaway_received: Option<u32>,
    /// The open streams, in the order of their numbers.
    pub streams: Vec<StreamSnapshot>,
    /// The streams that this end has reset, and of which frames may still come.
    pub reset: Vec<u32>,
}

/// The settings of the peer that bind this end (RFC 9113 section 6.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// The initial send window of streams, in bytes.
    pub initial_window: u32,
    /// The largest payload of a frame, in bytes.
    pub max_frame: u32,
}

/// An open stream, as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamSnapshot {
    /// The number of the stream.
    pub id: u32,
    /// What this end may send, in bytes. A change of the initial window can make it negative.
    pub send: i64,
    /// What the peer may send, in bytes.
    pub receive: i64,
    /// Whether this end has ended its half.
    pub sent_all: bool,
    /// Whether the peer has ended its half.
    pub received_all: bool,
}

/// Why no connection can be as a snapshot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSnapshot {
    /// A window is beyond what HTTP/2 knows.
    #[error("a window of {0} bytes")]
    Window(i64),
    /// The peer's largest frame is beyond what HTTP/2 knows.
    #[error("frames of up to {0} bytes")]
    Frame(u32),
    /// A stream was never opened, is named twice, or has ended in both directions.
    #[error("stream {0} cannot be open")]
    Stream(u32),
    /// There is more of something than a connection has.
    #[error("too many {0}")]
    TooMany(&'static str),
}

// === impl Stream ===

impl Stream {
    /// Notes a frame with END_STREAM. Returns whether the stream is closed.
    fn end(&mut self, own: bool) -> bool {
        if own {
            self.sent_all = true;
        } else {
            self.received_all = true;
        }
        self.sent_all && self.received_all
    }
}

// === impl Ledger ===

impl Ledger {
    /// The ledger of a connection on which nothing has passed.
    pub(super) fn new(role: Role) -> Self {
        let peer = PeerSettings { initial_window: FIRST_WINDOW, max_frame: FIRST_MAX_FRAME };
        Self {
            role,
            send: FIRST_WINDOW.into(),
            receive: FIRST_WINDOW.into(),
            peer,
            own_initial: FIRST_WINDOW,
            own_pending: VecDeque::new(),
            acks_owed: 0,
            last_own: 0,
            last_peer: 0,
            goaway_sent: None,
            goaway_received: None,
            streams: Vec::new(),
            reset: VecDeque::new(),
            lost: false,
        }
    }

    /// Notes what the peer has sent.
    pub(super) fn received(&mut self, passed: Passed) {
        match passed {
            Passed::Frame(header) => self.received_frame(header),
            Passed::Setting(INITIAL_WINDOW, window) => {
                let more = i64::from(window) - i64::from(self.peer.initial_window);
                self.peer.initial_window = window;
                self.streams.iter_mut().for_each(|stream| stream.send += more);
            }
            Passed::Setting(MAX_FRAME, most) => self.peer.max_frame = most,
            Passed::Setting(..) => {}
            Passed::Update { stream: 0, more } => self.send = self.send.saturating_add(more.into()),
            Passed::Update { stream, more } => {
                if let Some(stream) = self.stream(stream) {
                    stream.send = stream.send.saturating_add(more.into());
                }
            }
            Passed::GoAway(last) => {
                self.goaway_received = Some(last);
                let role = self.role;
                self.streams.retain(|stream| stream.id <= last || !role.opens(stream.id));
            }
        }
    }

    fn received_frame(&mut self, header: Header) {
        let Header { kind, stream: id, payload, .. } = header;
        match kind {
            DATA => {
                self.receive -= i64::from(payload);
                if let Some(stream) = self.stream(id) {
                    stream.receive -= i64::from(payload);
                }
            }
            HEADERS if id > self.last_peer && !self.role.opens(id) => {
                self.last_peer = id;
                match self.goaway_sent {
                    // HTTP/2 ignores what the peer has opened before it knew of the last GOAWAY.
                    Some(last) if id > last => self.remember(id),
                    _ => self.open(id, true),
                }
            }
            HEADERS => self.stream(id).into_iter().for_each(|stream| stream.headed = true),
            RST_STREAM => self.close(id),
            SETTINGS if header.has(ACK) => {
                if let Some(Some(window)) = self.own_pending.pop_front() {
                    let more = i64::from(window) - i64::from(self.own_initial);
                    self.own_initial = window;
                    self.streams.iter_mut().for_each(|stream| stream.receive += more);
                }
            }
            SETTINGS => self.acks_owed = self.acks_owed.saturating_add(1),
            _ => {}
        }
        self.end(header, false);
    }

    /// Notes what this end has sent.
    pub(super) fn sent(&mut self, passed: Passed) {
        match passed {
            Passed::Frame(header) => self.sent_frame(header),
            Passed::Setting(INITIAL_WINDOW, window) => {
                if let Some(pending) = self.own_pending.back_mut() {
                    *pending = Some(window);
                }
            }
            Passed::Setting(..) => {}
            Passed::Update { stream: 0, more } => self.receive = self.receive.saturating_add(more.into()),
            Passed::Update { stream, more } => {
                if let Some(stream) = self.stream(stream) {
                    stream.receive = stream.receive.saturating_add(more.into());
                }
            }
            Passed::GoAway(last) => {
                self.goaway_sent = Some(last);
                let role = self.role;
                self.streams.retain(|stream| stream.id <= last || role.opens(stream.id));
            }
        }
    }

    fn sent_frame(&mut self, header: Header) {
        let Header { kind, stream: id, payload, .. } = header;
        match kind {
            DATA => {
                self.send -= i64::from(payload);
                if let Some(stream) = self.stream(id) {
                    stream.send -= i64::from(payload);
                    stream.sent = stream.sent.wrapping_add(payload);
                }
            }
            HEADERS if id > self.last_own && self.role.opens(id) => {
                self.last_own = id;
                self.open(id, false);
            }
            RST_STREAM => self.reset(id),
            SETTINGS if header.has(ACK) => self.acks_owed = self.acks_owed.saturating_sub(1),
            SETTINGS if self.own_pending.len() < MAX_UNACKNOWLEDGED => self.own_pending.push_back(None),
            SETTINGS => self.lost = true,
            _ => {}
        }
        self.end(header, true);
    }

    fn open(&mut self, id: u32, headed: bool) {
        if self.streams.len() >= MAX_STREAMS {
            self.lost = true;
            return;
        }
        let (send, receive) = (self.peer.initial_window.into(), self.own_initial.into());
        let stream = Stream { id, send, receive, sent: 0, headed, sent_all: false, received_all: false };
        let at = self.streams.partition_point(|other| other.id < id);
        self.streams.insert(at, stream);
    }

    /// Notes the end of a half of a stream, if `header` ends one.
    fn end(&mut self, header: Header, own: bool) {
        if header.ends_stream()
            && let Some(stream) = self.stream(header.stream)
            && stream.end(own)
        {
            self.close(header.stream);
        }
    }

    fn close(&mut self, id: u32) {
        if let Ok(at) = self.place(id) {
            self.streams.remove(at);
        }
    }

    fn reset(&mut self, id: u32) {
        let received_all = self.stream(id).is_none_or(|stream| stream.received_all);
        self.close(id);
        if !received_all {
            self.remember(id);
        }
    }

    /// Notes a stream that does not go on, and of which frames may still come.
    fn remember(&mut self, id: u32) {
        if self.reset.len() >= MAX_RESET {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
    }

    fn place(&self, id: u32) -> Result<usize, usize> {
        self.streams.binary_search_by_key(&id, |stream| stream.id)
    }

    fn stream(&mut self, id: u32) -> Option<&mut Stream> {
        self.place(id).ok().and_then(|at| self.streams.get_mut(at))
    }

    /// How a stream stands.
    pub(super) fn standing(&self, id: u32) -> Standing {
        if let Some(stream) = self.place(id).ok().and_then(|at| self.streams.get(at)) {
            return Standing::Open(*stream);
        }
        if !self.has_begun(id) {
            return Standing::Idle;
        }
        Standing::Closed { reset: self.reset.contains(&id) }
    }

    /// When a WINDOW_UPDATE of this end may name the stream. A peer whose GOAWAY is on its way ignores HEADERS of a new
    /// stream, and takes the stream for idle then: a WINDOW_UPDATE would be the end of the tunnel (RFC 9113 section 5.1).
    /// So a stream of this end must have been answered.
    pub(super) fn may_update(&self, id: u32) -> Mention {
        match self.standing(id) {
            Standing::Open(stream) if stream.headed => Mention::Now,
            Standing::Idle | Standing::Open(_) => Mention::Later,
            Standing::Closed { .. } => Mention::Never,
        }
    }

    /// Whether somebody has opened the stream.
    fn has_begun(&self, id: u32) -> bool {
        id <= if self.role.opens(id) { self.last_own } else { self.last_peer }
    }

    /// The end that the process has.
    pub(super) fn role(&self) -> Role {
        self.role
    }

    /// The open streams.
    pub(super) fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// What this end and the peer may send on the connection.
    pub(super) fn windows(&self) -> (i64, i64) {
        (self.send, self.receive)
    }

    /// The settings of the peer.
    pub(super) fn peer(&self) -> PeerSettings {
        self.peer
    }

    /// The highest stream that the peer has opened.
    pub(super) fn last_peer(&self) -> u32 {
        self.last_peer
    }

    /// The last streams of the GOAWAYs that were sent and received.
    pub(super) fn goaways(&self) -> (Option<u32>, Option<u32>) {
        (self.goaway_sent, self.goaway_received)
    }

    /// The settings that this end has to acknowledge, and those that the peer has to.
    pub(super) fn unacknowledged(&self) -> (u32, usize) {
        (self.acks_owed, self.own_pending.len())
    }

    /// The state between two frames. `None`: a bound was passed, and the ledger is not exact any more.
    pub(super) fn snapshot(&self) -> Option<Snapshot> {
        let stream = |&Stream { id, send, receive, sent_all, received_all, .. }: &Stream| StreamSnapshot {
            id,
            send,
            receive,
            sent_all,
            received_all,
        };
        (!self.lost).then(|| Snapshot {
            role: self.role,
            send: self.send,
            receive: self.receive,
            peer: self.peer,
            own_initial: self.own_initial,
            own_pending: self.own_pending.iter().copied().collect(),
            acks_owed: self.acks_owed,
            last_own: self.last_own,
            last_peer: self.last_peer,
            goaway_sent: self.goaway_sent,
            goaway_received: self.goaway_received,
            streams: self.streams.iter().map(stream).collect(),
            reset: self.reset.iter().copied().collect(),
        })
    }

    /// The ledger of a connection that goes on where `snapshot` says.
    ///
    /// # Errors
    /// No connection can be like that.
    pub(super) fn restore(snapshot: &Snapshot) -> Result<Self, BadSnapshot> {
        snapshot.check()?;
        let stream = |&StreamSnapshot { id, send, receive, sent_all, received_all }: &StreamSnapshot| {
            // A stream that moves was answered.
            Stream { id, send, receive, sent: 0, headed: true, sent_all, received_all }
        };
        Ok(Self {
            role: snapshot.role,
            send: snapshot.send,
            receive: snapshot.receive,
            peer: snapshot.peer,
            own_initial: snapshot.own_initial,
            own_pending: snapshot.own_pending.iter().copied().collect(),
            acks_owed: snapshot.acks_owed,
            last_own: snapshot.last_own,
            last_peer: snapshot.last_peer,
            goaway_sent: snapshot.goaway_sent,
            goaway_received: snapshot.goaway_received,
            streams: snapshot.streams.iter().map(stream).collect(),
            reset: snapshot.reset.iter().copied().collect(),
            lost: false,
        })
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Checks that a connection can be like that.
    ///
    /// # Errors
    /// See [`BadSnapshot`].
    pub fn check(&self) -> Result<(), BadSnapshot> {
        let initial = [self.peer.initial_window, self.own_initial].map(i64::from);
        let pending = self.own_pending.iter().flatten().copied().map(i64::from);
        let streams = self.streams.iter().flat_map(|stream| [stream.send, stream.receive]);
        let windows = initial.into_iter().chain(pending).chain(streams).chain([self.send, self.receive]);
        let bounds = -LARGEST_WINDOW - 1..=LARGEST_WINDOW;
        if let Some(window) = windows.into_iter().find(|window| !bounds.contains(window)) {
            return Err(BadSnapshot::Window(window));
        }
        if !(FIRST_MAX_FRAME..=LARGEST_MAX_FRAME).contains(&self.peer.max_frame) {
            return Err(BadSnapshot::Frame(self.peer.max_frame));
        }
        let counts = [
            ("streams", self.streams.len(), MAX_STREAMS),
            ("streams that were reset", self.reset.len(), MAX_RESET),
            ("own settings", self.own_pending.len(), MAX_UNACKNOWLEDGED),
            ("settings", self.acks_owed as usize, MAX_UNACKNOWLEDGED),
        ];
        if let Some((name, ..)) = counts.into_iter().find(|(_, count, most)| count > most) {
            return Err(BadSnapshot::TooMany(name));
        }
        let mut before = 0;
        for stream in &self.streams {
            let last = if self.role.opens(stream.id) { self.last_own } else { self.last_peer };
            let ended = stream.sent_all && stream.received_all;
            if stream.id <= before || stream.id > last || ended {
                return Err(BadSnapshot::Stream(stream.id));
            }
            before = stream.id;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

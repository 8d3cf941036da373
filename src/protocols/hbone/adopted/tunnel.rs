//! An adopted tunnel, which its driver and the sides of its streams share.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    fmt,
    future::{Future, poll_fn},
    io,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::Reason;

use super::connection::{Adopted, Event};
use crate::protocols::{
    hbone::{
        frozen::{FrozenHttp2, FrozenStream, NotStill, snapshot},
        ledger::BadSnapshot,
        side::Waiting,
        windows::{StreamWindow, Windows},
    },
    relay::RelayError,
};

/// A tunnel that was taken over. Clones share it.
#[derive(Clone)]
pub struct AdoptedTunnel(pub(super) Rc<RefCell<Shared>>);

/// Why a tunnel has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// All streams have ended.
    #[error("all streams have ended")]
    Done,
    /// The peer has closed the connection.
    #[error("the peer has closed the tunnel")]
    Closed,
    /// The connection broke.
    #[error("{1}")]
    Broken(io::ErrorKind, String),
    /// The peer has broken a rule of HTTP/2.
    #[error("the peer has broken the rules of HTTP/2: {0}")]
    Violation(Reason),
    /// This end has ended the tunnel.
    #[error("the tunnel was ended: {0}")]
    Left(Reason),
}

/// Why a stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchStream {
    /// Its tunnel knows nothing of it, or something else.
    #[error("stream {0} is not as its tunnel has it")]
    Unknown(u32),
    /// It goes on already.
    #[error("stream {0} is named twice")]
    Twice(u32),
}

pub(super) struct Shared {
    pub(super) core: Adopted,
    pub(super) inboxes: BTreeMap<u32, Inbox>,
    pub(super) windows: Windows,
    pub(super) driver: Option<Waker>,
    /// The streams that wait for room, and whose turn is first. A stream that got room waits behind all others the next
    /// time.
    pub(super) crowded: VecDeque<u32>,
    /// Bytes of the peer that are not looked at yet.
    pub(super) unread: Bytes,
    pub(super) ended: Option<Ended>,
    pub(super) still: Still,
    /// Who waits until the tunnel stands still, or for the answer to a PING.
    pub(super) waits: Option<Waker>,
    pong: Option<Waker>,
    /// Whether a PING is not answered yet.
    pinged: bool,
}

/// How a tunnel comes to stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Still {
    /// It goes on.
    No,
    /// It reads no further than to the end of the frame.
    Stops,
    /// No byte passes.
    Frozen,
}

/// What has come for a stream.
pub(super) struct Inbox {
    pub(super) waiting: Waiting,
    /// Whether the peer has ended its half.
    pub(super) finished: bool,
    /// The reset by the peer.
    pub(super) reset: Option<Reason>,
    pub(super) window: StreamWindow,
    /// What was received and not released.
    pub(super) unread: usize,
    pub(super) waker: Option<Waker>,
}

// === impl Shared ===

impl Shared {
    pub(super) fn wake_driver(&self) {
        self.driver.iter().for_each(Waker::wake_by_ref);
    }

    fn wake(&mut self, stream: u32) {
        if let Some(waker) = self.inboxes.get_mut(&stream).and_then(|inbox| inbox.waker.take()) {
            waker.wake();
        }
    }

    /// Wakes the streams that waited for room and have it now. Each keeps its place until it takes some.
    pub(super) fn wake_crowded(&mut self) {
        let Self { crowded, core, inboxes, .. } = self;
        for stream in crowded.iter().filter(|stream| core.room(**stream) > 0) {
            let waker = inboxes.get_mut(stream).and_then(|inbox| inbox.waker.take());
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// A stream waits for room no longer.
    pub(super) fn uncrowd(&mut self, stream: u32) {
        if let Some(place) = self.crowded.iter().position(|waiting| *waiting == stream) {
            self.crowded.remove(place);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Data(stream, bytes) => self.handle_data(stream, bytes),
            Event::End(stream) => {
                self.inboxes.get_mut(&stream).into_iter().for_each(|inbox| inbox.finished = true);
                self.wake(stream);
            }
            Event::Reset(stream, reason) => {
                self.inboxes.get_mut(&stream).into_iter().for_each(|inbox| inbox.reset = Some(reason));
                self.wake(stream);
            }
            Event::Room(0) => self.wake_crowded(),
            Event::Room(stream) => self.wake(stream),
            Event::Pong => {
                self.pinged = false;
                self.pong.take().into_iter().for_each(Waker::wake);
            }
        }
    }

    fn handle_data(&mut self, stream: u32, bytes: Bytes) {
        let Some(inbox) = self.inboxes.get_mut(&stream) else {
            // Nobody reads it any more.
            return self.core.release(bytes.len());
        };
        if inbox.window.received(bytes.len()).is_err() {
            inbox.reset = Some(Reason::FLOW_CONTROL_ERROR);
            self.core.reset(stream, Reason::FLOW_CONTROL_ERROR);
            self.core.release(bytes.len());
        } else {
            inbox.unread += bytes.len();
            inbox.waiting.push(bytes);
        }
        self.wake(stream);
    }

    /// Handles what is unread. With `all` false nothing beyond the frame that is under way.
    pub(super) fn take_in(&mut self, all: bool) -> Result<(), Reason> {
        let mut unread = std::mem::take(&mut self.unread);
        let taken = loop {
            if all && (self.core.is_turn_over() || self.core.is_clogged()) {
                break Ok(());
            }
            let next =
                if all { self.core.receive(&mut unread) } else { self.core.receive_to_boundary(&mut unread) };
            match next {
                Ok(Some(event)) => self.handle(event),
                Ok(None) => break Ok(()),
                Err(reason) => break Err(reason),
            }
        };
        self.unread = unread;
        taken
    }

    /// Ends the tunnel, and with it its streams.
    pub(super) fn end(&mut self, ended: Ended) {
        self.ended.get_or_insert(ended);
        self.inboxes.values_mut().filter_map(|inbox| inbox.waker.take()).for_each(Waker::wake);
        self.pong.take().into_iter().chain(self.waits.take()).for_each(Waker::wake);
    }

    fn is_still(&self) -> bool {
        self.still != Still::No && self.ended.is_none() && self.core.is_between_frames()
    }

    /// Resets the streams that nobody goes on with, and lets the peer send what the former process had read.
    pub(super) fn begin(&mut self) {
        let left: Vec<u32> =
            self.core.streams().filter(|stream| !self.inboxes.contains_key(stream)).collect();
        left.into_iter().for_each(|stream| self.core.reset(stream, Reason::CANCEL));
        self.core.set_target(self.windows.connection());
    }

    /// The fault of a stream that is gone. `None` inside: its peer merely went away.
    pub(super) fn gone(&self, stream: u32) -> Option<Option<RelayError>> {
        match self.inboxes.get(&stream).and_then(|inbox| inbox.reset) {
            Some(Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED) => Some(None),
            Some(reason) => Some(Some(RelayError::PeerReset(reason))),
            None => self.ended.as_ref().filter(|ended| **ended != Ended::Done).map(|ended| {
                let kind = match ended {
                    Ended::Broken(kind, _) => *kind,
                    _ => io::ErrorKind::ConnectionAborted,
                };
                Some(RelayError::Receive(io::Error::new(kind, ended.clone())))
            }),
        }
    }

    /// Has the task of `cx` woken when something happens to a stream.
    pub(super) fn wait_for(&mut self, stream: u32, cx: &Context<'_>) {
        if let Some(inbox) = self.inboxes.get_mut(&stream) {
            inbox.waker = Some(cx.waker().clone());
        }
    }

    /// Has the task of `cx` woken when a stream may have room, or when something else happens to it.
    pub(super) fn wait_for_room(&mut self, stream: u32, cx: &Context<'_>) {
        if !self.crowded.contains(&stream) {
            self.crowded.push_back(stream);
        }
        self.wait_for(stream, cx);
    }
}

// === impl AdoptedTunnel ===

impl AdoptedTunnel {
    /// The tunnel that goes on where `frozen` says.
    ///
    /// # Errors
    /// No connection can be like that.
    pub(super) fn new(frozen: FrozenHttp2, windows: Windows, max_frame: u32) -> Result<Self, BadSnapshot> {
        let mut core = Adopted::new(&frozen.ledger, max_frame, windows.connection())?;
        core.put_first(frozen.unsent);
        Ok(Self(Rc::new(RefCell::new(Shared {
            core,
            inboxes: BTreeMap::new(),
            windows,
            driver: None,
            crowded: VecDeque::new(),
            unread: frozen.unread,
            ended: None,
            still: Still::No,
            waits: None,
            pong: None,
            pinged: false,
        }))))
    }

    /// Sends a PING and waits for the answer, or for the end of the tunnel. There is no timeout: the caller sets the
    /// deadline.
    pub fn ping(&self) -> impl Future<Output = ()> + use<> {
        let this = self.clone();
        let mut sent = false;
        poll_fn(move |cx| {
            let this = &mut *this.0.borrow_mut();
            if !std::mem::replace(&mut sent, true) && !std::mem::replace(&mut this.pinged, true) {
                this.core.ping();
                this.wake_driver();
            }
            if !this.pinged || this.ended.is_some() {
                return Poll::Ready(());
            }
            this.pong = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    /// Ends the tunnel with this error. The peer is told, and all streams end.
    pub fn leave(&self, reason: Reason) {
        let this = &mut *self.0.borrow_mut();
        this.core.goaway(reason);
        this.end(Ended::Left(reason));
        this.wake_driver();
    }

    /// The number of streams that are open or have bytes for their relays.
    pub fn streams(&self) -> usize {
        self.0.borrow().inboxes.len()
    }

    /// Has the tunnel stand still at the next place between two frames. It has to be driven meanwhile.
    pub fn stop(&self) {
        let this = &mut *self.0.borrow_mut();
        this.still = Still::Stops;
        this.wake_driver();
    }

    /// Waits until the tunnel stands still. There is no timeout: the caller sets the deadline.
    pub fn poll_still(&self, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self.0.borrow_mut();
        if this.is_still() {
            return Poll::Ready(());
        }
        this.waits = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The HTTP/2 connection, whose streams are these, as it stands. From now on no byte passes, until
    /// [`AdoptedTunnel::go_on`].
    ///
    /// # Errors
    /// See [`NotStill`]. The tunnel may go on then, or wait for longer.
    pub fn freeze(&self, streams: &[FrozenStream]) -> Result<FrozenHttp2, NotStill> {
        let this = &mut *self.0.borrow_mut();
        if !this.is_still() {
            return Err(NotStill::Moving);
        }
        let ledger = snapshot(this.core.ledger(), streams, false)?;
        this.still = Still::Frozen;
        let unsent = this.core.output().iter().flatten().copied().collect();
        Ok(FrozenHttp2 { ledger, unread: this.unread.clone(), unsent })
    }

    /// Has the tunnel go on as if it had never stood still.
    pub fn go_on(&self) {
        let this = &mut *self.0.borrow_mut();
        this.still = Still::No;
        this.wake_driver();
    }
}

impl fmt::Debug for AdoptedTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdoptedTunnel").finish_non_exhaustive()
    }
}

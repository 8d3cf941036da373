//! The byte loop between two sides of a connection (docs/spec/dataplane.md 2.7 and 8).
//!
//! Two independent directions in one future. Each reads a chunk, passes it on whole, and counts it; at the end or at
//! an error of its source it half-closes the other side. Nothing is buffered while nothing moves: chunks are read
//! into the shard's scratch area, and only what could not be passed on is kept.

pub mod frozen;
pub mod tcp;

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::net::TcpStream;

use super::tls::buffer::Buffers;

/// First chunk size of a direction in bytes; doubled each time a source fills it.
/// Limit: first chunk of a relay: 16 KiB; past it: the chunk doubles while the source fills it.
const FIRST_CHUNK: usize = 16 * 1024;
/// Largest chunk.
/// Limit: chunk of a relay: 512 KiB; past it: the rest is read later.
const MAX_CHUNK: usize = 512 * 1024;
/// Bytes that are copied when their destination takes no more for the time being.
/// Limit: bytes of a relay that are copied while they wait: 64 KiB; past it: they keep their part of a buffer.
const COPIED_WAITING_BYTES: usize = 64 * 1024;
/// Bytes a direction moves before other tasks of the shard get their turn.
/// Limit: bytes that a direction moves in one turn: 1 MiB; past it: other tasks of the shard go first.
const TURN_BYTES: usize = 1024 * 1024;

impl Shortcut for () {
    fn poll_pass(
        &mut self,
        _: &mut Context<'_>,
        _: (&TcpStream, &TcpStream),
        _: &mut usize,
        _: usize,
    ) -> Poll<Passed> {
        Poll::Ready(Passed::Unable)
    }
}

/// What the first side of a relay, the client, has sent before the relay began.
#[derive(Debug)]
pub enum ClientBytes {
    /// Nothing has been read from the client.
    NotRead,
    /// So many bytes were read, and the second side has received them already.
    Forwarded(usize),
    /// These bytes were read, and the relay has still to pass them on.
    Pending(Bytes),
    /// The client has ended.
    Ended(End),
}

/// Why a direction ended otherwise than by the end of its source.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The source broke.
    #[error("receive: {0}")]
    Receive(io::Error),
    /// The destination broke while bytes were on their way.
    #[error("send: {0}")]
    Send(io::Error),
    /// The peer reset the stream with this HTTP/2 error code.
    #[error("stream reset by peer: {0}")]
    PeerReset(h2::Reason),
    /// The tunnel below the stream failed.
    #[error("{0}")]
    Tunnel(h2::Error),
    /// One side is gone, and the other side did not take what that side had sent.
    #[error("one side is gone, and the other side takes no bytes")]
    Undelivered,
}

/// How reading from a side ended.
#[derive(Debug)]
pub enum End {
    /// The side has sent its last byte. The other direction may go on.
    Finished,
    /// The side is gone in both directions.
    Gone(Option<RelayError>),
    /// Reading failed, but written bytes may still arrive.
    Failed(RelayError),
}

/// A side of a relayed connection.
pub trait Side {
    /// The next bytes, at most about `max`, or how reading ended.
    fn poll_chunk(&mut self, cx: &mut Context<'_>, max: usize, buffers: &Buffers)
    -> Poll<Result<Bytes, End>>;

    /// Waits until the side may have bytes. A side that cannot tell is always ready.
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// How reading has ended, if the end is already known. The relay asks after a chunk that left nothing to read, so
    /// the last bytes and the end go on together.
    fn ended(&mut self, _: &mut Context<'_>) -> Option<End> {
        None
    }

    /// `n` bytes of a chunk have been passed on, so the peer may send as many more.
    fn passed(&mut self, _: usize) {}

    /// How many bytes can be written now, at most about `want` and at least one. `None`: nothing can be written any
    /// more. A side that cannot tell has room.
    fn poll_room(&mut self, _: &mut Context<'_>, want: usize) -> Poll<Result<usize, Option<RelayError>>> {
        Poll::Ready(Ok(want))
    }

    /// Writes all of `chunk` and advances `chunk` by the bytes taken. `last` is true if [`Side::poll_finish`] comes
    /// next. The error is `None` if the peer merely went away.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &mut Bytes,
        last: bool,
    ) -> Poll<Result<(), Option<RelayError>>>;

    /// Gives reserved room back while there is nothing to write. Otherwise the idle streams of a tunnel would together
    /// hold the peer's whole window. The result is ready if this side is gone.
    fn poll_idle(&mut self, _: &mut Context<'_>) -> Poll<Option<RelayError>> {
        Poll::Pending
    }

    /// Waits until the peer of this side is gone in both directions. The relay asks while it does not read, because the
    /// other side takes no bytes. The side may take received bytes out of the layer below, to see what is behind them.
    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// Whether the peer of this side is gone, for a side whose loss may wake no task.
    /// [`Relay::check_gone`] asks.
    fn check_gone(&mut self) -> bool {
        false
    }

    /// Keeps the connection of a side although one direction has ended, and the other one may be silent for long.
    fn keep_half_closed(&mut self) {}

    /// Half-closes the side after its last byte.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Makes the drop of this side tell its peer that bytes are missing.
    fn reset_on_drop(&mut self) {}

    /// The TCP connection, if the side passes bytes on unchanged.
    fn plain(&self) -> Option<&TcpStream> {
        None
    }
}

/// Carries bytes from one TCP connection to another past the memory of the process. `()` carries none.
pub trait Shortcut {
    /// Moves bytes from the first to the second connection, and adds the bytes that arrived to `moved`. The move stops
    /// when the source is empty, `moved` reaches `turn`, or either side ends. When the call is ready, no bytes are on
    /// the way.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        sides: (&TcpStream, &TcpStream),
        moved: &mut usize,
        turn: usize,
    ) -> Poll<Passed>;

    /// Whether bytes are on the way that the destination has not taken.
    fn holds_bytes(&self) -> bool {
        false
    }

    /// Takes the bytes that are on the way. Bytes that cannot be taken stay.
    fn take_held(&mut self) -> Bytes {
        Bytes::new()
    }
}

/// The reason why a [`Shortcut`] stopped.
#[derive(Debug)]
pub enum Passed {
    /// The source had so few bytes that copying is better.
    Little,
    /// The shortcut cannot be used, so the relay has to copy.
    Unable,
    /// Other tasks get their turn; the source may have more bytes.
    Turn,
    /// The source has ended, or has broken.
    End(io::Result<()>),
    /// The destination has broken.
    Unsent(io::Error),
}

/// Counts bytes as they are passed on.
pub trait Meter {
    /// `n` bytes, maybe none, went from the first side to the second.
    fn forward(&self, n: usize);
    /// `n` bytes, maybe none, went from the second side to the first.
    fn backward(&self, n: usize);
}

/// A relay between two sides. It completes when both directions have ended, with the first fault if there was one.
///
/// The relay is a handwritten future, because an async function would hold its arguments twice, and every idle
/// connection keeps a relay.
#[must_use = "futures do nothing unless polled"]
pub struct Relay<'a, A, B, M, S = ()> {
    a: A,
    b: B,
    forth: Direction<S>,
    back: Direction<S>,
    /// The first fault of a direction.
    fault: Option<Box<RelayError>>,
    /// Whether bytes have been passed on since [`Relay::progressed`] was asked last.
    progressed: bool,
    meter: &'a M,
    buffers: &'a Buffers,
}

/// What a relay needs from a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Nothing. A change of either side wakes the relay's task.
    None,
    /// A call of [`Relay::check_gone`] from time to time. The loss of a side may wake no task.
    Check,
    /// An end by [`Relay::give_up`] after a time without progress. One side is gone, and the relay still holds bytes
    /// for the other side.
    Deadline,
}

/// Relays between `a` and `b`, counting on `meter`.
pub fn relay<'a, A: Side, B: Side, M: Meter>(
    a: A,
    b: B,
    meter: &'a M,
    buffers: &'a Buffers,
) -> Relay<'a, A, B, M> {
    relay_by([(), ()], (a, b), meter, buffers)
}

/// Relays between `a` and `b`. Where both are plain, large amounts take the shortcuts, one for each direction.
pub fn relay_by<'a, A: Side, B: Side, M: Meter, S: Shortcut>(
    [forth, back]: [S; 2],
    (a, b): (A, B),
    meter: &'a M,
    buffers: &'a Buffers,
) -> Relay<'a, A, B, M, S> {
    let (forth, back) = (Direction::new(forth), Direction::new(back));
    Relay { a, b, forth, back, fault: None, progressed: false, meter, buffers }
}

// === impl Relay ===

impl<A, B, M, S: Shortcut> Relay<'_, A, B, M, S> {
    /// Starts the relay with what the first side has sent before.
    pub fn after(mut self, said: ClientBytes) -> Self {
        match said {
            ClientBytes::NotRead => {}
            ClientBytes::Forwarded(n) => self.forth.moved = n,
            ClientBytes::Pending(bytes) => self.forth.pending = bytes,
            ClientBytes::Ended(end) => self.forth.source_ended(end),
        }
        self
    }

    /// What the relay needs from a clock until it is polled again.
    pub fn attention(&self) -> Attention {
        let (forth, back) = (&self.forth, &self.back);
        if forth.gone || back.gone || forth.unsent || back.unsent {
            Attention::Deadline
        } else if forth.blocked || back.blocked || self.is_half_closed() {
            Attention::Check
        } else {
            Attention::None
        }
    }

    /// Whether one direction has ended, and the other one goes on.
    pub fn is_half_closed(&self) -> bool {
        self.forth.ended() != self.back.ended()
    }

    /// Whether bytes have been passed on since the last call.
    pub fn progressed(&mut self) -> bool {
        std::mem::take(&mut self.progressed)
    }
}

impl<A: Side, B: Side, M, S: Shortcut> Relay<'_, A, B, M, S> {
    /// Finds out whether a side is gone whose loss woke no task. If so, the relay has to be polled.
    pub fn check_gone(&mut self) -> bool {
        self.forth.gone |= self.a.check_gone();
        self.back.gone |= self.b.check_gone();
        self.forth.gone || self.back.gone
    }

    /// Ends the relay although it holds bytes. The drop of the sides tells their peers that bytes are missing.
    pub fn give_up(&mut self) -> RelayError {
        if !self.forth.ended() {
            self.b.reset_on_drop();
        }
        if !self.back.ended() {
            self.a.reset_on_drop();
        }
        self.fault.take().map_or(RelayError::Undelivered, |fault| *fault)
    }
}

impl<A: Side + Unpin, B: Side + Unpin, M: Meter, S: Shortcut + Unpin> Future for Relay<'_, A, B, M, S> {
    type Output = Result<(), RelayError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let forth_ended = this.forth.poll(cx, &mut this.a, &mut this.b, this.buffers);
        let back_ended = this.back.poll(cx, &mut this.b, &mut this.a, this.buffers);
        this.progressed |= this.forth.moved + this.back.moved > 0;
        this.meter.forward(std::mem::take(&mut this.forth.moved));
        this.meter.backward(std::mem::take(&mut this.back.moved));
        // A direction that waits for its destination reads nothing and would not learn that its source is gone.
        if this.forth.blocked {
            this.forth.gone |= this.a.poll_gone(cx).is_ready();
        }
        if this.back.blocked {
            this.back.gone |= this.b.poll_gone(cx).is_ready();
        }
        // If one side is gone in both directions, the other side's remaining bytes cannot arrive.
        if this.forth.gone {
            this.back.state = Progress::Ended;
        }
        if this.back.gone {
            this.forth.state = Progress::Ended;
        }
        let fault = this.fault.take().or_else(|| this.forth.fault.take());
        this.fault = fault.or_else(|| this.back.fault.take());
        let ended = |direction: &Direction<S>, polled: Poll<()>| polled.is_ready() || direction.ended();
        if ended(&this.forth, forth_ended) && ended(&this.back, back_ended) {
            return Poll::Ready(this.fault.take().map_or(Ok(()), |fault| Err(*fault)));
        }
        Poll::Pending
    }
}

/// How far a direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The source may send more.
    Open,
    /// The source has ended, and the end is still to be passed on.
    Finishing,
    /// The end has been passed on, or the direction has failed.
    Ended,
}

/// One direction of a relay.
#[derive(Debug)]
struct Direction<S> {
    shortcut: S,
    pending: Bytes,
    /// Whether `pending` has been looked at while its destination takes no bytes.
    settled: bool,
    /// Bytes passed on in this turn.
    moved: usize,
    chunk: u32,
    state: Progress,
    /// Whether the source is gone in both directions. The destination still gets what the source has sent.
    gone: bool,
    /// Whether the destination took no more bytes, so that it is gone.
    unsent: bool,
    /// Whether the direction waits for its destination.
    blocked: bool,
    /// The fault, boxed because nearly all directions have none.
    fault: Option<Box<RelayError>>,
}

// === impl Direction ===

impl<S: Shortcut> Direction<S> {
    fn new(shortcut: S) -> Self {
        let (pending, state) = (Bytes::new(), Progress::Open);
        let (gone, unsent, blocked) = (false, false, false);
        Self {
            shortcut,
            pending,
            settled: false,
            moved: 0,
            chunk: 0,
            state,
            gone,
            unsent,
            blocked,
            fault: None,
        }
    }

    fn ended(&self) -> bool {
        self.state == Progress::Ended
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Side,
        to: &mut impl Side,
        buffers: &Buffers,
    ) -> Poll<()> {
        // Each wait that is not one for the destination clears the flag.
        self.blocked = true;
        loop {
            if let Err(fault) = ready!(self.poll_pending(cx, from, to)) {
                return self.cannot_send(fault);
            }
            match self.state {
                Progress::Open => {}
                Progress::Finishing => {
                    ready!(to.poll_finish(cx));
                    return self.end(None);
                }
                Progress::Ended => {
                    self.blocked = false;
                    return Poll::Ready(());
                }
            }
            if self.moved >= TURN_BYTES {
                self.blocked = false;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Poll::Ready(passed) = self.poll_shortcut(cx, from, to) else {
                self.blocked = self.shortcut.holds_bytes();
                return Poll::Pending;
            };
            match passed {
                Ok(true) => continue,
                Ok(false) => {}
                Err(fault) => return self.cannot_send(fault),
            }
            // The source is checked before room is requested, because most of the time the source has no bytes.
            if from.poll_readable(cx).is_pending() {
                return self.poll_idle(cx, to);
            }
            let want = FIRST_CHUNK.max(self.chunk as usize);
            let room = match ready!(to.poll_room(cx, want)) {
                Ok(room) => room.min(want),
                Err(fault) => return self.cannot_send(fault),
            };
            let Poll::Ready(read) = from.poll_chunk(cx, room, buffers) else {
                return self.poll_idle(cx, to);
            };
            match read {
                Ok(chunk) => {
                    if chunk.len() >= want && want < MAX_CHUNK {
                        self.chunk = u32::try_from(want * 2).unwrap_or(u32::MAX);
                    }
                    if chunk.len() < room
                        && let Some(end) = from.ended(cx)
                    {
                        self.source_ended(end);
                    }
                    self.pending = chunk;
                    self.settled = false;
                }
                Err(end) => self.source_ended(end),
            }
        }
    }

    /// Moves a large amount of bytes without copying. The result tells whether to look again or to copy the next bytes.
    /// The error is that of [`Side::poll_write`].
    fn poll_shortcut(
        &mut self,
        cx: &mut Context<'_>,
        from: &impl Side,
        to: &impl Side,
    ) -> Poll<Result<bool, Option<RelayError>>> {
        // A source that has filled a chunk has more.
        if self.chunk as usize <= FIRST_CHUNK {
            return Poll::Ready(Ok(false));
        }
        let (Some(from), Some(to)) = (from.plain(), to.plain()) else { return Poll::Ready(Ok(false)) };
        let again = match ready!(self.shortcut.poll_pass(cx, (from, to), &mut self.moved, TURN_BYTES)) {
            Passed::Turn => true,
            Passed::Unable => false,
            Passed::Little => {
                self.chunk = 0;
                false
            }
            Passed::End(ended) => {
                self.source_ended(ended.map_or_else(broken, |()| End::Finished));
                true
            }
            Passed::Unsent(error) => return Poll::Ready(Err(unsent(error))),
        };
        Poll::Ready(Ok(again))
    }

    fn source_ended(&mut self, end: End) {
        self.state = Progress::Finishing;
        match end {
            End::Finished => {}
            End::Gone(fault) => {
                self.gone = true;
                self.fault = fault.map(Box::new);
            }
            End::Failed(fault) => self.fault = Some(Box::new(fault)),
        }
    }

    /// Writes the bytes that wait. The error is that of [`Side::poll_write`].
    fn poll_pending(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Side,
        to: &mut impl Side,
    ) -> Poll<Result<(), Option<RelayError>>> {
        if self.pending.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let before = self.pending.len();
        let last = self.state == Progress::Finishing;
        let written = to.poll_write(cx, &mut self.pending, last);
        let n = before - self.pending.len();
        if n > 0 {
            from.passed(n);
            self.moved += n;
        }
        if written.is_pending() && !std::mem::replace(&mut self.settled, true) {
            self.settle();
        }
        written
    }

    /// Copies bytes that may wait for long. They would keep the whole buffer that they are a part of.
    fn settle(&mut self) {
        if self.pending.len() <= COPIED_WAITING_BYTES {
            self.pending = Bytes::copy_from_slice(&self.pending);
        }
    }

    /// Waits for the source. The direction ends if its destination is gone meanwhile.
    fn poll_idle(&mut self, cx: &mut Context<'_>, to: &mut impl Side) -> Poll<()> {
        self.blocked = false;
        let gone = ready!(to.poll_idle(cx));
        self.end(gone)
    }

    /// Ends the direction, as its destination takes no more bytes.
    fn cannot_send(&mut self, fault: Option<RelayError>) -> Poll<()> {
        self.unsent = true;
        self.end(fault)
    }

    fn end(&mut self, fault: Option<RelayError>) -> Poll<()> {
        self.blocked = false;
        self.pending = Bytes::new();
        self.state = Progress::Ended;
        self.fault = self.fault.take().or_else(|| fault.map(Box::new));
        Poll::Ready(())
    }
}

/// The end of a direction whose source failed with `error`.
pub fn broken(error: io::Error) -> End {
    // After a reset nothing can be written to the connection either.
    if error.kind() == io::ErrorKind::ConnectionReset {
        End::Gone(None)
    } else if went_away(&error) {
        End::Finished
    } else {
        End::Failed(RelayError::Receive(error))
    }
}

/// The fault of a direction whose destination failed with `error`.
fn unsent(error: io::Error) -> Option<RelayError> {
    (!went_away(&error)).then_some(RelayError::Send(error))
}

/// Whether the error only means that the application closed or reset its connection.
fn went_away(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}

#[cfg(test)]
pub(crate) mod tests;

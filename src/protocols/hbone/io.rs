//! The byte stream below HTTP/2, and the future that drives a connection over it.
//!
//! HTTP/2 flushes after each large frame. [`Coalesced`] ignores such a flush and leaves the sealed bytes in the buffer.
//! The driver writes the bytes out after each turn of the connection, so frames of many streams leave in one write.
//!
//! HTTP/2 also handles frames as long as there are any. [`Coalesced`] counts the frames that pass and ends the turn of
//! a tunnel that has many. The driver ends a tunnel whose peer sends nothing but frames that move nothing.
//!
//! What HTTP/2 says about the windows of streams is replaced on its way out, where a tunnel has [`Windows`].
//!
//! A tunnel can be made to stand still between two frames, so that another process goes on with it ([`Below::stop`]).

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use bytes::Bytes;

use super::{
    frames::{Frames, Role},
    frozen::{FrozenHttp2, FrozenStream, NotStill, snapshot},
    outgoing::{Next, Outgoing},
    windows::Windows,
};

/// The error of a tunnel whose peer sends too many frames that move nothing.
#[derive(Debug, thiserror::Error)]
#[error("the peer sends too many frames that move nothing")]
struct PeerFloods;

/// The number of bytes that are dropped at a time.
/// Limit: bytes that are dropped at a time after the end of an inner tunnel: 1 KiB; past it: the rest is dropped next.
const DROPPED_LEN: usize = 1024;

/// The number of bytes that are held while a tunnel stands still and the connection below takes none.
/// Limit: bytes of a tunnel that are held when it is handed over: 1 MiB; past it: the tunnel waits until it is written.
const MAX_HELD: usize = 1024 * 1024;

/// Hands the bytes of `Io` to HTTP/2 and keeps flushes for the [`Flush`] beside it.
pub struct Coalesced<Io>(Rc<RefCell<Counted<Io>>>);

/// Writes out the bytes that a [`Coalesced`] has kept.
pub struct Flush<Io>(Rc<RefCell<Counted<Io>>>);

/// Looks at the connection below while HTTP/2 and its driver use it.
pub struct Below<Io>(Rc<RefCell<Counted<Io>>>);

struct Counted<Io> {
    sink: Sink<Io>,
    frames: Frames,
    outgoing: Option<Outgoing>,
    /// What makes HTTP/2 progress.
    driver: Option<Waker>,
    stop: Option<Box<Stop>>,
}

/// The connection below, to which is written.
struct Sink<Io> {
    io: Io,
    /// Bytes that go out before all others.
    held: Vec<u8>,
    mode: Mode,
    /// Whether the last write has to be repeated.
    blocked: bool,
}

/// What becomes of bytes that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// They are passed on.
    Passes,
    /// What is not taken is held.
    Holds,
    /// Nothing is taken any more.
    Frozen,
}

/// A tunnel that is to stand still.
#[derive(Debug, Default)]
struct Stop {
    /// Whether HTTP/2 has had a turn since.
    turned: bool,
    /// Who waits until the tunnel stands still.
    waits: Option<Waker>,
}

/// Splits `io` into the part HTTP/2 uses and the part its driver flushes. `role`: the end that this process has.
pub fn coalesced<Io>(io: Io, role: Role) -> (Coalesced<Io>, Flush<Io>) {
    split(io, role, None)
}

/// Works like [`coalesced`], and has the peer told of `windows`, where HTTP/2 believes in the largest ones.
pub fn coalesced_within<Io>(io: Io, role: Role, windows: &Windows) -> (Coalesced<Io>, Flush<Io>) {
    split(io, role, Some(Outgoing::new(windows.clone())))
}

fn split<Io>(io: Io, role: Role, outgoing: Option<Outgoing>) -> (Coalesced<Io>, Flush<Io>) {
    let (sink, frames) = (Sink::new(io), Frames::new(role));
    let io = Rc::new(RefCell::new(Counted { sink, frames, outgoing, driver: None, stop: None }));
    (Coalesced(io.clone()), Flush(io))
}

// === impl Sink ===

impl<Io> Sink<Io> {
    fn new(io: Io) -> Self {
        Self { io, held: Vec::new(), mode: Mode::Passes, blocked: false }
    }

    fn is_frozen(&self) -> bool {
        self.mode == Mode::Frozen
    }
}

impl<Io: AsyncWrite + Unpin> Sink<Io> {
    /// Writes out what is held.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.is_frozen() {
            return Poll::Pending;
        }
        while !self.held.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.held))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => drop(self.held.drain(..n)),
            }
        }
        self.held = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Writes to the connection below, or holds what it does not take.
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = match self.poll_held(cx) {
            Poll::Ready(Ok(())) if self.is_frozen() => Poll::Pending,
            Poll::Ready(Ok(())) => Pin::new(&mut self.io).poll_write_vectored(cx, bufs),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        let written =
            if written.is_pending() && self.mode == Mode::Holds { self.hold(bufs) } else { written };
        self.blocked = written.is_pending();
        written
    }

    fn hold(&mut self, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let before = self.held.len();
        for buf in bufs {
            let room = MAX_HELD.saturating_sub(self.held.len());
            self.held.extend_from_slice(buf.get(..buf.len().min(room)).unwrap_or_default());
        }
        match self.held.len() - before {
            0 => Poll::Pending,
            n => Poll::Ready(Ok(n)),
        }
    }
}

// === impl Counted ===

impl<Io> Counted<Io> {
    fn wake_driver(&self) {
        self.driver.iter().for_each(Waker::wake_by_ref);
    }

    /// Notes the task that makes HTTP/2 progress.
    fn register(&mut self, cx: &Context<'_>) {
        if !self.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.driver = Some(cx.waker().clone());
        }
    }

    /// Notes the end of a turn of HTTP/2.
    fn turned(&mut self) {
        if let Some(stop) = &mut self.stop {
            stop.turned = true;
            if self.is_still()
                && let Some(waits) = self.stop.as_mut().and_then(|stop| stop.waits.take())
            {
                waits.wake();
            }
        }
    }

    /// Whether HTTP/2 has had a turn since it was stopped, and nothing is half way.
    fn is_still(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.turned)
            && self.frames.until_boundary() == 0
            && self.frames.may_insert()
            && !self.sink.blocked
            && self.outgoing.as_ref().is_none_or(Outgoing::is_empty)
    }
}

impl<Io: AsyncRead + Unpin> Counted<Io> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.frames.is_turn_over() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let most = match self.stop {
            None => self.frames.short_read(),
            Some(_) if self.frames.until_boundary() == 0 => return Poll::Pending,
            Some(_) => Some(self.frames.until_boundary()),
        };
        match most {
            Some(most) if most < buf.remaining() => {
                let mut short = ReadBuf::new(buf.initialize_unfilled_to(most));
                ready!(Pin::new(&mut self.sink.io).poll_read(cx, &mut short))?;
                let n = short.filled().len();
                buf.advance(n);
            }
            _ => ready!(Pin::new(&mut self.sink.io).poll_read(cx, buf))?,
        }
        self.frames.received(buf.filled().get(before..).unwrap_or_default());
        let padding = self.frames.padding();
        if let Some(outgoing) = &self.outgoing {
            outgoing.windows().return_padding(padding);
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> Counted<Io> {
    /// Sends what has to go out before any other byte.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(outgoing) = &mut self.outgoing else { return Poll::Ready(Ok(())) };
        loop {
            let unsent = outgoing.unsent(&self.frames);
            if unsent.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let n = ready!(self.sink.poll_write(cx, &[io::IoSlice::new(unsent)]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.frames.sent(unsent.get(..n).unwrap_or_default());
            outgoing.sent(n);
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(cx))?;
        let next = match &mut self.outgoing {
            Some(outgoing) => outgoing.next(&self.frames, bufs)?,
            None => Next::All,
        };
        match next {
            Next::All => self.poll_send(cx, bufs),
            Next::First(first) => self.poll_send(cx, &first),
            Next::Replaced(n) => Poll::Ready(Ok(n)),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let n = ready!(self.sink.poll_write(cx, bufs))?;
        let mut left = n;
        for buf in bufs {
            let written = left.min(buf.len());
            self.frames.sent(buf.get(..written).unwrap_or_default());
            left -= written;
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unsent(cx))?;
        ready!(self.sink.poll_held(cx))?;
        if self.sink.is_frozen() {
            return Poll::Pending;
        }
        Pin::new(&mut self.sink.io).poll_flush(cx)
    }

    /// Tells the peer why the tunnel ends, if the connection takes the words at once.
    fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        if let Some(goaway) = self.frames.goaway()
            && Pin::new(&mut self.sink.io).poll_write(cx, &goaway).is_ready()
        {
            // The tunnel ends in any case.
            let _ = Pin::new(&mut self.sink.io).poll_flush(cx);
            let _ = Pin::new(&mut self.sink.io).poll_shutdown(cx);
        }
    }
}

// === impl Coalesced ===

impl<Io: AsyncRead + Unpin> AsyncRead for Coalesced<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_read(cx, buf)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Coalesced<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().sink.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self.0.borrow_mut();
        ready!(this.poll_unsent(cx))?;
        ready!(this.sink.poll_held(cx))?;
        if this.sink.is_frozen() {
            return Poll::Pending;
        }
        Pin::new(&mut this.sink.io).poll_shutdown(cx)
    }
}

// === impl Below ===

impl<Io> Below<Io> {
    /// What `look` says about the connection below.
    pub fn look<T>(&self, look: impl FnOnce(&Io) -> T) -> T {
        look(&self.0.borrow().sink.io)
    }

    /// What `work` makes of the connection below. It may not let HTTP/2 go on.
    pub fn with<T>(&self, work: impl FnOnce(&mut Io) -> T) -> T {
        work(&mut self.0.borrow_mut().sink.io)
    }

    /// The last stream that a GOAWAY of this end has named.
    pub fn last_stream_said(&self) -> Option<u32> {
        self.0.borrow().frames.ledger().goaways().0
    }

    /// Has the tunnel stand still at the next place between two frames: nothing beyond it is read, and what the
    /// connection below does not take is held, up to a bound. HTTP/2 has to be driven meanwhile.
    pub fn stop(&self) {
        let mut this = self.0.borrow_mut();
        this.stop.get_or_insert_default();
        this.sink.mode = Mode::Holds;
        this.wake_driver();
    }

    /// Waits until the tunnel stands still. There is no timeout: the caller sets the deadline.
    pub fn poll_still(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.0.borrow_mut();
        if this.is_still() {
            return Poll::Ready(());
        }
        if let Some(stop) = &mut this.stop {
            stop.waits = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The HTTP/2 connection, whose streams are these, as it stands. From now on no byte passes, until [`Below::go_on`].
    ///
    /// # Errors
    /// See [`NotStill`]. The tunnel may go on then, or wait for longer.
    pub fn freeze(&self, streams: &[FrozenStream]) -> Result<FrozenHttp2, NotStill> {
        let mut this = self.0.borrow_mut();
        if !this.is_still() {
            return Err(NotStill::Moving);
        }
        let ledger = snapshot(this.frames.ledger(), streams, true)?;
        this.sink.mode = Mode::Frozen;
        Ok(FrozenHttp2 { ledger, unread: Bytes::new(), unsent: Bytes::copy_from_slice(&this.sink.held) })
    }

    /// Has the tunnel go on as if it had never stood still.
    pub fn go_on(&self) {
        let mut this = self.0.borrow_mut();
        this.stop = None;
        this.sink.mode = Mode::Passes;
        this.wake_driver();
    }
}

impl<Io> Clone for Below<Io> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

// === impl Flush ===

impl<Io> Flush<Io> {
    /// A look at the connection below.
    pub fn below(&self) -> Below<Io> {
        Below(self.0.clone())
    }
}

impl<Io: AsyncRead + Unpin> Flush<Io> {
    /// Waits until the peer has ended the connection below, whose further bytes are dropped.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [0; DROPPED_LEN];
        loop {
            let mut space = ReadBuf::new(&mut space);
            match Pin::new(&mut self.0.borrow_mut().sink.io).poll_read(cx, &mut space) {
                Poll::Ready(Ok(())) if !space.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<Io: AsyncWrite + Unpin> Flush<Io> {
    /// Writes out as many kept bytes as the connection takes now.
    ///
    /// # Errors
    /// The connection below broke.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_flush(cx)
    }

    /// Runs `work`, which makes `connection` progress, and flushes after each of its turns. `now` tells the time.
    ///
    /// # Errors
    /// Flushing failed, or the peer sends too many frames that move nothing.
    pub async fn drive<T>(&mut self, now: fn() -> Instant, work: impl Future<Output = T>) -> io::Result<T> {
        self.drive_behind(now, || false, work).await
    }

    /// Works like [`Flush::drive`], but yields to the other tasks of this thread as long as `later` returns true.
    ///
    /// # Errors
    /// As [`Flush::drive`].
    pub async fn drive_behind<T>(
        &mut self,
        now: fn() -> Instant,
        mut later: impl FnMut() -> bool,
        work: impl Future<Output = T>,
    ) -> io::Result<T> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| {
            if later() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.poll_turn(now, cx, |cx| work.as_mut().poll(cx))
        })
        .await
    }

    /// Makes one turn of `work`, which makes `connection` progress, and flushes after it.
    ///
    /// # Errors
    /// As [`Flush::drive`].
    pub fn poll_turn<T>(
        &mut self,
        now: fn() -> Instant,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<io::Result<T>> {
        let mut this = self.0.borrow_mut();
        this.frames.begin_turn();
        this.register(cx);
        if let Some(outgoing) = &this.outgoing {
            outgoing.windows().register(cx);
        }
        drop(this);
        let done = work(cx);
        if done.is_pending() && self.0.borrow_mut().frames.are_too_many(now) {
            self.0.borrow_mut().say_goodbye(cx);
            return Poll::Ready(Err(io::Error::other(PeerFloods)));
        }
        let flushed = self.poll(cx);
        if done.is_pending() {
            self.0.borrow_mut().turned();
        }
        match (flushed, done) {
            (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
            (_, Poll::Ready(done)) => Poll::Ready(Ok(done)),
            (_, Poll::Pending) => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests;

//! The byte stream below HTTP/2, and the future that drives a connection over it.
//!
//! HTTP/2 flushes after each large frame. [`Coalesced`] ignores such a flush and leaves the sealed bytes in the buffer.
//! The driver writes the bytes out after each turn of the connection, so frames of many streams leave in one write.
//!
//! HTTP/2 also handles frames as long as there are any. [`Coalesced`] counts the frames that pass and ends the turn of
//! a tunnel that has many. The driver ends a tunnel whose peer sends nothing but frames that move nothing.
//!
//! What HTTP/2 says about the windows of streams is replaced on its way out, where a tunnel has [`Windows`].

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    frames::{Frames, Role},
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

/// Hands the bytes of `Io` to HTTP/2 and keeps flushes for the [`Flush`] beside it.
pub struct Coalesced<Io>(Rc<RefCell<Counted<Io>>>);

/// Writes out the bytes that a [`Coalesced`] has kept.
pub struct Flush<Io>(Rc<RefCell<Counted<Io>>>);

/// Looks at the connection below while HTTP/2 and its driver use it.
pub struct Below<Io>(Rc<RefCell<Counted<Io>>>);

struct Counted<Io> {
    io: Io,
    frames: Frames,
    outgoing: Option<Outgoing>,
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
    let io = Rc::new(RefCell::new(Counted { io, frames: Frames::new(role), outgoing }));
    (Coalesced(io.clone()), Flush(io))
}

// === impl Counted ===

impl<Io: AsyncRead + Unpin> Counted<Io> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.frames.is_turn_over() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        match self.frames.short_read() {
            Some(most) if most < buf.remaining() => {
                let mut short = ReadBuf::new(buf.initialize_unfilled_to(most));
                ready!(Pin::new(&mut self.io).poll_read(cx, &mut short))?;
                let n = short.filled().len();
                buf.advance(n);
            }
            _ => ready!(Pin::new(&mut self.io).poll_read(cx, buf))?,
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
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, unsent))?;
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
        let n = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
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
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Tells the peer why the tunnel ends, if the connection takes the words at once.
    fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        if let Some(goaway) = self.frames.goaway()
            && Pin::new(&mut self.io).poll_write(cx, &goaway).is_ready()
        {
            // The tunnel ends in any case.
            let _ = Pin::new(&mut self.io).poll_flush(cx);
            let _ = Pin::new(&mut self.io).poll_shutdown(cx);
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
        self.0.borrow().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self.0.borrow_mut();
        ready!(this.poll_unsent(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

// === impl Below ===

impl<Io> Below<Io> {
    /// What `look` says about the connection below.
    pub fn look<T>(&self, look: impl FnOnce(&Io) -> T) -> T {
        look(&self.0.borrow().io)
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
            match Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, &mut space) {
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
        if let Some(outgoing) = &this.outgoing {
            outgoing.windows().register(cx);
        }
        drop(this);
        let done = work(cx);
        if done.is_pending() && self.0.borrow_mut().frames.are_too_many(now) {
            self.0.borrow_mut().say_goodbye(cx);
            return Poll::Ready(Err(io::Error::other(PeerFloods)));
        }
        match (self.poll(cx), done) {
            (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
            (_, Poll::Ready(done)) => Poll::Ready(Ok(done)),
            (_, Poll::Pending) => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests;

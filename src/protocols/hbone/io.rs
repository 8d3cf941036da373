//! The byte stream below HTTP/2, and the future that drives a connection over it.
//!
//! HTTP/2 flushes after each large frame. [`Coalesced`] ignores such a flush and leaves the sealed bytes in the buffer.
//! The driver writes the bytes out after each turn of the connection, so frames of many streams leave in one write.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Hands the bytes of `Io` to HTTP/2 and keeps flushes for the [`Flush`] beside it.
pub struct Coalesced<Io>(Rc<RefCell<Io>>);

/// Writes out the bytes that a [`Coalesced`] has kept.
pub struct Flush<Io>(Rc<RefCell<Io>>);

/// Looks at the connection below while HTTP/2 and its driver use it.
pub struct Below<Io>(Rc<RefCell<Io>>);

/// Splits `io` into the part HTTP/2 uses and the part its driver flushes.
pub fn coalesced<Io>(io: Io) -> (Coalesced<Io>, Flush<Io>) {
    let io = Rc::new(RefCell::new(io));
    (Coalesced(io.clone()), Flush(io))
}

// === impl Coalesced ===

impl<Io: AsyncRead + Unpin> AsyncRead for Coalesced<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buf)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Coalesced<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}

// === impl Below ===

impl<Io> Below<Io> {
    /// What `look` says about the connection below.
    pub fn look<T>(&self, look: impl FnOnce(&Io) -> T) -> T {
        look(&self.0.borrow())
    }
}

// === impl Flush ===

impl<Io> Flush<Io> {
    /// A look at the connection below.
    pub fn below(&self) -> Below<Io> {
        Below(self.0.clone())
    }
}

impl<Io: AsyncWrite + Unpin> Flush<Io> {
    /// Writes out as many kept bytes as the connection takes now.
    ///
    /// # Errors
    /// The connection below broke.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    /// Runs `work`, which makes `connection` progress, and flushes after each of its turns.
    ///
    /// # Errors
    /// Flushing failed.
    pub async fn drive<T>(&mut self, work: impl Future<Output = T>) -> io::Result<T> {
        self.drive_behind(|| false, work).await
    }

    /// Works like [`Flush::drive`], but yields to the other tasks of this thread as long as `later` returns true.
    ///
    /// # Errors
    /// Flushing failed.
    pub async fn drive_behind<T>(
        &mut self,
        mut later: impl FnMut() -> bool,
        work: impl Future<Output = T>,
    ) -> io::Result<T> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| {
            if later() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let done = work.as_mut().poll(cx);
            match (self.poll(cx), done) {
                (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
                (_, Poll::Ready(done)) => Poll::Ready(Ok(done)),
                (_, Poll::Pending) => Poll::Pending,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests;

//! A CONNECT stream as the connection below another tunnel (docs/spec/dataplane.md 3.4).

use std::{
    error::Error,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::SendStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::side::{Received, StreamSide};
use crate::protocols::{
    relay::End,
    tls::{buffer::append, stream::TlsStream},
};

/// The number of sealed bytes that an inner tunnel holds while the outer stream takes none.
/// Limit: sealed bytes of an inner tunnel that wait for the outer stream: 64 KiB; past it: its stream waits.
const MAX_UNSENT: usize = 64 * 1024;
/// The number of pieces that one write takes, such as the header and the payload of a frame.
/// Limit: pieces that a write to an inner tunnel takes: 4; past it: the rest is written next.
const PIECES: usize = 4;

/// A CONNECT stream as a byte stream. A drop before both ends have finished resets the stream.
#[derive(Debug)]
pub struct StreamIo {
    send: SendStream<Bytes>,
    received: Received,
    /// The rest of the frame that was received last.
    chunk: Bytes,
    finished: bool,
}

/// TLS over a stream, which holds few bytes. A pooled tunnel may hold more, as many streams share the tunnel.
pub struct InnerTls(TlsStream<StreamIo>);

/// The failure of the stream below an inner tunnel.
#[derive(Debug, thiserror::Error)]
#[error("outer tunnel: {0}")]
struct OuterError(#[source] Box<dyn Error + Send + Sync>);

// === impl StreamIo ===

impl StreamIo {
    /// Makes a byte stream of a stream that was answered with 200.
    pub fn new(side: StreamSide) -> Self {
        let (send, received) = side.into_parts();
        Self { send, received, chunk: Bytes::new(), finished: false }
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // The number of frames that HTTP/2 holds bounds the loop.
        while this.chunk.is_empty() {
            match ready!(this.received.poll_next(cx)) {
                Ok(chunk) => this.chunk = chunk,
                Err(End::Finished) => return Poll::Ready(Ok(())),
                Err(End::Gone(None)) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Err(End::Gone(Some(error)) | End::Failed(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let n = this.chunk.len().min(buf.remaining());
        append(buf, this.chunk.get(..n).unwrap_or_default());
        this.chunk.advance(n);
        this.received.release(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.send.reserve_capacity(buf.len());
        let room = loop {
            let capacity = this.send.capacity();
            if capacity > 0 {
                break capacity.min(buf.len());
            }
            match ready!(this.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        };
        let taken = buf.get(..room).unwrap_or_default();
        this.send.send_data(Bytes::copy_from_slice(taken), false).map_err(broken)?;
        Poll::Ready(Ok(taken.len()))
    }

    /// The tunnel's driver flushes all streams of the tunnel.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.finished, true) {
            // The end of the stream need not be sent if the stream is already closed.
            let _ = this.send.send_data(Bytes::new(), true);
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(error: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, OuterError(error.into()))
}

// === impl InnerTls ===

impl InnerTls {
    /// Takes the connection that a handshake has made.
    pub fn new(stream: TlsStream<StreamIo>) -> Self {
        Self(stream)
    }
}

impl AsyncRead for InnerTls {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for InnerTls {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = &mut self.get_mut().0;
        if stream.unflushed_len() >= MAX_UNSENT {
            ready!(Pin::new(&mut *stream).poll_flush(cx))?;
        }
        let mut left = MAX_UNSENT;
        let mut pieces = [io::IoSlice::new(&[]); PIECES];
        for (piece, slice) in pieces.iter_mut().zip(slices) {
            let taken = slice.get(..slice.len().min(left)).unwrap_or_default();
            left -= taken.len();
            *piece = io::IoSlice::new(taken);
        }
        Pin::new(stream).poll_write_vectored(cx, &pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;

//! A TCP connection of an application as a side of a relay.

use std::{
    io,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::io::poll_read_buf;

use super::{End, RelayError, Side, broken, unsent, went_away};
use crate::protocols::tls::buffer::Buffers;

/// Chunks up to this size are copied out of the scratch area, so that a small piece does not pin a large one.
/// Limit: chunk that is copied out of the scratch buffer: 8 KiB; past it: a larger chunk keeps its part of the buffer.
const COPIED_CHUNK_BYTES: usize = 8 * 1024;

/// What the socket of an application's connection is told as the connection ends.
pub trait Ending {
    /// Sends some of `bytes` without waiting.
    ///
    /// # Errors
    /// As for any send; `WouldBlock` if there is no room.
    fn send_last(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize>;

    /// Keeps a connection that is half-closed for longer than a moment.
    fn keep_half_closed(_: &TcpStream) {}
}

/// Sends the last bytes like all other bytes.
impl Ending for () {
    fn send_last(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        stream.try_write(bytes)
    }
}

/// The application's side: a TCP connection.
#[derive(Debug)]
pub struct TcpSide<E = ()> {
    stream: TcpStream,
    /// The error that [`Side::look`] has taken from the socket, boxed because nearly all connections have none.
    broken: Option<Box<io::Error>>,
    ending: PhantomData<E>,
}

// === impl TcpSide ===

impl TcpSide {
    /// Makes a side that sends its last bytes like all other bytes.
    pub fn new(stream: TcpStream) -> Self {
        Self::of(stream)
    }
}

impl<E> TcpSide<E> {
    /// Makes a side that ends by `E`.
    pub fn of(stream: TcpStream) -> Self {
        Self { stream, broken: None, ending: PhantomData }
    }

    /// How reading has ended. The socket tells an error only once, and then ends as if its peer had finished.
    fn end(&mut self, end: End) -> End {
        match (end, self.broken.take()) {
            (End::Finished, Some(error)) if went_away(&error) => End::Gone(None),
            (End::Finished, Some(error)) => End::Gone(Some(RelayError::Receive(*error))),
            (end, _) => end,
        }
    }
}

impl<E: Ending> Side for TcpSide<E> {
    fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        buffers: &Buffers,
    ) -> Poll<Result<Bytes, End>> {
        let read = ready!(poll_read_chunk(&mut self.stream, cx, max, buffers));
        Poll::Ready(read.map_err(|end| self.end(end)))
    }

    fn plain(&self) -> Option<&TcpStream> {
        Some(&self.stream)
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The next read reports an error.
        self.stream.poll_read_ready(cx).map(drop)
    }

    fn ended(&mut self, cx: &mut Context<'_>) -> Option<End> {
        // After a short read the runtime calls the socket readable only if it knows that the other side has closed it.
        if self.stream.poll_read_ready(cx).is_pending() {
            return None;
        }
        let mut byte = [0];
        match self.stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
            Poll::Ready(Ok(0)) => Some(self.end(End::Finished)),
            // The socket reports the error only once.
            Poll::Ready(Err(error)) => Some(broken(error)),
            Poll::Ready(Ok(_)) | Poll::Pending => None,
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &mut Bytes,
        last: bool,
    ) -> Poll<Result<(), Option<RelayError>>> {
        while !chunk.is_empty() {
            let sent = if last {
                ready!(self.stream.poll_write_ready(cx)).and_then(|()| E::send_last(&self.stream, chunk))
            } else {
                ready!(Pin::new(&mut self.stream).poll_write(cx, chunk))
            };
            match sent {
                Ok(0) => return Poll::Ready(Err(Some(RelayError::Send(io::ErrorKind::WriteZero.into())))),
                Ok(n) => chunk.advance(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(unsent(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn check_gone(&mut self) -> bool {
        if self.broken.is_none()
            && let Ok(Some(error)) = self.stream.take_error()
        {
            self.broken = Some(Box::new(error));
        }
        self.broken.is_some()
    }

    fn keep_half_closed(&mut self) {
        E::keep_half_closed(&self.stream);
    }

    fn reset_on_drop(&mut self) {
        // A socket that refuses the option is reset already.
        let _ = self.stream.set_zero_linger();
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A connection that is already gone needs no half-close.
        Pin::new(&mut self.stream).poll_shutdown(cx).map(|_| ())
    }
}

/// Reads once from `io` into the scratch area.
pub fn poll_read_chunk(
    io: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    max: usize,
    buffers: &Buffers,
) -> Poll<Result<Bytes, End>> {
    buffers.with_scratch(max, |scratch| {
        let read = poll_read_buf(Pin::new(io), cx, &mut (&mut *scratch).limit(max));
        Poll::Ready(match ready!(read) {
            Ok(0) => Err(End::Finished),
            Ok(n) if n <= COPIED_CHUNK_BYTES => {
                let chunk = Bytes::copy_from_slice(scratch);
                scratch.clear();
                Ok(chunk)
            }
            Ok(_) => Ok(scratch.split().freeze()),
            Err(error) => Err(broken(error)),
        })
    })
}

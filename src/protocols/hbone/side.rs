//! An HTTP/2 stream as a side of a relay.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

use super::super::{
    relay::{End, RelayError, Side},
    tls::buffer::Buffers,
};

/// Both halves of a CONNECT stream.
#[derive(Debug)]
pub struct StreamSide {
    send: SendStream<Bytes>,
    recv: RecvStream,
    finished: bool,
    /// Whether the peer has sent its last byte. From then on only the sending half reports the stream's end.
    drained: bool,
    /// Whether this stream has reserved capacity for sending.
    reserved: bool,
}

// === impl StreamSide ===

impl StreamSide {
    /// Makes a side of a stream that was answered with 200.
    pub fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self { send, recv, finished: false, drained: false, reserved: false }
    }

    /// Notes that the peer sends no more data, and polls for a reset. The writing direction may have been polled
    /// already in this turn, so a reset that is known now wakes the task again.
    fn drain(&mut self, cx: &mut Context<'_>) {
        self.drained = true;
        if self.send.poll_reset(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

impl Side for StreamSide {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, _: usize, _: &Buffers) -> Poll<Result<Bytes, End>> {
        loop {
            return Poll::Ready(match ready!(self.recv.poll_data(cx)) {
                // An empty frame moves nothing. The number of frames that h2 holds bounds the loop.
                Some(Ok(chunk)) if chunk.is_empty() => continue,
                Some(Ok(chunk)) => Ok(chunk),
                None => {
                    self.drain(cx);
                    Err(End::Finished)
                }
                Some(Err(error)) => Err(End::Gone(fault(error))),
            });
        }
    }

    fn ended(&mut self, cx: &mut Context<'_>) -> Option<End> {
        if !self.recv.is_end_stream() {
            return None;
        }
        self.drain(cx);
        Some(End::Finished)
    }

    fn passed(&mut self, n: usize) {
        // The release fails only if `n` exceeds the number of received bytes.
        let _ = self.recv.flow_control().release_capacity(n);
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, Option<RelayError>>> {
        // A small remainder of capacity would make tiny frames, so more capacity is requested.
        if !std::mem::replace(&mut self.reserved, true) || self.send.capacity() < want {
            self.send.reserve_capacity(want);
        }
        loop {
            let capacity = self.send.capacity();
            if capacity > 0 {
                return Poll::Ready(Ok(capacity));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(fault(error))),
                None => return Poll::Ready(Err(None)),
            }
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Option<RelayError>> {
        if std::mem::take(&mut self.reserved) {
            self.send.reserve_capacity(0);
        }
        if !self.drained {
            return Poll::Pending;
        }
        match ready!(self.send.poll_reset(cx)) {
            Ok(Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED) => Poll::Ready(None),
            Ok(reason) => Poll::Ready(Some(RelayError::PeerReset(reason))),
            Err(error) => Poll::Ready(fault(error)),
        }
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        chunk: &mut Bytes,
        last: bool,
    ) -> Poll<Result<(), Option<RelayError>>> {
        self.finished |= last;
        let sent = self.send.send_data(std::mem::take(chunk), last);
        Poll::Ready(sent.map_err(fault))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if !self.finished {
            self.finished = true;
            // The end of the stream need not be sent if the stream is already closed.
            let _ = self.send.send_data(Bytes::new(), true);
        }
        Poll::Ready(())
    }
}

/// Translates an HTTP/2 error for a relayed connection. NO_ERROR, CANCEL and STREAM_CLOSED only mean that the peer went
/// away (docs/spec/dataplane.md 2.7).
fn fault(error: h2::Error) -> Option<RelayError> {
    match error.reason() {
        Some(Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED) if !error.is_go_away() => None,
        Some(reason) if error.is_remote() && error.is_reset() => Some(RelayError::PeerReset(reason)),
        // An error without reason and without I/O error means that the peer has already reset the stream.
        None if !error.is_io() => None,
        _ => Some(RelayError::Tunnel(error)),
    }
}

//! An HTTP/2 stream as a side of a relay.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};

use super::{
    frozen::{Freeze, FrozenStream},
    windows::{StreamWindow, Windows},
};
use crate::protocols::{
    relay::{End, RelayError, Side},
    tls::buffer::Buffers,
};

/// Payloads up to this size are copied together while they wait. Each payload that HTTP/2 keeps costs some 500 bytes,
/// and keeps the buffer that it was read into, whatever else was in the buffer.
/// Limit: payload of a frame that is copied while it waits: 64 KiB; past it: the payload keeps its part of a buffer.
const COPIED_PAYLOAD_BYTES: usize = 64 * 1024;
/// The size of the pieces that small payloads are copied into.
/// Limit: piece of small payloads that wait: 32 KiB; past it: another piece is begun.
const PIECE_BYTES: usize = 32 * 1024;

/// Both halves of a CONNECT stream.
#[derive(Debug)]
pub struct StreamSide {
    send: SendStream<Bytes>,
    received: Received,
    finished: bool,
    /// Whether this stream has reserved capacity for sending.
    reserved: bool,
    /// The number of bytes that HTTP/2 has got to send, without what is beyond 32 bits.
    sent: u32,
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct Received {
    recv: RecvStream,
    /// Whether the peer has sent its last byte. From then on only the sending half reports the stream's end.
    drained: bool,
    /// The stream's window, if HTTP/2 believes in another one.
    window: Option<Box<StreamWindow>>,
    /// What has been taken out of HTTP/2 while nobody takes the stream's bytes. The peer's window counts these bytes
    /// until they are passed on.
    waiting: Option<Box<Waiting>>,
}

/// Received bytes that wait, and how receiving ended.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pieces: VecDeque<Bytes>,
    /// Small payloads behind the pieces.
    small: BytesMut,
    end: Option<End>,
}

// === impl Waiting ===

impl Waiting {
    /// Adds the payload of a frame.
    pub(super) fn push(&mut self, payload: Bytes) {
        if payload.len() <= COPIED_PAYLOAD_BYTES {
            self.small.extend_from_slice(&payload);
            if self.small.len() < PIECE_BYTES {
                return;
            }
            return self.pieces.push_back(self.small.split().freeze());
        }
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
        self.pieces.push_back(payload);
    }

    /// Takes the next bytes.
    pub(super) fn pop_bytes(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front();
        piece.or_else(|| (!self.small.is_empty()).then(|| self.small.split().freeze()))
    }

    fn pop(&mut self) -> Option<Result<Bytes, End>> {
        self.pop_bytes().map(Ok).or_else(|| self.end.take().map(Err))
    }

    /// Whether no bytes wait.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.small.is_empty()
    }

    /// A copy of the bytes that wait.
    pub(super) fn copy(&self) -> Bytes {
        let mut all =
            BytesMut::with_capacity(self.pieces.iter().map(Bytes::len).sum::<usize>() + self.small.len());
        self.pieces.iter().for_each(|piece| all.extend_from_slice(piece));
        all.extend_from_slice(&self.small);
        all.freeze()
    }
}

// === impl Received ===

impl Received {
    /// Makes the receiving half of a stream.
    pub fn new(recv: RecvStream) -> Self {
        Self::with(recv, None)
    }

    /// Makes the receiving half of a stream of a tunnel with these windows.
    pub fn within(recv: RecvStream, windows: &Windows) -> Self {
        let window = windows.of(recv.stream_id().into());
        Self::with(recv, Some(Box::new(window)))
    }

    /// Makes the receiving half of a stream, which may have a window of its own.
    pub(super) fn with(recv: RecvStream, window: Option<Box<StreamWindow>>) -> Self {
        Self { recv, drained: false, window, waiting: None }
    }

    /// Runs `work`, and takes what arrives meanwhile out of HTTP/2, where each small payload costs much.
    pub async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| {
            let done = work.as_mut().poll(cx);
            if done.is_pending() {
                let _ = self.poll_take(cx);
            }
            done
        })
        .await
    }

    /// Takes all that has arrived out of HTTP/2. Ready when receiving has ended.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.drained {
            self.wait();
            return Poll::Ready(());
        }
        let waiting = self.waiting.get_or_insert_default();
        while waiting.end.is_none() {
            match self.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(payload))) => match received(&mut self.window, payload.len()) {
                    Ok(()) => waiting.push(payload),
                    Err(overrun) => waiting.end = Some(overrun),
                },
                Poll::Ready(Some(Err(error))) => waiting.end = Some(End::Gone(fault(error))),
                Poll::Ready(None) => {
                    waiting.end = Some(End::Finished);
                    self.drained = true;
                }
                Poll::Pending => {
                    if waiting.is_empty() {
                        self.waiting = None;
                    }
                    self.wait();
                    return Poll::Pending;
                }
            }
        }
        self.wait();
        Poll::Ready(())
    }

    /// Counts what was received and not passed on as waiting.
    fn wait(&mut self) {
        if let Some(window) = &mut self.window {
            window.waits();
        }
    }

    /// The bytes and the end that wait. `None`: nothing waits.
    fn pop(&mut self) -> Option<Result<Bytes, End>> {
        let waiting = self.waiting.as_mut()?;
        let next = waiting.pop();
        if waiting.is_empty() && waiting.end.is_none() {
            self.waiting = None;
        }
        next
    }

    /// The next bytes of the stream, or how receiving ended.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
        if let Some(next) = self.pop() {
            return Poll::Ready(next);
        }
        loop {
            return Poll::Ready(match ready!(self.recv.poll_data(cx)) {
                // An empty frame moves nothing. The number of frames that h2 holds bounds the loop.
                Some(Ok(chunk)) if chunk.is_empty() => continue,
                Some(Ok(chunk)) => received(&mut self.window, chunk.len()).map(|()| chunk),
                None => Err(End::Finished),
                Some(Err(error)) => Err(End::Gone(fault(error))),
            });
        }
    }

    /// Lets the peer send `n` bytes more.
    pub(super) fn release(&mut self, n: usize) {
        // The release fails only if `n` exceeds the number of received bytes.
        let _ = self.recv.flow_control().release_capacity(n);
        if let Some(window) = &mut self.window {
            window.taken(n, self.drained);
        }
    }

    /// How receiving has ended, if nothing waits.
    fn ended(&mut self) -> Option<End> {
        match &self.waiting {
            Some(waiting) if !waiting.is_empty() => None,
            Some(_) => self.pop()?.err(),
            None => self.recv.is_end_stream().then_some(End::Finished),
        }
    }
}

// === impl StreamSide ===

impl StreamSide {
    /// Makes a side of a stream that was answered with 200.
    pub fn new(send: SendStream<Bytes>, received: Received) -> Self {
        Self { send, received, finished: false, reserved: false, sent: 0 }
    }

    /// The side of a stream that has sent so many bytes already.
    pub fn having_sent(self, bytes: usize) -> Self {
        Self { sent: counted(bytes), ..self }
    }

    /// Both halves of the stream, for whoever uses the stream otherwise than in a relay.
    pub fn into_parts(self) -> (SendStream<Bytes>, Received) {
        (self.send, self.received)
    }

    /// Notes that the peer sends no more data, and polls for a reset. The writing direction may have been polled
    /// already in this turn, so a reset that is known now wakes the task again.
    fn drain(&mut self, cx: &mut Context<'_>) {
        self.received.drained = true;
        if self.send.poll_reset(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

impl Freeze for StreamSide {
    fn freeze(&mut self, cx: &mut Context<'_>) -> Option<FrozenStream> {
        let ended = self.received.poll_take(cx).is_ready();
        let waiting = self.received.waiting.as_deref();
        if waiting.is_some_and(|waiting| matches!(waiting.end, Some(End::Gone(_) | End::Failed(_)))) {
            return None;
        }
        let received = waiting.map(Waiting::copy).unwrap_or_default();
        let id = self.send.stream_id().into();
        Some(FrozenStream { id, received, ended, finished: self.finished, sent: self.sent })
    }
}

impl Side for StreamSide {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, _: usize, _: &Buffers) -> Poll<Result<Bytes, End>> {
        let next = ready!(self.received.poll_next(cx));
        if matches!(next, Err(End::Finished)) {
            self.drain(cx);
        }
        Poll::Ready(next)
    }

    fn ended(&mut self, cx: &mut Context<'_>) -> Option<End> {
        let end = self.received.ended()?;
        if matches!(end, End::Finished) {
            self.drain(cx);
        }
        Some(end)
    }

    fn passed(&mut self, n: usize) {
        self.received.release(n);
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
        if !self.received.drained {
            return Poll::Pending;
        }
        match ready!(self.send.poll_reset(cx)) {
            Ok(Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED) => Poll::Ready(None),
            Ok(reason) => Poll::Ready(Some(RelayError::PeerReset(reason))),
            Err(error) => Poll::Ready(fault(error)),
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.received.poll_take(cx));
        let waiting = self.received.waiting.as_ref();
        if waiting.is_some_and(|waiting| matches!(waiting.end, Some(End::Gone(_)))) {
            return Poll::Ready(());
        }
        self.send.poll_reset(cx).map(drop)
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        chunk: &mut Bytes,
        last: bool,
    ) -> Poll<Result<(), Option<RelayError>>> {
        self.finished |= last;
        self.sent = self.sent.wrapping_add(counted(chunk.len()));
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

/// A number of bytes as it is counted. HTTP/2 never holds as much as is left out.
fn counted(bytes: usize) -> u32 {
    u32::try_from(bytes & u32::MAX as usize).unwrap_or(0)
}

/// Counts received bytes. The error is the end of a stream whose peer sends more than the stream's window.
fn received(window: &mut Option<Box<StreamWindow>>, bytes: usize) -> Result<(), End> {
    let Some(window) = window else { return Ok(()) };
    let overran =
        |error| End::Gone(Some(RelayError::Receive(io::Error::new(io::ErrorKind::InvalidData, error))));
    window.received(bytes).map_err(overran)
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

#[cfg(test)]
mod tests;

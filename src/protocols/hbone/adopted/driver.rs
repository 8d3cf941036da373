//! The future that drives an adopted tunnel.

use std::{
    future::Future,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use bytes::Bytes;
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::tunnel::{AdoptedTunnel, Ended, Shared, Still};
use crate::protocols::{
    hbone::{
        frozen::FrozenHttp2,
        ledger::BadSnapshot,
        windows::{Mention, Windows},
    },
    relay::{End, broken},
};

/// The number of bytes of one read.
/// Limit: bytes of a read of a tunnel that was taken over: 32 KiB; past it: the rest is read next.
const READ_BYTES: usize = 32 * 1024;
/// The number of pieces of one write, such as the headers and the payloads of frames.
/// Limit: pieces of a write to a tunnel that was taken over: 32; past it: the rest is written next.
const PIECES: usize = 32;

/// Drives a tunnel. It completes after the last stream, with the tunnel's connection shut down, or when the tunnel fails.
#[must_use = "futures do nothing unless polled"]
pub struct Driver<Io> {
    io: Io,
    tunnel: AdoptedTunnel,
    now: fn() -> Instant,
    begun: bool,
}

/// What a tunnel needs of the shard that takes it over.
#[derive(Clone, Debug)]
pub struct Place {
    /// The receive windows of the tunnel's streams.
    pub windows: Windows,
    /// The largest payload of a frame that the peer was told of, in bytes.
    pub max_frame: u32,
    /// Tells the time.
    pub now: fn() -> Instant,
}

/// Goes on with the tunnel that stood still. Nothing touches `io` before the driver is polled.
///
/// # Errors
/// No connection can be as `frozen` says.
pub fn adopt<Io>(
    io: Io,
    frozen: FrozenHttp2,
    place: Place,
) -> Result<(AdoptedTunnel, Driver<Io>), BadSnapshot> {
    let Place { windows, max_frame, now } = place;
    let tunnel = AdoptedTunnel::new(frozen, windows, max_frame)?;
    Ok((tunnel.clone(), Driver { io, tunnel, now, begun: false }))
}

// === impl Driver ===

impl<Io> Driver<Io> {
    /// The connection below.
    pub fn io(&mut self) -> &mut Io {
        &mut self.io
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Driver<Io> {
    /// Reads and handles what the peer has sent.
    fn poll_receive(&mut self, cx: &mut Context<'_>, this: &mut Shared) -> Poll<Ended> {
        loop {
            let stops = this.still != Still::No;
            if let Err(reason) = this.take_in(!stops) {
                this.core.goaway(reason);
                return Poll::Ready(Ended::Violation(reason));
            }
            if this.core.is_flooded(self.now) {
                this.core.goaway(Reason::ENHANCE_YOUR_CALM);
                return Poll::Ready(Ended::Violation(Reason::ENHANCE_YOUR_CALM));
            }
            if stops && this.core.is_between_frames() {
                this.waits.take().into_iter().for_each(Waker::wake);
                return Poll::Pending;
            }
            if !stops && this.core.is_turn_over() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // What waits is written first. The end of that wakes this task.
            if !stops && this.core.is_clogged() {
                return Poll::Pending;
            }
            match ready!(self.poll_read(cx)) {
                Ok(bytes) => this.unread = bytes,
                Err(End::Finished) if this.core.is_unused() => return Poll::Ready(Ended::Done),
                Err(End::Finished | End::Gone(None)) => return Poll::Ready(Ended::Closed),
                Err(End::Gone(Some(error)) | End::Failed(error)) => {
                    return Poll::Ready(Ended::Broken(io::ErrorKind::Other, error.to_string()));
                }
            }
        }
    }

    /// The next bytes of the peer. The scratch area of the shard is not used: TLS takes a buffer of the shard, too.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
        let mut room = [MaybeUninit::uninit(); READ_BYTES];
        let mut room = ReadBuf::uninit(&mut room);
        Poll::Ready(match ready!(Pin::new(&mut self.io).poll_read(cx, &mut room)) {
            Ok(()) if room.filled().is_empty() => Err(End::Finished),
            Ok(()) => Ok(Bytes::copy_from_slice(room.filled())),
            Err(error) => Err(broken(error)),
        })
    }

    /// Writes out what there is.
    fn poll_send(&mut self, cx: &mut Context<'_>, this: &mut Shared) -> Poll<io::Result<()>> {
        let clogged = this.core.is_clogged();
        while !this.core.output().is_empty() {
            let mut pieces = [io::IoSlice::new(&[]); PIECES];
            for (piece, bytes) in pieces.iter_mut().zip(this.core.output()) {
                *piece = io::IoSlice::new(bytes);
            }
            match ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &pieces))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n if this.core.sent(n) => this.wake_crowded(),
                _ => {}
            }
            if clogged && !this.core.is_clogged() {
                // The peer's bytes were left alone meanwhile.
                cx.waker().wake_by_ref();
            }
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>, this: &mut Shared) -> Poll<()> {
        if !std::mem::replace(&mut self.begun, true) {
            this.begin();
        }
        if !this.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            this.driver = Some(cx.waker().clone());
        }
        if this.still == Still::Frozen {
            return Poll::Pending;
        }
        this.core.begin_turn();
        while let Poll::Ready(target) = this.windows.poll_changed(cx) {
            this.core.set_target(target);
        }
        if this.ended.is_none()
            && let Poll::Ready(ended) = self.poll_receive(cx, this)
        {
            this.end(ended);
        }
        for (stream, more) in this.windows.updates(|_| Mention::Now) {
            this.core.grant(stream, more);
        }
        let is_done = this.core.is_unused() && this.core.is_between_frames() && this.still == Still::No;
        if is_done && this.ended.is_none() && !this.core.has_said_goodbye() {
            this.core.goaway(Reason::NO_ERROR);
        }
        match ready!(self.poll_send(cx, this)) {
            Ok(()) if is_done || this.ended.is_some() => Pin::new(&mut self.io).poll_shutdown(cx).map(drop),
            Ok(()) => Poll::Pending,
            Err(error) => {
                this.end(Ended::Broken(error.kind(), error.to_string()));
                Poll::Ready(())
            }
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Future for Driver<Io> {
    type Output = Result<(), Ended>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let driver = self.get_mut();
        let tunnel = driver.tunnel.clone();
        let this = &mut *tunnel.0.borrow_mut();
        ready!(driver.poll_turn(cx, this));
        match this.ended.get_or_insert(Ended::Done) {
            Ended::Done => Poll::Ready(Ok(())),
            ended => Poll::Ready(Err(ended.clone())),
        }
    }
}

#[cfg(test)]
mod tests;

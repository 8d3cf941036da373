//! Connections that deliver what a target says, on a clock that never waits.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    runtime::Builder,
    time::timeout,
};

use super::input::Input;

/// Longer than every timeout, by a clock that jumps to the next timer when nothing else can be done.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// More than the proxy may say to a peer that has said nothing useful.
const MOST_WRITTEN: usize = 1 << 20;

/// Runs `work`, which must not be pending for ever.
pub(super) fn in_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async { timeout(FOR_EVER, work).await.expect("the work is pending for ever") })
}

/// A peer that sends these pieces one after the other and then closes.
#[derive(Debug)]
pub(super) struct Scripted {
    pieces: VecDeque<Vec<u8>>,
    pause: bool,
    written: usize,
}

/// One end of a connection whose received bytes come in other pieces, some of them changed.
#[derive(Debug)]
pub(super) struct Tampered {
    io: DuplexStream,
    /// The most bytes of the next reads, in turn.
    sizes: Vec<usize>,
    reads: usize,
    /// Where a byte is changed, and by which bits.
    changes: Vec<(usize, u8)>,
    /// Where the connection ends.
    cut: Option<usize>,
    passed: usize,
}

// === impl Scripted ===

impl Scripted {
    pub(super) fn new(pieces: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self { pieces: pieces.into_iter().collect(), pause: false, written: 0 }
    }

    /// The rest of the input, cut into pieces. `whole` is a message of which each piece may be a copy.
    pub(super) fn of(input: &mut Input<'_>, whole: &[u8]) -> Self {
        let mut pieces = Vec::new();
        while !input.is_empty() {
            pieces.push(match input.byte() {
                // A part of the message.
                254 => {
                    let from = input.below(whole.len() + 1);
                    whole[from..].iter().copied().take(input.u16().into()).collect()
                }
                255 => whole.to_vec(),
                length => {
                    let mut piece = vec![0; length.into()];
                    piece.fill_with(|| input.byte());
                    piece
                }
            });
        }
        Self::new(pieces)
    }
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.pause = !self.pause;
        if self.pause {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(mut piece) = self.pieces.pop_front() {
            let later = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !later.is_empty() {
                self.pieces.push_front(later);
            }
            if piece.is_empty() {
                // An empty read is an end: the next piece is read instead.
                return self.poll_read(cx, buf);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.written += buf.len();
        assert!(self.written <= MOST_WRITTEN, "{} bytes are said to a stranger", self.written);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

// === impl Tampered ===

impl Tampered {
    /// What the input does to the bytes that `io` receives.
    pub(super) fn of(input: &mut Input<'_>, io: DuplexStream) -> Self {
        let sizes = (0..input.below(8)).map(|_| 1 + usize::from(input.byte())).collect();
        let change = |input: &mut Input<'_>| (input.below(4096), input.byte());
        let changes: Vec<_> = (0..input.below(4)).map(|_| change(input)).collect();
        let changes = changes.into_iter().filter(|(_, bits)| *bits != 0).collect();
        let cut = (input.below(8) == 7).then(|| input.u16().into());
        Self { io, sizes, reads: 0, changes, cut, passed: 0 }
    }

    /// Whether all bytes arrive as they were sent.
    pub(super) fn is_honest(&self) -> bool {
        self.changes.is_empty() && self.cut.is_none()
    }
}

impl AsyncRead for Tampered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut most = match this.sizes.as_slice() {
            [] => buf.remaining(),
            sizes => sizes[this.reads % sizes.len()].min(buf.remaining()),
        };
        if let Some(cut) = this.cut {
            most = most.min(cut.saturating_sub(this.passed));
        }
        if most == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut space = vec![0; most];
        let mut space = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut this.io).poll_read(cx, &mut space))?;
        let (from, filled) = (this.passed, space.filled_mut());
        for (at, bits) in &this.changes {
            if let Some(byte) = at.checked_sub(from).and_then(|at| filled.get_mut(at)) {
                *byte ^= bits;
            }
        }
        this.passed += filled.len();
        this.reads += 1;
        buf.put_slice(filled);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tampered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

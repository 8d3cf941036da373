//! Large buffers that the connections of a shard share. A connection without unread bytes gives its buffer back.

use std::{cell::RefCell, hint::black_box, rc::Rc};

use bytes::BytesMut;
use tokio::io::ReadBuf;

/// Size of a borrowed buffer in bytes.
/// Limit: buffer of a TLS connection and direction while bytes are in it: 512 KiB; past it: sealing waits for the
/// socket.
pub const BUFFER_LEN: usize = 512 * 1024;
/// The number of buffers that are kept for reuse. Further buffers are freed when they are given back.
/// Limit: idle buffers that a shard keeps: 4; past it: the buffer is freed.
const IDLE_BUFFERS: usize = 4;
/// Size of the area that relays read into.
/// Limit: scratch buffer of a shard: 512 KiB; past it: a new one is made when parts of it are still held.
const SCRATCH_LEN: usize = 512 * 1024;
/// The number of bytes copied at a time. Longer copies would use the processor's string instruction. On AMD processors
/// that instruction is 30 times slower if the target's offset in its page exceeds the source's offset by up to 31
/// bytes. The parts of a record would lie like that.
/// Limit: bytes that are copied at a time: 1024; past it: the rest is copied next.
const PIECE_BYTES: usize = 1024;

/// The buffers of one shard. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Rc<RefCell<BufferPool>>);

#[derive(Debug, Default)]
struct BufferPool {
    free: Vec<Box<[u8]>>,
    scratch: BytesMut,
}

/// A borrowed buffer with unread bytes between two cursors. An empty window should give its buffer back with
/// [`Window::release`].
#[derive(Debug, Default)]
pub struct Window {
    buf: Box<[u8]>,
    start: usize,
    end: usize,
}

/// Copies `from` to `to`, which are equally long, in pieces.
pub fn copy(to: &mut [u8], from: &[u8]) {
    // `black_box` hides the length from the compiler, which would join the pieces again.
    let piece = black_box(PIECE_BYTES);
    for (to, from) in to.chunks_mut(piece).zip(from.chunks(piece)) {
        to.copy_from_slice(from);
    }
}

/// Appends `from` to `to`, which has room for it, in pieces.
pub fn append(to: &mut ReadBuf<'_>, from: &[u8]) {
    from.chunks(black_box(PIECE_BYTES)).for_each(|piece| to.put_slice(piece));
}

// === impl Buffers ===

impl Buffers {
    /// An initialised buffer of [`BUFFER_LEN`] bytes.
    fn take(&self) -> Box<[u8]> {
        self.0.borrow_mut().free.pop().unwrap_or_else(|| vec![0; BUFFER_LEN].into_boxed_slice())
    }

    fn give(&self, buf: Box<[u8]>) {
        let free = &mut self.0.borrow_mut().free;
        if free.len() < IDLE_BUFFERS && buf.len() == BUFFER_LEN {
            free.push(buf);
        }
    }

    /// The number of unused buffers.
    pub fn shelved(&self) -> usize {
        self.0.borrow().free.len()
    }

    /// Runs `f` on the shard's scratch area, which has at least `room` bytes of spare capacity.
    ///
    /// Bytes that `f` splits off stay valid, because the area is replaced when too little of it is left.
    pub fn with_scratch<T>(&self, room: usize, f: impl FnOnce(&mut BytesMut) -> T) -> T {
        let scratch = &mut self.0.borrow_mut().scratch;
        if scratch.capacity() - scratch.len() < room {
            scratch.reserve(room.max(SCRATCH_LEN));
        }
        f(scratch)
    }
}

// === impl Window ===

impl Window {
    /// A window with `bytes` unread, which fit a buffer.
    pub(super) fn holding(bytes: &[u8], buffers: &Buffers) -> Self {
        let mut window = Self::default();
        if let Some(space) = (!bytes.is_empty())
            .then(|| window.space(buffers, bytes.len()))
            .and_then(|s| s.get_mut(..bytes.len()))
        {
            space.copy_from_slice(bytes);
            window.extend(bytes.len());
        }
        window
    }

    /// The unread bytes.
    pub fn filled(&mut self) -> &mut [u8] {
        self.buf.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// Number of unread bytes.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the window has no unread bytes.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Forgets the first `n` unread bytes.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Returns the free space behind the unread bytes. The window borrows a buffer if it has none, and moves the unread
    /// bytes to the front if less than `least` bytes are free.
    pub fn space(&mut self, buffers: &Buffers, least: usize) -> &mut [u8] {
        if self.buf.is_empty() {
            self.buf = buffers.take();
        }
        if self.buf.len() - self.end < least && self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.buf.get_mut(self.end..).unwrap_or_default()
    }

    /// Counts `n` bytes just written to [`Window::space`] as unread.
    pub fn extend(&mut self, n: usize) {
        self.end = (self.end + n).min(self.buf.len());
    }

    /// Gives the buffer back if the window has no unread bytes.
    pub fn release(&mut self, buffers: &Buffers) {
        if self.is_empty() && !self.buf.is_empty() {
            (self.start, self.end) = (0, 0);
            buffers.give(std::mem::take(&mut self.buf));
        }
    }
}

#[cfg(test)]
mod tests;

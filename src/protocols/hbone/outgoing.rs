//! Replaces what HTTP/2 says about the windows of streams, as its bytes go out.

use std::io;

use super::{
    frames::Frames,
    windows::Windows,
    wire::{HEADER_BYTES, INITIAL_WINDOW, SETTING_BYTES, WINDOW_UPDATE},
};

/// The most bytes of a frame that is replaced.
/// Limit: frame of HTTP/2 settings that is sent: 256 bytes; past it: the tunnel fails.
const MAX_REPLACED: usize = 256;
/// The number of pieces that one write takes, such as the headers and the payloads of two frames.
/// Limit: pieces of a write to a tunnel: 8; past it: the rest is written next.
const PIECES: usize = 8;

/// What is sent besides the bytes of HTTP/2, or instead of them.
#[derive(Debug)]
pub(super) struct Outgoing {
    windows: Windows,
    /// What has to go out before any other byte.
    unsent: Vec<u8>,
}

/// What becomes of the bytes that HTTP/2 sends next.
pub(super) enum Next<'a> {
    /// All bytes are sent.
    All,
    /// These bytes, the first ones, are sent.
    First([io::IoSlice<'a>; PIECES]),
    /// So many bytes are done with: they are dropped, or are replaced by what is unsent.
    Replaced(usize),
}

// === impl Outgoing ===

impl Outgoing {
    pub(super) fn new(windows: Windows) -> Self {
        Self { windows, unsent: Vec::new() }
    }

    /// The windows of the tunnel.
    pub(super) fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Whether nothing waits that has to go out before any other byte.
    pub(super) fn is_empty(&self) -> bool {
        self.unsent.is_empty()
    }

    /// What has to go out now, before any other byte. `frames` has seen all bytes that went out.
    pub(super) fn unsent(&mut self, frames: &Frames) -> &[u8] {
        if self.unsent.is_empty() && frames.may_insert() {
            for (stream, more) in self.windows.updates(|stream| frames.ledger().may_update(stream)) {
                self.unsent.extend_from_slice(&[0, 0, 4, WINDOW_UPDATE, 0]);
                self.unsent.extend_from_slice(&stream.to_be_bytes());
                self.unsent.extend_from_slice(&more.to_be_bytes());
            }
        }
        &self.unsent
    }

    /// Forgets `n` bytes that have gone out.
    pub(super) fn sent(&mut self, n: usize) {
        self.unsent.drain(..n.min(self.unsent.len()));
    }

    /// Decides about the bytes that HTTP/2 sends next. Nothing may be unsent.
    ///
    /// # Errors
    /// HTTP/2 hands a frame over in parts that have to be replaced as one.
    pub(super) fn next<'a>(&mut self, frames: &Frames, bufs: &'a [io::IoSlice<'_>]) -> io::Result<Next<'a>> {
        let mut left = match frames.about_windows(bufs) {
            None => return Ok(Next::All),
            Some((0, len)) => return Ok(Next::Replaced(self.replace(len, bufs)?)),
            Some((before, _)) => before,
        };
        let mut pieces = [io::IoSlice::new(&[]); PIECES];
        for (piece, buf) in pieces.iter_mut().zip(bufs) {
            let first = buf.get(..buf.len().min(left)).unwrap_or_default();
            left -= first.len();
            *piece = io::IoSlice::new(first);
        }
        Ok(Next::First(pieces))
    }

    /// Replaces a frame of `len` bytes with which `bufs` begins. Returns `len`.
    fn replace(&mut self, len: usize, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let frame: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).take(len).collect();
        if frame.len() < len || len > MAX_REPLACED {
            return Err(io::Error::other("HTTP/2 sends its settings in parts"));
        }
        // A WINDOW_UPDATE is dropped: the stream's own window says what the peer may send.
        if frame.get(3) != Some(&WINDOW_UPDATE) {
            self.unsent = frame;
            let first = self.windows.first().to_be_bytes();
            let settings = self.unsent.get_mut(HEADER_BYTES..).unwrap_or_default();
            for setting in settings.chunks_exact_mut(SETTING_BYTES) {
                if let Some((id, value)) = setting.split_at_mut_checked(2)
                    && *id == INITIAL_WINDOW.to_be_bytes()
                {
                    value.copy_from_slice(&first);
                }
            }
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests;

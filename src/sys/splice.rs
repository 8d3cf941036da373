//! Moves bytes from one TCP connection to another inside the kernel. The bytes pass a pipe that is held only while
//! bytes move.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::{io::Interest, net::TcpStream};

use super::descriptors;
use crate::protocols::relay::{Passed, Shortcut};

/// The size of a pipe. A pipe of the kernel's default size costs more in calls than it saves in copies.
/// Limit: pipe of a splice: 256 KiB; past it: the rest is moved later.
const PIPE_LEN: i32 = 256 * 1024;
/// The most pipes of a shard, in use or idle. The kernel accounts pipes to the user; past the user's share pipes are
/// tiny.
/// Limit: pipes of a shard: 32; past it: bytes are copied.
const MAX_PIPES: usize = 32;
/// The most idle pipes that are kept for reuse. Further pipes are closed when they are given back.
/// Limit: idle pipes that a shard keeps: 4; past it: the pipe is closed.
const IDLE_PIPES: usize = 4;
/// The number of bytes in a wake-up from which a splice is cheaper than a copy.
/// Limit: bytes of a wake-up for which a direction copies: 64 KiB; past it: the direction splices.
const SPLICE_MIN_BYTES: u32 = 64 * 1024;

/// The pipes of one shard. Clones share the pipes.
#[derive(Clone, Debug, Default)]
pub struct Pipes(Rc<RefCell<PipePool>>);

#[derive(Debug, Default)]
struct PipePool {
    free: Vec<Pipe>,
    /// The number of pipes, including pipes in use.
    made: usize,
    /// Whether the kernel has refused a pipe.
    refused: bool,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// One direction of a connection.
#[derive(Debug)]
pub struct Splice {
    pipes: Pipes,
    pipe: Option<Pipe>,
    /// The number of bytes in the pipe.
    inside: u32,
    /// The number of bytes moved since the source was last empty.
    lately: u32,
}

// === impl Pipes ===

impl Pipes {
    /// Makes the splice of one direction of a connection.
    pub fn shortcut(&self) -> Splice {
        Splice { pipes: self.clone(), pipe: None, inside: 0, lately: 0 }
    }

    fn take(&self) -> Option<Pipe> {
        let mut shelf = self.0.borrow_mut();
        if let Some(pipe) = shelf.free.pop() {
            return Some(pipe);
        }
        // A pipe takes two descriptors, which connections may need.
        if shelf.refused || shelf.made >= MAX_PIPES || descriptors::are_short() {
            return None;
        }
        match Pipe::new() {
            Ok(pipe) => {
                shelf.made += 1;
                Some(pipe)
            }
            Err(error) => {
                tracing::info!(target: "sys", %error, "no pipe of {PIPE_LEN} bytes: bytes are copied instead");
                shelf.refused = true;
                None
            }
        }
    }

    /// Keeps an empty pipe for reuse, or drops a pipe that holds bytes or is not needed.
    fn give(&self, pipe: Pipe, inside: u32) {
        let mut shelf = self.0.borrow_mut();
        if inside == 0 && shelf.free.len() < IDLE_PIPES {
            shelf.free.push(pipe);
        } else {
            shelf.made -= 1;
        }
    }
}

// === impl Pipe ===

impl Pipe {
    fn new() -> io::Result<Self> {
        let mut ends: [RawFd; 2] = [-1; 2];
        // SAFETY: the kernel writes two descriptors into the array, which has room for both.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let [read, write] = ends;
        // SAFETY: both were just opened, and nobody else knows them.
        let pipe = unsafe { Self { read: OwnedFd::from_raw_fd(read), write: OwnedFd::from_raw_fd(write) } };
        // SAFETY: only a number is passed.
        if unsafe { libc::fcntl(write, libc::F_SETPIPE_SZ, PIPE_LEN) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(pipe)
    }
}

fn splice(from: RawFd, to: RawFd, len: usize) -> io::Result<u32> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: without offsets no memory of ours is touched; callers hold both descriptors open.
    let n = unsafe { libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), len, flags) };
    u32::try_from(n).map_err(|_| io::Error::last_os_error())
}

// === impl Splice ===

impl Splice {
    fn release(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            self.pipes.give(pipe, std::mem::take(&mut self.inside));
        }
    }

    /// Writes the bytes in the pipe to the destination.
    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
        moved: &mut usize,
    ) -> Poll<io::Result<()>> {
        let Some(pipe) = &self.pipe else { return Poll::Ready(Ok(())) };
        while self.inside > 0 {
            ready!(to.poll_write_ready(cx))?;
            let len = self.inside as usize;
            let sent = to.try_io(Interest::WRITABLE, || splice(pipe.read.as_raw_fd(), to.as_raw_fd(), len));
            match sent {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    self.inside = self.inside.saturating_sub(n);
                    self.lately = self.lately.saturating_add(n);
                    *moved += n as usize;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Shortcut for Splice {
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&TcpStream, &TcpStream),
        moved: &mut usize,
        turn: usize,
    ) -> Poll<Passed> {
        loop {
            if let Err(error) = ready!(self.poll_flush(cx, to, moved)) {
                self.release();
                return Poll::Ready(Passed::Unsent(error));
            }
            if *moved >= turn {
                return Poll::Ready(Passed::Turn);
            }
            let readable = from.poll_read_ready(cx);
            if readable.is_pending() {
                self.release();
                let worthwhile = std::mem::take(&mut self.lately) >= SPLICE_MIN_BYTES;
                return if worthwhile { Poll::Pending } else { Poll::Ready(Passed::Little) };
            }
            if self.pipe.is_none() {
                self.pipe = self.pipes.take();
            }
            let Some(pipe) = &self.pipe else { return Poll::Ready(Passed::Unable) };
            let len = PIPE_LEN as usize;
            let got =
                from.try_io(Interest::READABLE, || splice(from.as_raw_fd(), pipe.write.as_raw_fd(), len));
            match got {
                Ok(0) => {
                    self.release();
                    return Poll::Ready(Passed::End(Ok(())));
                }
                Ok(n) => self.inside = n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.release();
                    return Poll::Ready(Passed::End(Err(error)));
                }
            }
        }
    }

    fn holds_bytes(&self) -> bool {
        self.inside > 0
    }

    fn take_held(&mut self) -> Bytes {
        let Some(pipe) = &self.pipe else { return Bytes::new() };
        let mut held = BytesMut::zeroed(self.inside as usize);
        let mut filled = 0;
        while let Some(room) = held.get_mut(filled..).filter(|room| !room.is_empty()) {
            // SAFETY: `room` is exclusively borrowed and of the stated length, and the pipe is open for the whole call.
            let n = unsafe { libc::read(pipe.read.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) };
            match usize::try_from(n) {
                // The bytes are there, so a pipe without them is one that was broken.
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        held.truncate(filled);
        self.inside -= u32::try_from(filled).unwrap_or(self.inside);
        held.freeze()
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests;

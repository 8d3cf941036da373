//! Sockets that several threads use through one descriptor.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::Deref,
    os::fd::{AsRawFd, FromRawFd, RawFd},
    sync::Arc,
    time::Duration,
};

use socket2::{SockAddr, Socket};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep,
};

/// The number of tries to watch a socket whose former watcher on the same thread is about to end.
/// Limit: tries to watch a socket whose former watcher is about to end: 1000; past it: the accept loop
/// ends, and is placed again.
const WATCH_TRIES: u32 = 1000;
/// The pause between two of these tries.
/// No limit: the pause between two tries.
const WATCH_PAUSE: Duration = Duration::from_millis(1);

mod sealed {
    /// A socket that keeps one descriptor while it lives.
    pub(crate) trait StdSocket: std::os::fd::AsRawFd {}
    impl StdSocket for std::net::TcpListener {}
    impl StdSocket for std::net::UdpSocket {}
}

use sealed::StdSocket;

/// A nonblocking socket. Clones share one descriptor, which the drop of the last clone closes.
#[derive(Debug)]
pub(crate) struct Shared<S>(Arc<S>);

/// A shared socket that the runtime of one thread watches for input. Other threads may watch the same socket.
#[derive(Debug)]
pub(crate) struct Watched<S: StdSocket>(AsyncFd<Shared<S>>);

// === impl Shared ===

impl<S: StdSocket> Shared<S> {
    /// Makes a shared socket of `socket`, which must be nonblocking.
    pub(crate) fn new(socket: S) -> Self {
        Self(Arc::new(socket))
    }

    /// Makes the calling thread's runtime watch the socket. A runtime watches a descriptor only once, so the call
    /// waits for a former watcher that is about to end.
    ///
    /// # Errors
    /// The kernel cannot watch the socket, or its former watcher does not end.
    pub(crate) async fn watch(self) -> io::Result<Watched<S>> {
        let mut left = WATCH_TRIES;
        loop {
            left -= 1;
            // SAFETY: sockets of the standard library keep their descriptor, and the clone keeps the socket open.
            let watched = unsafe { AsyncFd::register_with_interest(self.clone(), Interest::READABLE) };
            match watched.map_err(io::Error::from) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && left > 0 => {
                    sleep(WATCH_PAUSE).await;
                }
                watched => return watched.map(Watched),
            }
        }
    }
}

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Deref for Shared<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0
    }
}

impl<S: StdSocket> AsRawFd for Shared<S> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

// === impl Watched ===

impl<S: StdSocket> Watched<S> {
    /// Waits until the socket may be readable. Cancel safe.
    ///
    /// # Errors
    /// The runtime ends.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        // The socket stays ready until a read finds no data.
        self.0.readable().await.map(drop)
    }
}

impl<S: StdSocket> Deref for Watched<S> {
    type Target = S;

    fn deref(&self) -> &S {
        self.0.get_ref()
    }
}

impl Watched<TcpListener> {
    /// Waits for a connection and accepts it. The connection is nonblocking and belongs to no runtime. Cancel safe.
    ///
    /// # Errors
    /// See accept(2).
    pub(crate) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.async_io(Interest::READABLE, |listener| accept_now(listener)).await
    }
}

impl Watched<UdpSocket> {
    /// Reads a waiting datagram into `room`. Returns the length and the sender of the datagram.
    ///
    /// # Errors
    /// `WouldBlock` without a datagram; see recvfrom(2).
    pub(crate) fn try_recv_from(&self, room: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.0.try_io(Interest::READABLE, |socket| socket.recv_from(room))
    }
}

/// Accepts a nonblocking connection by one system call. The standard library needs two.
fn accept_now(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    const FLAGS: libc::c_int = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let accept = |address: *mut socket2::SockAddrStorage, length: *mut libc::socklen_t| {
        // SAFETY: both point to memory that outlives the call, and `length` holds the size of `address`.
        let fd = unsafe { libc::accept4(listener.as_raw_fd(), address.cast(), length, FLAGS) };
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
    };
    // SAFETY: a call that succeeds has set the address and its length.
    let (fd, address) = unsafe { SockAddr::try_init(accept) }?;
    // SAFETY: the descriptor is new and belongs to nobody else.
    let socket = unsafe { Socket::from_raw_fd(fd) };
    let address = address.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((socket.into(), address))
}

#[cfg(test)]
mod tests;

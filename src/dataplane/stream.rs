//! A connection of an application: a TCP connection, or a substitute in a test.

use std::{
    io::{self, ErrorKind, Read as _},
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest},
    net::TcpStream,
};

use super::timed_relay::{TimedRelay, timed};
use crate::{
    protocols::{
        addr::{ClientAddr, OrigDst, canonical},
        relay::{Meter, Side, relay_by},
    },
    runtime::shard::Shard,
    sys::{
        socket::{self, AppSide},
        splice::Splice,
    },
};

/// A connection of an application.
pub(crate) trait AppStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The connection as a side of a relay.
    type Side: Side + Unpin + 'static;

    /// Converts the connection into a side of a relay.
    fn into_side(self) -> Self::Side;

    /// The local address on which the connection was accepted.
    ///
    /// # Errors
    /// The connection is reset already.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The destination before the connection was redirected; `None` if the connection was not redirected.
    fn original_dst(&self, v4: bool) -> Option<SocketAddr>;

    /// Reads the bytes that have arrived without waiting, even if the runtime has not seen the bytes yet.
    ///
    /// # Errors
    /// `WouldBlock` if no bytes have arrived; any other error if the connection is broken.
    fn read_now(&self, room: &mut [u8]) -> io::Result<usize>;

    /// Makes the drop reset the connection rather than close it.
    fn reset_on_drop(&self);

    /// The descriptor of the connection's socket, which another process can take over.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

// === impl TcpStream ===

impl AppStream for TcpStream {
    type Side = AppSide;

    fn into_side(self) -> AppSide {
        AppSide::of(self)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpStream::local_addr(self)
    }

    fn original_dst(&self, v4: bool) -> Option<SocketAddr> {
        socket::original_dst(self, v4)
    }

    fn read_now(&self, room: &mut [u8]) -> io::Result<usize> {
        let n = (&*SockRef::from(self)).read(room)?;
        if n > 0 && n < room.len() {
            // The socket is drained. The runtime must learn of that, or the relay would read in vain.
            let _ = self.try_io::<()>(Interest::READABLE, || Err(ErrorKind::WouldBlock.into()));
        }
        Ok(n)
    }

    fn reset_on_drop(&self) {
        // A socket that refuses the option is reset already.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

/// The client and the original destination of a captured connection.
///
/// # Errors
/// The connection is reset already.
pub(crate) fn captured_addrs(stream: &impl AppStream, peer: SocketAddr) -> io::Result<(ClientAddr, OrigDst)> {
    let client = ClientAddr::new(peer);
    // The socket's own address is only needed if the connection was not redirected.
    let dst = match stream.original_dst(client.ip().is_ipv4()) {
        Some(dst) => dst,
        None => canonical(stream.local_addr()?),
    };
    Ok((client, OrigDst::new(dst)))
}

/// The client of an accepted tunnel, and the address the tunnel was accepted on.
///
/// # Errors
/// The connection is reset already.
pub(crate) fn tunnel_addrs(
    stream: &impl AppStream,
    peer: SocketAddr,
) -> io::Result<(ClientAddr, SocketAddr)> {
    Ok((ClientAddr::new(peer), canonical(stream.local_addr()?)))
}

/// Relays between two connections without a tunnel, by splice where possible.
pub(crate) fn relay_plain<'a, S: Side, M: Meter>(
    shard: &'a Shard,
    first: S,
    second: S,
    meter: &'a M,
) -> TimedRelay<'a, S, S, M, Splice> {
    let shortcuts = [shard.pipes.shortcut(), shard.pipes.shortcut()];
    timed(relay_by(shortcuts, (first, second), meter, &shard.buffers))
}

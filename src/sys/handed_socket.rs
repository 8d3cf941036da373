//! Checks of a descriptor that another process has sent as the socket of a connection.

use std::{
    io,
    net::TcpStream,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use socket2::{Protocol, SockRef};

use super::netns::NetNs;

/// Why a descriptor is no socket of a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadSocket {
    /// The descriptor is no socket, or one that is not TCP's.
    #[error("a descriptor that is no TCP socket")]
    NotTcp,
    /// The socket listens.
    #[error("a socket that listens")]
    Listens,
    /// The socket has no peer, or its peer has gone meanwhile.
    #[error("a socket that is not connected")]
    NotConnected,
    /// The socket belongs to another network namespace than the pod.
    #[error("a socket of another network namespace")]
    OtherNamespace,
    /// The socket cannot be examined.
    #[error("a socket that cannot be examined: {0}")]
    Unknown(#[from] io::Error),
}

/// Checks that `fd` is a connected TCP socket, of whichever network namespace. Nothing is done to the socket.
///
/// # Errors
/// See [`BadSocket`].
pub(crate) fn check_connected(fd: &OwnedFd) -> Result<(), BadSocket> {
    let socket = SockRef::from(fd);
    if !matches!(socket.protocol(), Ok(Some(Protocol::TCP))) {
        return Err(BadSocket::NotTcp);
    }
    if socket.is_listener()? {
        return Err(BadSocket::Listens);
    }
    if socket.peer_addr().is_err() {
        return Err(BadSocket::NotConnected);
    }
    Ok(())
}

/// Closes the TCP socket `fd` with a reset, so that its peer does not take the end for a clean one.
pub(crate) fn reset(fd: OwnedFd) {
    // A socket that refuses the option is reset already.
    let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
}

/// Takes `fd` as a connected TCP socket of the network namespace `netns`. Nothing is done to the socket.
///
/// # Errors
/// See [`BadSocket`]. To find out the namespace takes the capability NET_ADMIN there.
pub(crate) fn connected_tcp(fd: OwnedFd, netns: &NetNs) -> Result<TcpStream, BadSocket> {
    check_connected(&fd)?;
    if namespace_of(&fd)? != *netns {
        return Err(BadSocket::OtherNamespace);
    }
    Ok(fd.into())
}

/// The network namespace of a socket (`SIOCGSKNS`).
fn namespace_of(socket: &OwnedFd) -> io::Result<NetNs> {
    // SAFETY: the call takes no argument, and the descriptor is open.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGSKNS as _) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened, and nobody else knows it.
    NetNs::from_fd(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests;

//! Unix SOCK_SEQPACKET sockets that carry file descriptors, as istio-cni speaks them (docs/spec/dataplane.md 6), and as
//! two proxies of a node speak them.

use std::{
    fs,
    io::{self, IoSliceMut},
    mem,
    net::Shutdown,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

/// The size of the buffer that both sides read into. A longer packet is an error.
/// Limit: a packet of the hand-over as the socket reads it: 1024 bytes; past it: the connection is closed.
pub const MAX_PACKET_BYTES: usize = 1024;

/// The most descriptors that are taken from one packet. The agent may send one; a packet of a hand-over of connections
/// has as many.
/// Limit: descriptors in a packet: 64; past it: all are closed, and so is the connection.
const MAX_FDS: usize = 64;

/// The number of connections that may wait to be accepted.
/// Limit: connections that wait in a socket for a hand-over: 16; past it: the kernel refuses them.
const LISTEN_BACKLOG: i32 = 16;

/// The room for a control message with `MAX_FDS` descriptors, in words, so that the room is aligned for the header.
/// No limit: what another limit needs.
const CONTROL_WORDS: usize = {
    // SAFETY: pure arithmetic on its argument.
    let bytes = unsafe { libc::CMSG_SPACE((MAX_FDS * mem::size_of::<RawFd>()) as libc::c_uint) } as usize;
    bytes.div_ceil(mem::size_of::<u64>())
};

/// One packet and its descriptors, which are close-on-exec.
#[derive(Debug)]
pub struct Packet {
    /// The payload, at most [`MAX_PACKET_BYTES`].
    pub bytes: Vec<u8>,
    /// The descriptors in the order in which they were sent.
    pub fds: Vec<OwnedFd>,
}

/// The error of a read. Descriptors of a bad packet are closed.
#[derive(Debug, thiserror::Error)]
pub enum RecvError {
    /// The socket failed.
    #[error("cannot read from the socket: {0}")]
    Io(#[from] io::Error),
    /// The packet is longer than [`MAX_PACKET_BYTES`].
    #[error("the peer sent a packet of more than {MAX_PACKET_BYTES} bytes")]
    PeerPacketTooLong,
    /// The packet carries more descriptors than can be taken.
    #[error("the peer sent more than {MAX_FDS} file descriptors in a packet")]
    PeerTooManyFds,
}

/// A connected SEQPACKET socket. Both directions may be used at the same time. A drop closes the socket.
#[derive(Debug)]
pub struct SeqPacket {
    fd: AsyncFd<Socket>,
}

/// A listening SEQPACKET socket. A drop closes the socket and leaves its path behind.
#[derive(Debug)]
pub struct SeqListener {
    fd: AsyncFd<Socket>,
}

// === impl SeqPacket ===

impl SeqPacket {
    /// Connects to the listener at `path`.
    ///
    /// The call does not wait: a unix socket connects at once or not at all.
    ///
    /// # Errors
    /// No socket listens at `path`, the listener's queue is full, the path is too long, or no descriptors are left.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = seqpacket()?;
        socket.connect(&SockAddr::unix(path)?)?;
        Self::wrap(socket)
    }

    /// Makes two sockets that are connected to each other.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, two) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None)?;
        one.set_nonblocking(true)?;
        two.set_nonblocking(true)?;
        Ok((Self::wrap(one)?, Self::wrap(two)?))
    }

    /// Sends one packet, with `fd`, if any, in a control message. The call waits while the peer's queue is full.
    ///
    /// # Errors
    /// The peer is gone, or the packet is larger than the socket takes. A part of a packet is never sent.
    pub async fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send_all(bytes, fd.as_slice()).await
    }

    /// Sends one packet with at most `MAX_FDS` descriptors, as [`SeqPacket::send`] does.
    ///
    /// # Errors
    /// As for [`SeqPacket::send`]; also too many descriptors.
    pub async fn send_all(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.fd.async_io(Interest::WRITABLE, |socket| send(socket.as_raw_fd(), bytes, fds)).await
    }

    /// Receives the next packet; `None` once the peer has closed. A drop of the future loses no packet.
    ///
    /// An empty packet looks like a close and counts as a close.
    ///
    /// # Errors
    /// See [`RecvError`].
    pub async fn recv(&self) -> Result<Option<Packet>, RecvError> {
        self.recv_into(&mut [0; MAX_PACKET_BYTES]).await
    }

    /// Receives the next packet through `buffer`, as [`SeqPacket::recv`] does. A longer packet is an error.
    ///
    /// # Errors
    /// See [`RecvError`].
    pub(crate) async fn recv_into(&self, buffer: &mut [u8]) -> Result<Option<Packet>, RecvError> {
        let got = self.fd.async_io(Interest::READABLE, |socket| recv(socket.as_raw_fd(), buffer)).await?;
        got.packet(buffer)
    }

    /// Receives a packet that has arrived already, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` without a packet; see [`RecvError`].
    pub(crate) fn recv_now(&self, buffer: &mut [u8]) -> Result<Option<Packet>, RecvError> {
        recv(self.fd.get_ref().as_raw_fd(), buffer)?.packet(buffer)
    }

    /// Lets no further packet in. A packet that the peer has sent is there already, and every later send of the peer fails:
    /// the kernel takes both under one lock (`unix_shutdown`, `unix_dgram_sendmsg`). So either both ends know of a packet,
    /// or neither does.
    pub(crate) fn refuse_more(&self) {
        // The call fails only if the socket is not connected any more, and then no packet can come.
        let _ = self.fd.get_ref().shutdown(Shutdown::Both);
    }

    /// The user of the process at the other end, at the time when it connected or listened.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(crate) fn peer_user(&self) -> io::Result<u32> {
        // SAFETY: an all-zero ucred is valid.
        let mut peer: libc::ucred = unsafe { mem::zeroed() };
        let mut len = mem::size_of::<libc::ucred>() as libc::socklen_t;
        let (fd, value) = (self.fd.get_ref().as_raw_fd(), (&raw mut peer).cast());
        // SAFETY: the kernel writes at most `len` bytes to `peer`, and the descriptor is open.
        match unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, value, &raw mut len) } {
            0 => Ok(peer.uid),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn wrap(socket: Socket) -> io::Result<Self> {
        Ok(Self { fd: register(socket)? })
    }
}

/// The user of this process.
pub(crate) fn own_user() -> u32 {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}

// === impl SeqListener ===

impl SeqListener {
    /// Makes a listener at `path`, which must not exist yet.
    ///
    /// # Errors
    /// The path exists, is too long or cannot be written.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = seqpacket()?;
        socket.bind(&SockAddr::unix(path)?)?;
        socket.listen(LISTEN_BACKLOG)?;
        Ok(Self { fd: register(socket)? })
    }

    /// Makes a listener at `path` that only this user reaches. Takes the place of a listener that is there: from then on
    /// clients reach this one. `beside`: a free path of the same folder, which is used for a moment.
    ///
    /// # Errors
    /// A path is too long or cannot be written.
    pub(crate) fn replace(path: &Path, beside: &Path) -> io::Result<Self> {
        let socket = seqpacket()?;
        // What a process left behind that died at this place.
        let _ = fs::remove_file(beside);
        socket.bind(&SockAddr::unix(beside)?)?;
        // Nobody can connect before the listen.
        fs::set_permissions(beside, fs::Permissions::from_mode(0o600))?;
        socket.listen(LISTEN_BACKLOG)?;
        fs::rename(beside, path)?;
        Ok(Self { fd: register(socket)? })
    }

    /// Accepts the next connection.
    ///
    /// # Errors
    /// No descriptors are left, or the connection was given up before the accept.
    pub async fn accept(&self) -> io::Result<SeqPacket> {
        let (socket, _) = self.fd.async_io(Interest::READABLE, |socket| socket.accept()).await?;
        socket.set_nonblocking(true)?;
        SeqPacket::wrap(socket)
    }
}

/// The result of one `recvmsg`.
struct Received {
    len: usize,
    fds: Vec<OwnedFd>,
    flags: libc::c_int,
}

// === impl Received ===

impl Received {
    fn packet(self, buffer: &[u8]) -> Result<Option<Packet>, RecvError> {
        if self.flags & libc::MSG_CTRUNC != 0 {
            return Err(RecvError::PeerTooManyFds);
        }
        if self.flags & libc::MSG_TRUNC != 0 {
            return Err(RecvError::PeerPacketTooLong);
        }
        let bytes = buffer.get(..self.len).unwrap_or_default().to_vec();
        Ok((!bytes.is_empty()).then_some(Packet { bytes, fds: self.fds }))
    }
}

fn seqpacket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a Socket owns its descriptor: it is open, stays the same and lives as long as the AsyncFd that owns it.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

fn send(socket: RawFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control = [0u64; CONTROL_WORDS];
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is valid: no name, no buffers, no control message.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let size = mem::size_of_val(fds) as libc::c_uint;
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: pure arithmetic on its argument.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as _;
        // SAFETY: `control` is aligned for a cmsghdr and has the space of `MAX_FDS` descriptors, so the first header
        // exists and its data has room for all.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as _;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (index, fd) in fds.iter().enumerate() {
                data.add(index).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    // SAFETY: `message` points to `iov`, `bytes` and `control`, which all outlive the call; the kernel only reads
    // them.
    let sent = unsafe { libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn recv(socket: RawFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut iov = IoSliceMut::new(buffer);
    // SAFETY: an all-zero msghdr is valid: no name, no buffers, no control message.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    // IoSliceMut is guaranteed to have the layout of iovec.
    message.msg_iov = (&raw mut iov).cast();
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control) as _;
    // SAFETY: `message` points to `iov`, its buffer and `control`, all exclusively borrowed and of the stated sizes.
    let len = unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let Ok(len) = usize::try_from(len) else { return Err(io::Error::last_os_error()) };
    // The descriptors are taken before any check: each descriptor must be owned, and so closed, in any case.
    let fds = descriptors(&message);
    Ok(Received { len, fds, flags: message.msg_flags })
}

/// Takes ownership of every descriptor in the control messages of a `message` that `recvmsg` has just filled.
fn descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: `message` was filled by recvmsg, so its control messages are well formed and lie in its control buffer;
    // CMSG_FIRSTHDR and CMSG_NXTHDR return null after the last. The data of SCM_RIGHTS is whole descriptors, each new
    // in this process and owned by nobody else.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                let bytes = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                for i in 0..bytes / mem::size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    fds
}

#[cfg(test)]
mod tests;

//! The kernel queries of a pod's audit. The queries find whether a listener still listens, whether the pod has a network,
//! and whether the pod's connections are redirected.

use std::{
    ffi::CStr,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsRawFd,
    ptr,
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::interface::Interface;

/// The target of an IPv4 canary. The address belongs to no network (RFC 5737), so no other host answers there.
const TARGET_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The target of an IPv6 canary (RFC 3849).
const TARGET_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The target port of both families. IANA has reserved the port, so no program connects to it.
/// No limit: the port of a canary.
const TARGET_PORT: u16 = 1;
/// The hop limit of a canary. If no rule redirects the canary, the first router, which is the node, drops it.
/// Limit: hop limit of a canary: 1; past it: the node drops the canary.
const CANARY_HOPS: u32 = 1;

/// A connection like those of the pod's programs, to an address without a host. Only redirection can get it accepted.
#[derive(Debug)]
pub(crate) struct Canary {
    socket: Socket,
    from: SocketAddr,
}

/// The state of a canary's connection.
#[derive(Debug)]
pub(crate) enum Flight {
    /// The kernel has put the connection into a listener's queue. The listener may have dropped the connection since.
    Answered,
    /// No answer has come yet.
    Silent,
    /// The connection was refused.
    Refused(io::Error),
}

/// The number of connections that wait in a listener, and the bound of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// The number of connections that wait now.
    pub now: u32,
    /// The most connections that may wait.
    pub most: u32,
}

/// The list of interfaces from getifaddrs(3), which is freed on drop.
struct Interfaces(*mut libc::ifaddrs);

// === impl Canary ===

impl Canary {
    /// Sends a canary from the thread's current namespace; `None` if the pod has no route of that family.
    ///
    /// # Errors
    /// The process, the kernel or the pod is out of a resource, or a rule of the pod forbids the connection.
    pub(crate) fn send(v6: bool) -> io::Result<Option<Self>> {
        let target = target(v6);
        if !is_reachable(target)? {
            return Ok(None);
        }
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if v6 {
            socket.set_unicast_hops_v6(CANARY_HOPS)?;
        } else {
            socket.set_ttl_v4(CANARY_HOPS)?;
        }
        // With this option the close leaves no connection in TIME_WAIT behind.
        socket.set_linger(Some(Duration::ZERO))?;
        match socket.connect(&target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let from = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Some(Self { socket, from }))
    }

    /// The source address of the canary, which identifies the canary.
    pub(crate) fn from(&self) -> SocketAddr {
        self.from
    }

    /// The state of the canary's connection now.
    pub(crate) fn flight(&self) -> Flight {
        match self.socket.take_error() {
            Ok(None) if self.socket.peer_addr().is_ok() => Flight::Answered,
            Ok(None) => Flight::Silent,
            // Only an established connection is reset. This proxy accepted the canary and dropped it by a reset.
            Ok(Some(error)) if error.kind() == io::ErrorKind::ConnectionReset => Flight::Answered,
            Ok(Some(error)) | Err(error) => Flight::Refused(error),
        }
    }
}

/// The target of a canary.
pub(crate) fn target(v6: bool) -> SocketAddr {
    let ip = if v6 { IpAddr::V6(TARGET_V6) } else { IpAddr::V4(TARGET_V4) };
    SocketAddr::new(ip, TARGET_PORT)
}

/// Whether the thread's current namespace has a route to `target` and a source address for it. No packet is sent.
fn is_reachable(target: SocketAddr) -> io::Result<bool> {
    let any = if target.is_ipv6() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
    let probe = match UdpSocket::bind(SocketAddr::new(any, 0)) {
        Ok(probe) => probe,
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => return Ok(false),
        Err(error) => return Err(error),
    };
    if probe.connect(target).is_err() {
        return Ok(false);
    }
    // A pod without IPv6 still has a link-local address, which does not count.
    Ok(match probe.local_addr()?.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_unicast_link_local(),
    })
}

/// Whether `listener` still listens.
pub(crate) fn is_listening(listener: &TcpListener) -> bool {
    SockRef::from(listener).is_listener().unwrap_or(false)
}

/// The number of connections that wait in `listener`.
///
/// # Errors
/// `listener` is no TCP socket.
pub(crate) fn waiting(listener: &TcpListener) -> io::Result<Waiting> {
    // SAFETY: zeroes are a valid value of this structure of integers.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = mem::size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: both outlive the call, which writes at most `length` bytes into `info`.
    let done = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // For a listener these two fields are the length and the bound of its queue.
    Ok(Waiting { now: info.tcpi_unacked, most: info.tcpi_sacked })
}

/// Finds an interface of the thread's current namespace, other than loopback, that is up and has a carrier.
///
/// # Errors
/// The kernel does not list the interfaces.
pub(crate) fn network() -> io::Result<Option<Interface>> {
    let mut first = ptr::null_mut();
    // SAFETY: the pointer outlives the call, which sets it to a list that `Interfaces` frees.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let interfaces = Interfaces(first);
    let (wanted, loopback) = ((libc::IFF_UP | libc::IFF_RUNNING) as u32, libc::IFF_LOOPBACK as u32);
    let mut at = interfaces.0;
    // SAFETY: `at` is null or an entry of the list, which lives as long as `interfaces`.
    while let Some(interface) = unsafe { at.as_ref() } {
        if interface.ifa_flags & (wanted | loopback) == wanted {
            // SAFETY: each entry has a name, which ends with a zero and lives as long as the list.
            return Ok(Interface::named(unsafe { CStr::from_ptr(interface.ifa_name) }));
        }
        at = interface.ifa_next;
    }
    Ok(None)
}

impl Drop for Interfaces {
    fn drop(&mut self) {
        // SAFETY: the list came from getifaddrs and is freed once.
        unsafe { libc::freeifaddrs(self.0) }
    }
}

#[cfg(test)]
mod tests;

//! Sockets of pods: listeners, connects, options, original destination (docs/spec/dataplane.md 1.2, 1.5).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use tokio::{io::Interest, net::TcpStream};

use super::pacing::{self, PathScope};
use crate::protocols::{
    config::Keepalive,
    relay::{Last, TcpSide},
};

/// Connections the kernel holds for a listener until they are accepted: enough for a burst of clients.
/// Limit: connections that wait in a listener: 1024; past it: the kernel drops them.
const LISTENER_BACKLOG: i32 = 1024;

/// The mark with which the proxy's connections begin unless a setting says otherwise.
/// No limit: a mark that istio-cni's rules fix.
const PROXY_MARK: u32 = 0x539;
/// The mark that the pod's rules put on each packet of a connection that began so (docs/spec/dataplane.md 1.3).
/// No limit: a mark that istio-cni's rules fix.
const CONNECTION_MARK: u32 = 0x111;
/// The bits of both that the rules look at.
/// No limit: a mask that istio-cni's rules fix.
const MARK_BITS: u32 = 0xfff;

/// How a listener is bound.
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    /// Where; `[::]` accepts IPv4 as well.
    pub addr: SocketAddr,
    /// `SO_MARK`, inherited by what is accepted.
    pub mark: Option<u32>,
    /// Where clients are, if what is accepted is not to be paced.
    pub unpaced: Option<PathScope>,
    /// `SO_REUSEPORT`: two proxies may overlap during an upgrade.
    pub reuse_port: bool,
    /// `IP_TRANSPARENT`: `Some(true)` must succeed, `None` is tried, `Some(false)` is not.
    pub transparent: Option<bool>,
    /// Connections come by a REDIRECT rule, to an address of the pod: whether the socket may be transparent is found
    /// out, and it is none.
    pub redirected: bool,
    /// Keepalive, inherited by what is accepted.
    pub keepalive: Option<Keepalive>,
}

/// A listener, and what was found out with it.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The listening socket.
    pub listener: std::net::TcpListener,
    /// Whether sockets of its namespace may be transparent.
    pub transparent: bool,
    /// Whether connections of its namespace are paced unless told otherwise.
    pub paced: bool,
}

/// How an outgoing socket is made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Connect {
    /// `SO_MARK`.
    pub mark: Option<u32>,
    /// Address to appear as: bound with `IP_TRANSPARENT`, any port.
    pub source: Option<IpAddr>,
    /// Keepalive, if on.
    pub keepalive: Option<Keepalive>,
    /// Where the other side is, if the connection is not to be paced though that is the default.
    pub unpaced: Option<PathScope>,
}

/// The end of an application's connection, as a side of a relay.
pub(crate) type AppSide = TcpSide<BeforeFin>;

/// The last bytes of a connection leave in one segment with its FIN.
#[derive(Debug)]
pub(crate) enum BeforeFin {}

impl Last for BeforeFin {
    fn send(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let send = || SockRef::from(stream).send_with_flags(bytes, libc::MSG_NOSIGNAL | libc::MSG_MORE);
        stream.try_io(Interest::WRITABLE, send)
    }
}

/// Opens a listener in the thread's current namespace, nonblocking.
///
/// # Errors
/// Creating, marking or binding failed, or being transparent, if that was demanded.
pub(crate) fn listen(how: &Listen) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(how.addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if how.addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if let Some(mark) = how.mark {
        socket.set_mark(mark)?;
    }
    let transparent = match how.transparent {
        Some(false) => false,
        Some(true) => {
            socket.set_ip_transparent_v4(true)?;
            true
        }
        None => socket.set_ip_transparent_v4(true).is_ok(),
    };
    if transparent && how.redirected {
        // A client may use one port for connections to several ports of the pod, and redirected all of them go to this
        // one. The kernel looks for the socket of a SYN before address translation has told them apart, and looks again
        // only if what it found is not transparent (nf_nat_ipv4_local_in): else the SYN goes to the other connection.
        socket.set_ip_transparent_v4(false)?;
    }
    let paced = pacing::is_paced(&socket);
    // Inherited by what is accepted, which saves these calls for each connection.
    if let Some(scope) = how.unpaced
        && paced
    {
        scope.unpace(&socket);
    }
    socket.set_tcp_nodelay(true)?;
    if let Some(keepalive) = how.keepalive {
        set_keepalive(SockRef::from(&socket), keepalive)?;
    }
    socket.set_reuse_address(true)?;
    if how.reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&how.addr.into())?;
    socket.listen(LISTENER_BACKLOG)?;
    Ok(Bound { listener: socket.into(), transparent, paced })
}

/// A nonblocking socket ready to connect to an address of the family of `to`, made in the thread's current namespace.
///
/// A source that cannot be assumed is only logged: the connect goes on from the pod's own address.
///
/// # Errors
/// Creating or marking failed.
pub(crate) fn connecting(to: SocketAddr, how: &Connect) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(mark) = how.mark {
        socket.set_mark(mark)?;
    }
    if let Some(keepalive) = how.keepalive {
        set_keepalive(SockRef::from(&socket), keepalive)?;
    }
    if let Some(scope) = how.unpaced {
        scope.unpace(&socket);
    }
    if let Some(source) = how.source
        && let Err(error) = assume(&socket, source)
    {
        tracing::warn!(target: "sys", %source, %error, "cannot connect as the client's address");
    }
    Ok(socket)
}

/// Begins to connect a nonblocking socket. Whether it is connected already: the whole handshake with a socket of this
/// host has taken place in the call, and to ask once more is less than to wait for what the kernel knows already.
///
/// # Errors
/// The connection is refused, or cannot be made.
pub(crate) fn connect(socket: &Socket, to: SocketAddr) -> io::Result<bool> {
    let to = to.into();
    match socket.connect(&to) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => match socket.connect(&to) {
            Err(error) if error.raw_os_error() == Some(libc::EALREADY) => Ok(false),
            connected => connected.map(|()| true),
        },
        connected => connected.map(|()| true),
    }
}

/// Has an established connection that began with `mark` within its pod send with the mark that the pod's rules would
/// put on each of its packets: they route a packet again whose mark they change, which is an eighth of what sending costs.
pub(crate) fn settle(stream: &impl AsFd, mark: Option<u32>) {
    if mark.is_some_and(|mark| mark & MARK_BITS == PROXY_MARK) {
        // Without it all goes on as it was.
        let _ = SockRef::from(stream).set_mark(CONNECTION_MARK);
    }
}

/// Where the connection was going before it was redirected; `None` if it was not redirected.
pub(crate) fn original_dst(stream: &impl AsFd, v4: bool) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let addr = if v4 { socket.original_dst_v4() } else { socket.original_dst_v6() };
    addr.ok().and_then(|addr| addr.as_socket())
}

/// Whether `ip` is an address of the thread's current namespace: the kernel then talks to it from itself. Nothing is
/// sent.
pub(crate) fn is_own(ip: IpAddr) -> bool {
    let any = SocketAddr::new(ip, 9);
    let socket = Socket::new(Domain::for_address(any), Type::DGRAM, Some(Protocol::UDP));
    let from = socket.and_then(|socket| {
        socket.connect(&any.into())?;
        socket.local_addr()
    });
    from.ok().and_then(|from| from.as_socket()).is_some_and(|from| from.ip() == ip)
}

/// A loopback-free wildcard: `[::]`, or `0.0.0.0` where IPv6 is off.
pub(crate) fn wildcard(ipv6: bool, port: u16) -> SocketAddr {
    let ip = if ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    SocketAddr::new(ip, port)
}

fn set_keepalive(socket: SockRef<'_>, keepalive: Keepalive) -> io::Result<()> {
    let options = TcpKeepalive::new()
        .with_time(keepalive.time)
        .with_interval(keepalive.interval)
        .with_retries(keepalive.retries);
    socket.set_tcp_keepalive(&options)?;
    if keepalive.user_timeout.is_some() {
        socket.set_tcp_user_timeout(keepalive.user_timeout)?;
    }
    Ok(())
}

fn assume(socket: &Socket, source: IpAddr) -> io::Result<()> {
    // A transparent socket may be bound to any address: FREEBIND would add nothing (ip(7)). The port is chosen here and
    // not by the connect (IP_BIND_ADDRESS_NO_PORT): bind takes odd ports first, connects of the client take even ones,
    // and a port of ours that the client takes, too, is one connection to the pod's connection tracking.
    match source {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        IpAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    socket.bind(&SocketAddr::new(source, 0).into())
}

#[cfg(test)]
mod tests;

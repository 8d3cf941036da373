//! The sockets of pods: listeners, connects, options and original destinations (docs/spec/dataplane.md 1.2, 1.5).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use tokio::{io::Interest, net::TcpStream};

use super::pacing::{self, PathScope};
use crate::protocols::{
    config::Keepalive,
    relay::tcp::{Ending, TcpSide},
};

/// The number of connections that the kernel queues for a listener, which is enough for a burst of clients.
/// Limit: connections that wait in a listener: 1024; past it: the kernel drops them.
const LISTENER_BACKLOG: i32 = 1024;

/// The silence before the first probe of a connection of an application that is half-closed. Connection tracking forgets
/// such a connection after a silence of 60 s (`nf_conntrack_tcp_timeout_close_wait`); later segments would be refused.
/// Limit: silence of a half-closed connection until TCP probes it: 20 s; past it: a probe is sent, and tracking goes on.
const HALF_CLOSED_PROBE_AFTER: Duration = Duration::from_secs(20);

/// The most probes that Linux takes (include/net/tcp.h).
/// No limit: a number of the kernel.
const MOST_PROBES: u32 = 127;

/// The default mark of the proxy's new connections.
/// No limit: a mark that istio-cni's rules fix.
const PROXY_MARK: u32 = 0x539;
/// The mark that the pod's rules put on each packet of a connection that began with [`PROXY_MARK`]
/// (docs/spec/dataplane.md 1.3).
/// No limit: a mark that istio-cni's rules fix.
const CONNECTION_MARK: u32 = 0x111;
/// The bits of both marks that the rules compare.
/// No limit: a mask that istio-cni's rules fix.
const MARK_BITS: u32 = 0xfff;

/// The options of a listener.
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    /// The address to bind. `[::]` accepts IPv4 as well.
    pub addr: SocketAddr,
    /// `SO_MARK`, which accepted connections inherit.
    pub mark: Option<u32>,
    /// The scope of the clients, if accepted connections are not paced.
    pub unpaced: Option<PathScope>,
    /// `SO_REUSEPORT`: two proxies may overlap during an upgrade.
    pub reuse_port: bool,
    /// `IP_TRANSPARENT`: `Some(true)` must succeed, `None` is tried, `Some(false)` is not.
    pub transparent: Option<bool>,
    /// Whether connections come by a REDIRECT rule, to an address of the pod. Such a listener only finds out whether
    /// sockets may be transparent, and is not transparent itself.
    pub redirected: bool,
    /// The keepalive, which accepted connections inherit.
    pub keepalive: Option<Keepalive>,
}

/// A bound listener, and the properties found out during the bind.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The listening socket.
    pub listener: std::net::TcpListener,
    /// Whether sockets of the listener's namespace may be transparent.
    pub transparent: bool,
    /// Whether connections of the listener's namespace are paced by default.
    pub paced: bool,
}

/// The options of an outgoing socket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Connect {
    /// `SO_MARK`.
    pub mark: Option<u32>,
    /// The source address, which is bound with `IP_TRANSPARENT`. Port 0: the kernel chooses the port.
    pub source: Option<SocketAddr>,
    /// The keepalive, if it is on.
    pub keepalive: Option<Keepalive>,
    /// The scope of the peer, if the connection is not paced on a host whose default is pacing.
    pub unpaced: Option<PathScope>,
}

/// The proxy's end of an application's connection, as a side of a relay.
pub(crate) type AppSide = TcpSide<AppEnding>;

/// How connections of applications end: the last bytes are in one segment with the FIN, and half-closed ones are kept.
#[derive(Debug)]
pub(crate) enum AppEnding {}

impl Ending for AppEnding {
    fn send_last(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let send = || SockRef::from(stream).send_with_flags(bytes, libc::MSG_NOSIGNAL | libc::MSG_MORE);
        stream.try_io(Interest::WRITABLE, send)
    }

    /// Has probes come before connection tracking forgets the connection, and its redirection with it.
    fn keep_half_closed(stream: &TcpStream) {
        let socket = SockRef::from(stream);
        let is_on = socket.keepalive().is_ok_and(|is_on| is_on);
        let (Ok(time), Ok(interval), Ok(retries)) =
            (socket.tcp_keepalive_time(), socket.tcp_keepalive_interval(), socket.tcp_keepalive_retries())
        else {
            return;
        };
        let probes = sooner(Keepalive { time, interval, retries, user_timeout: None });
        // After a probe the kernel waits for the interval, even if the probe was answered.
        if is_on && (probes.time, probes.interval) != (time, interval) {
            // A socket that refuses the options is reset already.
            let _ = set_keepalive(socket, probes);
        }
    }
}

/// Opens a listener in the thread's current namespace, nonblocking.
///
/// # Errors
/// The socket could not be created, marked or bound, or could not be transparent although `how` demands it.
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
        // A client may use one port for connections to several ports of the pod. Redirection sends all of these
        // connections to this port. The kernel looks up the socket of a SYN before address translation separates the
        // connections. The kernel looks again only if the found socket is not transparent (nf_nat_ipv4_local_in);
        // otherwise the SYN goes to another connection.
        socket.set_ip_transparent_v4(false)?;
    }
    let paced = pacing::is_paced(&socket);
    // Accepted connections inherit these options, which saves the calls for each connection.
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

/// Has the kernel give new connections to the listener that shares the port and began second, if there is one. What this
/// listener has accepted, or is about to accept, stays with it.
///
/// The kernel numbers the listeners of a port by age, and asks a program for the number (`SO_ATTACH_REUSEPORT_CBPF`). A
/// number that no listener has is ignored.
///
/// # Errors
/// The listener does not share its port.
pub(crate) fn yield_to_newer(listener: &impl AsFd) -> io::Result<()> {
    let mut second = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 1 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut second };
    let (fd, len) = (listener.as_fd().as_raw_fd(), size_of_val(&program) as libc::socklen_t);
    let (option, value) = (libc::SO_ATTACH_REUSEPORT_CBPF, (&raw const program).cast());
    // SAFETY: the kernel copies `program` and the instruction that it points to, both of which outlive the call.
    match unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, value, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a nonblocking socket in the thread's current namespace for a connect to an address of the family of `to`.
///
/// If the source address cannot be bound, the failure is logged, and the connect uses the pod's own address.
///
/// # Errors
/// The socket could not be created or marked, or the port of the source is in use.
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
        if source.port() != 0 && is_taken(&error) {
            return Err(error);
        }
        tracing::warn!(target: "sys", %source, %error, "cannot connect as the client's address");
    }
    Ok(socket)
}

/// Begins to connect a nonblocking socket. Returns whether the socket is connected already. The handshake with a socket
/// of this host happens within the call, and one more system call costs less than a wait for writability.
///
/// # Errors
/// The connection was refused or is impossible.
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

/// Gives an established connection that began with `mark` the mark that the pod's rules put on each packet. The rules
/// route each packet again whose mark they change, which is an eighth of the cost of a send.
pub(crate) fn settle(stream: &impl AsFd, mark: Option<u32>) {
    if mark.is_some_and(|mark| mark & MARK_BITS == PROXY_MARK) {
        // If the call fails, the rules go on to mark each packet.
        let _ = SockRef::from(stream).set_mark(CONNECTION_MARK);
    }
}

/// The destination of a connection before its redirection; `None` if the connection was not redirected.
pub(crate) fn original_dst(stream: &impl AsFd, v4: bool) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let addr = if v4 { socket.original_dst_v4() } else { socket.original_dst_v6() };
    addr.ok().and_then(|addr| addr.as_socket())
}

/// Whether `ip` is an address of the thread's current namespace. The kernel uses such an address as its own source. No
/// packet is sent.
pub(crate) fn is_own(ip: IpAddr) -> bool {
    let any = SocketAddr::new(ip, 9);
    let socket = Socket::new(Domain::for_address(any), Type::DGRAM, Some(Protocol::UDP));
    let from = socket.and_then(|socket| {
        socket.connect(&any.into())?;
        socket.local_addr()
    });
    from.ok().and_then(|from| from.as_socket()).is_some_and(|from| from.ip() == ip)
}

/// The wildcard address with `port`: `[::]`, or `0.0.0.0` if IPv6 is off.
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

/// Probes that come soon enough for a half-closed connection. An application that is silent is given up after about the
/// same time.
fn sooner(Keepalive { time, interval, retries, user_timeout }: Keepalive) -> Keepalive {
    let soon = interval.min(HALF_CLOSED_PROBE_AFTER);
    let all = (interval * retries).as_secs() / soon.as_secs().max(1);
    let retries = u32::try_from(all).unwrap_or(MOST_PROBES).min(MOST_PROBES);
    Keepalive { time: time.min(HALF_CLOSED_PROBE_AFTER), interval: soon, retries, user_timeout }
}

/// Whether a bind or connect failed only because its port is in use.
pub(crate) fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

fn assume(socket: &Socket, source: SocketAddr) -> io::Result<()> {
    // A transparent socket may be bound to any address, so FREEBIND is not needed (ip(7)).
    match source {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    if source.port() != 0 {
        // Other connections may have the port already, and an application that reuses addresses may listen on it.
        socket.set_reuse_address(true)?;
        return socket.bind(&source.into());
    }
    // The bind chooses the port, not the connect: a bind takes odd ports first, and the client's connects take even
    // ports. If proxy and client use the same port, the pod's connection tracking sees one connection.
    match socket.bind(&source.into()) {
        Ok(()) => socket.set_reuse_address(true),
        Err(error) if is_taken(&error) => {
            // No port is free, but each port still serves for a connection to another destination.
            socket.set_reuse_address(true)?;
            choose_port_on_connect(socket)?;
            socket.bind(&source.into())
        }
        Err(error) => Err(error),
    }
}

/// Lets the connect choose the port of a socket that is bound to port 0 (`IP_BIND_ADDRESS_NO_PORT`).
fn choose_port_on_connect(socket: &Socket) -> io::Result<()> {
    let (fd, on): (_, libc::c_int) = (socket.as_raw_fd(), 1);
    let (value, len) = ((&raw const on).cast(), size_of_val(&on) as libc::socklen_t);
    // SAFETY: the kernel reads `len` bytes of `on`, and the caller holds the descriptor open.
    if unsafe { libc::setsockopt(fd, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, value, len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests;

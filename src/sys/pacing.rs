//! Whether TCP paces what a socket sends. BBR, where a host has it as its default, holds back by a timer what the other
//! side could take at once. Over a long way that keeps queues short; within a host or a data centre the timers are a third
//! of what a fat stream costs (docs/performance.md), and queues are short anyway.
//!
//! A socket that BBR has once been given stays paced whatever comes after it (`sk_pacing_status` is never taken back). So
//! sockets begin without it, and those whose other side turns out to be far are given it before they send.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use socket2::{SockRef, Socket};

/// The congestion control that paces.
const PACED: &[u8] = b"bbr";

/// Where the other sides of a socket's connections are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathScope {
    /// On this host: nothing is lost on the way.
    Host,
    /// Anywhere: once connected, [`PathScope::settle`] decides.
    Network,
}

impl PathScope {
    /// Has a socket that is neither connected nor listening, and what it will accept, send without pacing.
    pub(crate) fn unpace(self, socket: &Socket) {
        // Without it all goes on as it was.
        let _ = socket.set_tcp_congestion(match self {
            Self::Host => b"reno",
            Self::Network => b"cubic",
        });
    }

    /// Has a connection of a socket that was [unpaced](Reach::unpace) be paced after all, if the round trip of its
    /// handshake took `near` or longer, or is not known.
    pub(crate) fn settle(self, stream: &impl AsFd, near: Duration) {
        if self == Self::Network && round_trip(stream).is_none_or(|took| took >= near) {
            // Without it it goes on as far connections do where BBR is not the default.
            let _ = SockRef::from(stream).set_tcp_congestion(PACED);
        }
    }
}

/// Whether connections of a new socket are paced unless told otherwise.
pub(crate) fn is_paced(socket: &Socket) -> bool {
    // The kernel pads the name with zeroes.
    socket.tcp_congestion().is_ok_and(|name| name.split(|byte| *byte == 0).next() == Some(PACED))
}

/// The smoothed round trip of a connection (tcp(7), `TCP_INFO`); `None` before there is one, as after a handshake whose
/// SYN was sent twice.
fn round_trip(stream: &impl AsFd) -> Option<Duration> {
    let info = tcp_info(stream).ok()?;
    (info.tcpi_rtt > 0).then(|| Duration::from_micros(info.tcpi_rtt.into()))
}

fn tcp_info(stream: &impl AsFd) -> io::Result<libc::tcp_info> {
    // SAFETY: plain integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut len = libc::socklen_t::try_from(mem::size_of_val(&info)).map_err(io::Error::other)?;
    let fd = stream.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes to `info`, and both outlive the call.
    let got = unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
    };
    if got == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::{SocketAddr, TcpListener, TcpStream},
    };

    use socket2::{Domain, Type};

    use super::*;

    fn congestion(socket: &impl AsFd) -> String {
        let name = SockRef::from(socket).tcp_congestion().unwrap();
        String::from_utf8(name.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
    }

    fn connected(scope: PathScope) -> (TcpListener, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to: SocketAddr = listener.local_addr().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        scope.unpace(&socket);
        socket.connect(&to.into()).unwrap();
        (listener, socket.into())
    }

    /// What there is to choose from, as modules are loaded when they are first asked for.
    fn available(name: &str) -> bool {
        let names = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap();
        names.split_whitespace().any(|available| available == name)
    }

    #[test]
    fn connections_begin_without_pacing() {
        let (_listener, within) = connected(PathScope::Host);
        assert_eq!(congestion(&within), "reno");
        let (_listener, to_others) = connected(PathScope::Network);
        let usual = congestion(&Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
        assert_eq!(congestion(&to_others), if available("cubic") { "cubic".to_owned() } else { usual });
    }

    #[test]
    fn a_handshake_has_a_round_trip_and_a_socket_without_one_has_none() {
        let (_listener, stream) = connected(PathScope::Network);
        let took = round_trip(&stream).unwrap();
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert_eq!(round_trip(&Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()), None);
    }

    #[test]
    fn only_what_is_far_is_paced_again() {
        for (scope, near, paced) in [
            (PathScope::Network, Duration::from_secs(10), false),
            (PathScope::Network, Duration::from_nanos(1), true),
            (PathScope::Host, Duration::from_nanos(1), false),
        ] {
            let (_listener, stream) = connected(scope);
            let before = congestion(&stream);
            scope.settle(&stream, near);
            let now = congestion(&stream);
            assert_eq!(now == before, !paced || !available("bbr"), "{scope:?} {near:?}: {before}, {now}");
        }
    }

    #[test]
    fn what_is_paced_by_default_is_told_from_what_is_not() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_tcp_congestion(b"reno").unwrap();
        assert!(!is_paced(&socket));
        if available("bbr") {
            socket.set_tcp_congestion(b"bbr").unwrap();
            assert!(is_paced(&socket));
        }
    }
}

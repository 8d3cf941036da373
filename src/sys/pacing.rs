//! Whether TCP paces the packets of a socket. BBR, if it is the host's default, delays packets by a timer. On a long
//! path the delay keeps queues short. Within a host or a data centre the timers are a third of the cost of a fat
//! stream (docs/performance.md), and queues are short anyway.
//!
//! A socket that once had BBR stays paced (`sk_pacing_status` is never reset). So sockets begin without BBR, and a
//! connection whose peer turns out to be far is given BBR before it sends.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use socket2::{SockRef, Socket};

/// The congestion control that paces.
const PACED: &[u8] = b"bbr";

/// The scope of the paths of a socket's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathScope {
    /// The peers are on this host: no packet is lost on the path.
    Host,
    /// The peers may be anywhere: [`PathScope::settle`] decides once the socket is connected.
    Network,
}

impl PathScope {
    /// Turns pacing off for a socket that is neither connected nor listening. Accepted connections inherit the
    /// setting.
    pub(crate) fn unpace(self, socket: &Socket) {
        // If the call fails, the socket keeps the default congestion control.
        let _ = socket.set_tcp_congestion(match self {
            Self::Host => b"reno",
            Self::Network => b"cubic",
        });
    }

    /// Turns pacing on for a connection of an [unpaced](PathScope::unpace) socket if the round trip of the handshake
    /// took `near` or longer, or is unknown.
    pub(crate) fn settle(self, stream: &impl AsFd, near: Duration) {
        if self == Self::Network && round_trip(stream).is_none_or(|took| took >= near) {
            // If the call fails, the connection behaves like a far connection on a host whose default is not BBR.
            let _ = SockRef::from(stream).set_tcp_congestion(PACED);
        }
    }
}

/// Whether connections of a new socket are paced by default.
pub(crate) fn is_paced(socket: &Socket) -> bool {
    // The kernel pads the name with zeroes.
    socket.tcp_congestion().is_ok_and(|name| name.split(|byte| *byte == 0).next() == Some(PACED))
}

/// The smoothed round trip of a connection (tcp(7), `TCP_INFO`); `None` if the kernel has no sample, as after a
/// handshake whose SYN was sent twice.
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
mod tests;

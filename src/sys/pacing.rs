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
mod tests;

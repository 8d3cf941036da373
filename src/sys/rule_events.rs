//! Events of rule changes. nf_tables notifies a socket in a network namespace of each change there (linux/netfilter,
//! `NFNLGRP_NFTABLES`). One descriptor waits for the sockets of many namespaces. The legacy `iptables` sends no events.

use std::{
    io::{self, Read},
    mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

/// The length of `nlmsghdr` and `nfgenmsg`.
/// No limit: the length of a header that the kernel fixes.
const NETLINK_HEADER_BYTES: usize = 20;
/// The size of the read buffer, which exceeds the only answer. A longer notification is cut off, which does no harm.
/// Limit: the kernel's answer about nf_tables: 256 bytes; past it: the pod is examined every second.
const NETLINK_ANSWER_BYTES: usize = 256;
/// The most messages that one call reads to find an answer or to empty the socket.
/// Limit: messages of the kernel that one look reads: 1024; past it: the rest waits for the next look.
const MESSAGES_PER_LOOK: usize = 1024;
/// The most ready sockets that one look finds.
/// Limit: pods that one look finds changed: 64; past it: the others wait for the next look.
const SOCKETS_PER_LOOK: usize = 64;
/// The generation of a ruleset that has never changed.
/// No limit: a number that the kernel fixes.
const UNTOUCHED_GENERATION: u32 = 1;

/// A socket that receives an event for each change of the nf_tables rules of one namespace.
#[derive(Debug)]
pub(crate) struct RuleEvents(Socket);

/// A queue that waits for events of many [`RuleEvents`].
#[derive(Debug)]
pub(crate) struct RuleEventQueue(AsyncFd<OwnedFd>);

// === impl RuleEvents ===

impl RuleEvents {
    /// Subscribes to the events of the thread's current namespace; `None` if the kernel has no netfilter.
    ///
    /// # Errors
    /// The kernel refuses the subscription, or the process or the kernel is out of a resource.
    pub(crate) fn open() -> io::Result<Option<Self>> {
        let (domain, protocol) = (Domain::from(libc::AF_NETLINK), Protocol::from(libc::NETLINK_NETFILTER));
        let socket = match Socket::new(domain, Type::RAW.nonblocking(), Some(protocol)) {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(None),
            made => made?,
        };
        let group: libc::c_int = libc::NFNLGRP_NFTABLES;
        // SAFETY: the option is an integer that outlives the call.
        let joined = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_NETLINK,
                libc::NETLINK_ADD_MEMBERSHIP,
                (&raw const group).cast(),
                mem::size_of_val(&group) as libc::socklen_t,
            )
        };
        if joined == 0 { Ok(Some(Self(socket))) } else { Err(io::Error::last_os_error()) }
    }

    /// Whether the nf_tables rules of the namespace have ever changed. The answer is false on a kernel without
    /// nf_tables.
    ///
    /// # Errors
    /// The kernel refuses the query.
    pub(crate) fn is_touched(&self) -> io::Result<bool> {
        match self.generation() {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            generation => Ok(generation? > UNTOUCHED_GENERATION),
        }
    }

    /// The generation of the namespace's ruleset. Each change makes a new generation.
    fn generation(&self) -> io::Result<u32> {
        let mut question = [0; NETLINK_HEADER_BYTES];
        let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_GETGEN) as u16;
        let flags = libc::NLM_F_REQUEST as u16;
        let head =
            [&(NETLINK_HEADER_BYTES as u32).to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes()];
        question.iter_mut().zip(head.into_iter().flatten()).for_each(|(to, from)| *to = *from);
        self.0.send(&question)?;
        // The kernel has answered before the send returns. Notifications may precede the answer.
        for _ in 0..MESSAGES_PER_LOOK {
            let mut answer = [0; NETLINK_ANSWER_BYTES];
            let length = (&self.0).read(&mut answer)?;
            if let Some(generation) = generation(answer.get(..length).unwrap_or_default())? {
                return Ok(generation);
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Reads and discards all pending events.
    pub(crate) fn drain(&self) {
        let mut room = [0; NETLINK_HEADER_BYTES];
        for _ in 0..MESSAGES_PER_LOOK {
            match (&self.0).read(&mut room) {
                Ok(_) => {}
                // Events were lost for lack of room; the pod counts as changed anyway.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }
}

/// Parses an answer: a message header, `nfgenmsg`, and attributes with the generation. `None`: another message.
fn generation(answer: &[u8]) -> io::Result<Option<u32>> {
    const NEW: libc::c_int = libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_NEWGEN;
    const ID: libc::c_int = 1;
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let length = chunk(answer, 0).map(u32::from_ne_bytes).ok_or_else(malformed)?;
    match chunk(answer, 4).map(u16::from_ne_bytes).ok_or_else(malformed)?.into() {
        libc::NLMSG_ERROR => {
            let code = chunk(answer, 16).map(i32::from_ne_bytes).ok_or_else(malformed)?;
            Err(io::Error::from_raw_os_error(code.checked_neg().ok_or_else(malformed)?))
        }
        NEW => {
            let answer = answer.get(..length as usize).ok_or_else(malformed)?;
            let mut rest = answer.get(NETLINK_HEADER_BYTES..).ok_or_else(malformed)?;
            loop {
                let length = chunk(rest, 0).map(u16::from_ne_bytes).ok_or_else(malformed)?;
                let kind = chunk(rest, 2).map(u16::from_ne_bytes).ok_or_else(malformed)?;
                let value = rest.get(4..usize::from(length)).ok_or_else(malformed)?;
                if libc::c_int::from(kind) == ID {
                    return value.try_into().map(u32::from_be_bytes).map(Some).map_err(|_| malformed());
                }
                rest = rest.get(usize::from(length).next_multiple_of(4)..).ok_or_else(malformed)?;
            }
        }
        _ => Ok(None),
    }
}

/// The bytes of a number that begins at `at`.
fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

// === impl RuleEventQueue ===

impl RuleEventQueue {
    /// Makes an empty queue, which the calling thread's runtime watches.
    ///
    /// # Errors
    /// The process or the kernel is out of a resource.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no memory of ours.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and belongs to nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an owned descriptor stays the same until it is dropped.
        let watched = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) };
        Ok(Self(watched.map_err(io::Error::from)?))
    }

    /// Adds `events` to the queue under `number`, until `events` is dropped.
    ///
    /// # Errors
    /// The process or the kernel is out of a resource.
    pub(crate) fn add(&self, events: &RuleEvents, number: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: number };
        let (epoll, socket) = (self.0.as_raw_fd(), events.0.as_raw_fd());
        // SAFETY: the event outlives the call, which reads it.
        let added = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, socket, &raw mut event) };
        if added == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits for events and returns the numbers of ready sockets. A socket is ready until it is drained. Cancel safe.
    ///
    /// # Errors
    /// The runtime ends.
    pub(crate) async fn ready(&self) -> io::Result<Vec<u64>> {
        self.0
            .async_io(Interest::READABLE, |epoll| {
                let found = ready_now(epoll)?;
                if found.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(found) }
            })
            .await
    }
}

fn ready_now(epoll: &OwnedFd) -> io::Result<Vec<u64>> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; SOCKETS_PER_LOOK];
    // SAFETY: the array outlives the call, which writes at most as many events as it holds.
    let count = unsafe {
        libc::epoll_wait(epoll.as_raw_fd(), ptr::from_mut(&mut events).cast(), SOCKETS_PER_LOOK as i32, 0)
    };
    match usize::try_from(count) {
        Ok(count) => Ok(events.iter().take(count).map(|event| event.u64).collect()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests;

//! Netlink messages, and their exchange with the kernel of the current namespace.

use std::{
    io::{self, Read},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::error::NetError;

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const CREATE: u16 = 0x400;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const APPEND: u16 = 0x800;

const HEADER_BYTES: usize = 16;
const NESTED: u16 = 0x8000;
const ERROR: u16 = 2;
const REPLY_LIMIT: Duration = Duration::from_secs(5);
const REPLY_BYTES: usize = 64 * 1024;

/// One message under construction: the header, the family's fixed part, and the attributes.
#[derive(Clone, Debug)]
pub(super) struct Message {
    what: String,
    bytes: Vec<u8>,
}

/// A netlink socket of the namespace of the thread that opened it.
pub(super) struct Netlink {
    socket: Socket,
    namespace: String,
    sequence: u32,
}

// === impl Message ===

impl Message {
    /// A new message. `what` completes the sentence "cannot ..."; `fixed` follows the netlink header.
    pub(super) fn new(what: impl Into<String>, kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | REQUEST).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(fixed);
        let mut message = Self { what: what.into(), bytes };
        message.pad();
        message
    }

    /// Adds an attribute.
    pub(super) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
        self
    }

    /// Adds a number in the machine's byte order, which rtnetlink uses.
    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Adds a number in network byte order, which nf_tables uses.
    pub(super) fn be32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Adds a NUL-terminated string.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Adds bytes without an attribute header, such as a fixed part inside a nest.
    pub(super) fn raw(mut self, value: &[u8]) -> Self {
        self.bytes.extend(value);
        self.pad();
        self
    }

    /// Adds an attribute that contains the attributes added by `fill`.
    pub(super) fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let length = u16::try_from(filled.bytes.len() - start).unwrap_or(u16::MAX);
        filled.patch(start, &length.to_ne_bytes());
        filled
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn patch(&mut self, at: usize, value: &[u8]) {
        for (old, new) in self.bytes.iter_mut().skip(at).zip(value) {
            *old = *new;
        }
    }

    fn encode(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.patch(0, &length.to_ne_bytes());
        self.patch(8, &sequence.to_ne_bytes());
        self.bytes
    }

    fn wants_ack(&self) -> bool {
        number(&self.bytes, 6).is_some_and(|flags: u16| flags & ACK != 0)
    }
}

// === impl Netlink ===

impl Netlink {
    /// Opens a socket in the current namespace, which `namespace` names in errors.
    pub(super) fn open(protocol: i32, namespace: &str) -> Result<Self, NetError> {
        let open = || -> io::Result<Socket> {
            let socket =
                Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(protocol)))?;
            socket.set_read_timeout(Some(REPLY_LIMIT))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| NetError::Socket { namespace: namespace.to_owned(), source })?;
        Ok(Self { socket, namespace: namespace.to_owned(), sequence: 0 })
    }

    /// Sends `messages` as one datagram and waits for the answer to each message with the flag [`ACK`]. The result is
    /// the first refusal.
    pub(super) fn exchange(&mut self, messages: Vec<Message>) -> Result<(), NetError> {
        let first = self.sequence.wrapping_add(1);
        let mut waiting: Vec<(u32, String)> = Vec::new();
        let mut names: Vec<(u32, String)> = Vec::new();
        let mut datagram = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            names.push((self.sequence, message.what.clone()));
            if message.wants_ack() {
                waiting.push((self.sequence, message.what.clone()));
            }
            datagram.extend(message.encode(self.sequence));
        }
        self.socket.send(&datagram).map_err(|source| self.broken(source))?;
        let mut refused = None;
        let mut buffer = vec![0; REPLY_BYTES];
        while !waiting.is_empty() && refused.is_none() {
            let length = (&self.socket).read(&mut buffer).map_err(|source| self.broken(source))?;
            for (sequence, code) in answers(buffer.get(..length).unwrap_or_default()) {
                if sequence < first {
                    continue;
                }
                waiting.retain(|(waiting, _)| *waiting != sequence);
                if code != 0 && refused.is_none() {
                    let name = names.iter().find(|(number, _)| *number == sequence);
                    refused = Some((name.map_or("send a batch", |(_, name)| name).to_owned(), code));
                }
            }
        }
        let Some((what, code)) = refused else { return Ok(()) };
        let source = io::Error::from_raw_os_error(code);
        Err(NetError::Refused { what, namespace: self.namespace.clone(), source })
    }

    fn broken(&self, source: io::Error) -> NetError {
        NetError::Socket { namespace: self.namespace.clone(), source }
    }
}

/// The sequence number and the error code (0 = done) of each answer in a datagram.
fn answers(mut datagram: &[u8]) -> Vec<(u32, i32)> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (number::<u32>(datagram, 0), number::<u16>(datagram, 4)) {
        let length = length as usize;
        if length < HEADER_BYTES || length > datagram.len() {
            break;
        }
        if kind == ERROR
            && let (Some(sequence), Some(code)) = (number(datagram, 8), number::<i32>(datagram, HEADER_BYTES))
        {
            found.push((sequence, code.saturating_neg()));
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// A number in the machine's byte order.
trait Number: Sized {
    fn read(bytes: &[u8]) -> Option<Self>;
}

impl Number for u16 {
    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().copied().map(Self::from_ne_bytes)
    }
}

impl Number for u32 {
    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().copied().map(Self::from_ne_bytes)
    }
}

impl Number for i32 {
    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().copied().map(Self::from_ne_bytes)
    }
}

fn number<T: Number>(bytes: &[u8], at: usize) -> Option<T> {
    T::read(bytes.get(at..)?)
}

#[cfg(test)]
mod tests;

//! Messages in packets. A Unix socket takes packets of a bounded size, so a long message is several packets. The first
//! byte of a packet says whether another one follows.

use zeroize::Zeroizing;

/// The longest packet, its first byte included.
/// Limit: a packet of the hand-over of connections: 32 KiB; past it: the link is closed.
pub(crate) const MAX_PACKET: usize = 32 * 1024;
/// The longest message: more than what waits in a tunnel whose readers have stopped.
/// Limit: a message of the hand-over of connections: 32 MiB; past it: the connection is not handed over, and a link that
/// sends more is closed.
pub(crate) const MAX_MESSAGE: usize = 32 * 1024 * 1024;
/// The most descriptors of a packet. The kernel takes 253 (`SCM_MAX_FD`).
/// Limit: descriptors in a packet of the hand-over of connections: 64; past it: the link is closed.
pub(crate) const MAX_PACKET_FDS: usize = 64;
/// The most descriptors of a message: a tunnel, and one for each of its streams.
/// Limit: descriptors in a message of the hand-over of connections: 1025; past it: the link is closed.
pub(crate) const MAX_MESSAGE_FDS: usize = 1025;

/// The first byte of a packet that another packet follows.
const MORE: u8 = 1;
/// The first byte of the last packet of a message.
const LAST: u8 = 0;

/// A message that is coming in. Its bytes are wiped when they are dropped.
#[derive(Default)]
pub(crate) struct Assembly(Zeroizing<Vec<u8>>);

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPacket {
    /// The first byte has no meaning.
    #[error("a packet that begins with {0}")]
    Mark(u8),
    /// The packet is empty, or is not the last one and carries nothing.
    #[error("an empty packet")]
    Empty,
    /// The message is too long.
    #[error("a message of more than {MAX_MESSAGE} bytes")]
    TooLong,
}

/// The packets of `message`, which takes so many packets that `fds` descriptors fit into them. A message that is longer
/// than [`MAX_MESSAGE`] has none. Packets are wiped when they are dropped.
pub(crate) fn split(message: &[u8], fds: usize) -> impl Iterator<Item = Zeroizing<Vec<u8>>> + '_ {
    let packets = message.len().div_ceil(MAX_PACKET - 1).max(fds.div_ceil(MAX_PACKET_FDS)).max(1);
    let count = if message.len() > MAX_MESSAGE { 0 } else { packets };
    let begin = move |number: usize| message.len() * number / packets;
    (0..count).map(move |number| {
        let chunk = message.get(begin(number)..begin(number + 1)).unwrap_or_default();
        let mark = if number + 1 == count { LAST } else { MORE };
        Zeroizing::new([&[mark], chunk].concat())
    })
}

// === impl Assembly ===

impl Assembly {
    /// Adds the next packet. Returns the message once it is whole.
    ///
    /// # Errors
    /// See [`BadPacket`]. The link is of no use then.
    pub(crate) fn push(&mut self, packet: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, BadPacket> {
        let (&mark, bytes) = packet.split_first().ok_or(BadPacket::Empty)?;
        if self.0.len() + bytes.len() > MAX_MESSAGE {
            return Err(BadPacket::TooLong);
        }
        match mark {
            MORE if bytes.is_empty() => Err(BadPacket::Empty),
            MORE => {
                self.append(bytes);
                Ok(None)
            }
            LAST => {
                self.append(bytes);
                Ok(Some(std::mem::take(&mut self.0)))
            }
            other => Err(BadPacket::Mark(other)),
        }
    }

    /// Appends `bytes`. What is outgrown is wiped.
    fn append(&mut self, bytes: &[u8]) {
        if self.0.capacity() - self.0.len() < bytes.len() {
            let room = (2 * self.0.capacity()).max(self.0.len() + bytes.len());
            let mut wider = Zeroizing::new(Vec::with_capacity(room));
            wider.extend_from_slice(&self.0);
            self.0 = wider;
        }
        self.0.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;

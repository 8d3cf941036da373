//! Messages in packets. A Unix socket takes packets of a bounded size, so a long message is several packets. The first
//! byte of a packet says whether another one follows.

/// The longest packet, its first byte included.
/// Limit: a packet of the hand-over of connections: 32 KiB; past it: the link is closed.
pub(crate) const MAX_PACKET: usize = 32 * 1024;
/// The longest message: what both directions of a relay hold at most, twice over.
/// Limit: a message of the hand-over of connections: 4 MiB; past it: the connection is not handed over, and a link that
/// sends more is closed.
pub(crate) const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// The first byte of a packet that another packet follows.
const MORE: u8 = 1;
/// The first byte of the last packet of a message.
const LAST: u8 = 0;

/// A message that is coming in.
#[derive(Debug, Default)]
pub(crate) struct Assembly(Vec<u8>);

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

/// The packets of `message`. A message that is longer than [`MAX_MESSAGE`] has none.
pub(crate) fn split(message: &[u8]) -> Vec<Vec<u8>> {
    if message.len() > MAX_MESSAGE {
        return Vec::new();
    }
    let chunks = message.chunks(MAX_PACKET - 1);
    let count = chunks.len().max(1);
    let mut packets: Vec<Vec<u8>> = chunks.map(|chunk| [&[MORE], chunk].concat()).collect();
    packets.resize(count, vec![LAST]);
    if let Some(mark) = packets.last_mut().and_then(|packet| packet.first_mut()) {
        *mark = LAST;
    }
    packets
}

// === impl Assembly ===

impl Assembly {
    /// Adds the next packet. Returns the message once it is whole.
    ///
    /// # Errors
    /// See [`BadPacket`]. The link is of no use then.
    pub(crate) fn push(&mut self, packet: &[u8]) -> Result<Option<Vec<u8>>, BadPacket> {
        let (&mark, bytes) = packet.split_first().ok_or(BadPacket::Empty)?;
        if self.0.len() + bytes.len() > MAX_MESSAGE {
            return Err(BadPacket::TooLong);
        }
        match mark {
            MORE if bytes.is_empty() => Err(BadPacket::Empty),
            MORE => {
                self.0.extend_from_slice(bytes);
                Ok(None)
            }
            LAST => {
                self.0.extend_from_slice(bytes);
                Ok(Some(std::mem::take(&mut self.0)))
            }
            other => Err(BadPacket::Mark(other)),
        }
    }
}

#[cfg(test)]
mod tests;

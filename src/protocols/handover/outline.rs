//! What a process that only holds connections has to know of an offer. Everything else of the message is passed over, so
//! that no secret is copied out of it, and records of later versions are held as well.

use prost::Message as _;

use super::{
    message::BadMessage,
    record::{BadRecord, Kind, SOCKETS},
    tunnel::MAX_STREAMS,
};

/// An offer that has a number, or what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    /// The number of the answer.
    pub(crate) number: u64,
    /// What is offered.
    pub(crate) outline: Result<Outline, BadRecord>,
}

/// An offer, without what it says of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outline {
    /// The kind of the connection or tunnel.
    pub(crate) kind: Kind,
    /// The number of connections: one, or the streams of a tunnel.
    pub(crate) connections: usize,
    /// The number of sockets that belong to the offer.
    pub(crate) sockets: usize,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(message, optional, tag = "2")]
    record: Option<RecordHead>,
    #[prost(message, optional, tag = "4")]
    tunnel: Option<TunnelHead>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RecordHead {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(int32, tag = "2")]
    kind: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TunnelHead {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(int32, tag = "2")]
    kind: i32,
    #[prost(message, repeated, tag = "12")]
    streams: Vec<StreamHead>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StreamHead {}

// === impl Offered ===

impl Offered {
    /// Reads the offer that the bytes of a message are; `None` if the message is no offer.
    ///
    /// # Errors
    /// The bytes are no message.
    pub(crate) fn read(message: &[u8]) -> Result<Option<Self>, BadMessage> {
        let Envelope { record, tunnel } = Envelope::decode(message).map_err(BadMessage::Undecodable)?;
        Ok(match (record, tunnel) {
            (Some(record), None) => {
                Some(Self { number: record.number, outline: Outline::of_record(&record) })
            }
            (None, Some(tunnel)) => {
                Some(Self { number: tunnel.number, outline: Outline::of_tunnel(&tunnel) })
            }
            _ => None,
        })
    }
}

// === impl Outline ===

impl Outline {
    fn of_record(head: &RecordHead) -> Result<Self, BadRecord> {
        let kind = Kind::decode(head.kind)?;
        if !Kind::PLAIN.contains(&kind) {
            return Err(BadRecord::Kind(head.kind));
        }
        Ok(Self { kind, connections: 1, sockets: SOCKETS })
    }

    fn of_tunnel(head: &TunnelHead) -> Result<Self, BadRecord> {
        let (kind, streams) = (Kind::decode(head.kind)?, head.streams.len());
        if Kind::PLAIN.contains(&kind) {
            return Err(BadRecord::Kind(head.kind));
        }
        if streams == 0 || streams > MAX_STREAMS {
            return Err(BadRecord::Streams(streams));
        }
        Ok(Self { kind, connections: streams, sockets: 1 + streams })
    }
}

#[cfg(test)]
mod tests;

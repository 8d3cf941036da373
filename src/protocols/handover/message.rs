//! The messages of a link between two processes.

use prost::Message as _;
use zeroize::Zeroizing;

use super::{
    PROTOCOL,
    record::{BadRecord, Kind, Record},
    tunnel::TunnelRecord,
};
use crate::protocols::pb::handover as pb;

/// The longest reason that is kept of a refusal.
/// Limit: reason of a refused connection in a hand-over: 256 bytes; past it: the reason is cut.
const MAX_REASON: usize = 256;

/// A message of a link.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    /// The first message of either side.
    Hello(Hello),
    /// A connection that is offered, or what is wrong with its record. The number is that of the answer.
    Record(u64, Result<Box<Record>, BadRecord>),
    /// A tunnel that is offered, or what is wrong with its record.
    Tunnel(u64, Result<Box<TunnelRecord>, BadRecord>),
    /// The answer to a record.
    Verdict(Verdict),
}

/// What a process says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The version of the protocol.
    pub(crate) protocol: u32,
    /// The version of the program.
    pub(crate) program: String,
    /// A text that tells processes apart.
    pub(crate) instance: String,
    /// The kinds that the process takes.
    pub(crate) takes: Vec<Kind>,
}

/// Whether a connection was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The number of the record.
    pub(crate) number: u64,
    /// The reason why the connection was not taken.
    pub(crate) taken: Result<(), String>,
}

/// Why a message or a peer is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadMessage {
    /// The bytes are no message.
    #[error("not a message: {0}")]
    Undecodable(prost::DecodeError),
    /// The message has no body that is known.
    #[error("a message of a kind that is not known")]
    Unknown,
    /// The peer speaks another version of the protocol.
    #[error("the peer speaks version {0} of the protocol, and this process version {PROTOCOL}")]
    Version(u32),
    /// The first message is no greeting.
    #[error("no greeting")]
    NoHello,
    /// Both ends of the link are this process.
    #[error("the peer is this process")]
    Own,
}

// === impl Hello ===

impl Hello {
    /// The greeting of this process.
    pub(crate) fn new(program: &str, instance: &str) -> Self {
        let (program, instance) = (program.to_owned(), instance.to_owned());
        Self { protocol: PROTOCOL, program, instance, takes: Kind::ALL.to_vec() }
    }

    fn decode(hello: pb::Hello) -> Self {
        let pb::Hello { protocol, program, instance, takes } = hello;
        // Kinds of later versions are of no use here.
        let named: Vec<Kind> = takes.iter().filter_map(|kind| Kind::decode(*kind).ok()).collect();
        let takes = if takes.is_empty() { Kind::PLAIN.to_vec() } else { named };
        Self { protocol, program, instance, takes }
    }

    /// Checks the greeting of a peer of the process `own`.
    ///
    /// # Errors
    /// The peer speaks another version, or is the process itself.
    pub(crate) fn check(&self, own: &Self) -> Result<(), BadMessage> {
        if self.protocol != own.protocol {
            return Err(BadMessage::Version(self.protocol));
        }
        if self.instance == own.instance {
            return Err(BadMessage::Own);
        }
        Ok(())
    }
}

// === impl Message ===

impl Message {
    /// Decodes a message.
    ///
    /// # Errors
    /// The link is of no use. A record whose content is wrong is no such error.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadMessage> {
        let message = pb::Message::decode(bytes).map_err(BadMessage::Undecodable)?;
        Ok(match message.body.ok_or(BadMessage::Unknown)? {
            pb::message::Body::Hello(hello) => Self::Hello(Hello::decode(hello)),
            pb::message::Body::Record(record) => {
                Self::Record(record.number, Record::decode(record).map(Box::new))
            }
            pb::message::Body::Tunnel(tunnel) => {
                Self::Tunnel(tunnel.number, TunnelRecord::decode(tunnel).map(Box::new))
            }
            pb::message::Body::Verdict(pb::Verdict { number, taken, reason }) => {
                let cut = reason.floor_char_boundary(MAX_REASON);
                let reason = reason.get(..cut).unwrap_or_default().to_owned();
                Self::Verdict(Verdict { number, taken: if taken { Ok(()) } else { Err(reason) } })
            }
        })
    }
}

/// The bytes of a greeting.
pub(crate) fn encode_hello(hello: &Hello) -> Vec<u8> {
    let Hello { protocol, program, instance, takes } = hello.clone();
    let takes = takes.into_iter().map(Kind::encode).collect();
    encode(pb::message::Body::Hello(pb::Hello { protocol, program, instance, takes }))
}

/// The bytes of the offer of a connection under this number.
pub(crate) fn encode_record(number: u64, record: Record) -> Vec<u8> {
    encode(pb::message::Body::Record(record.encode(number)))
}

/// The bytes of the offer of a tunnel under this number. They are wiped when they are dropped.
pub(crate) fn encode_tunnel(number: u64, tunnel: TunnelRecord) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(encode(pb::message::Body::Tunnel(tunnel.encode(number))))
}

/// The bytes of an answer.
pub(crate) fn encode_verdict(verdict: &Verdict) -> Vec<u8> {
    let reason = verdict.taken.as_ref().err().cloned().unwrap_or_default();
    let (number, taken) = (verdict.number, verdict.taken.is_ok());
    encode(pb::message::Body::Verdict(pb::Verdict { number, taken, reason }))
}

fn encode(body: pb::message::Body) -> Vec<u8> {
    pb::Message { body: Some(body) }.encode_to_vec()
}

#[cfg(test)]
mod tests;

//! Queries of clients.

use domain::base::{
    Message, MessageBuilder, Name, Question, Rtype, ToName,
    iana::{Class, Opcode, Rcode},
    name::Label,
};

use super::{lookup::Family, names::absolute};
use crate::protocols::labels::UNKNOWN;

/// The longest answer, in bytes, to a client that does not allow longer answers (RFC 1035 section 4.2.1).
/// Limit: an answer in a datagram, where the client does not allow more: 512 bytes; past it: the answer has the
/// records that fit and says that it is cut.
const PLAIN_LIMIT: u16 = 512;

/// A client's query with one question.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// The id that the client chose; the answer repeats the id.
    pub id: u16,
    /// Whether the client wants an answer instead of a referral.
    pub recursion_desired: bool,
    /// The question.
    pub question: Question<Name<Vec<u8>>>,
    /// The extensions that the client knows, if any (RFC 6891).
    pub edns: Option<Edns>,
}

/// The extension fields of a client's query, which the answer repeats (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    /// The maximum number of bytes in a datagram to the client.
    pub payload: u16,
    /// The version of the extensions.
    pub version: u8,
    /// Whether the client wants signatures.
    pub dnssec_ok: bool,
}

/// A message that is no valid query, and how it is handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The error answer to send to the client.
    Answer(Vec<u8>),
    /// The message is too short for an answer.
    Silent,
}

// === impl Query ===

impl Query {
    /// Reads a message of a client.
    ///
    /// # Errors
    /// The message is not a query with exactly one question. The error answer is FORMERR or NOTIMP and repeats the id.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        let Ok(message) = Message::from_slice(bytes) else { return Err(Refused::Silent) };
        let header = message.header();
        let refuse = |rcode| Refused::Answer(refusal(header.id(), header.opcode(), rcode));
        if header.qr() {
            return Err(refuse(Rcode::FORMERR));
        }
        if header.opcode() != Opcode::QUERY {
            return Err(refuse(Rcode::NOTIMP));
        }
        let asked = message.sole_question().map_err(|_| refuse(Rcode::FORMERR))?;
        let edns = message.opt().map(|opt| Edns {
            payload: opt.udp_payload_size().max(PLAIN_LIMIT),
            version: opt.version(),
            dnssec_ok: opt.dnssec_ok(),
        });
        Ok(Self {
            id: header.id(),
            recursion_desired: header.rd(),
            question: Question::new(asked.qname().to_vec(), asked.qtype(), asked.qclass()),
            edns,
        })
    }

    /// A query of the proxy itself for the addresses of `host`; `None` if `host` is no name.
    pub(crate) fn of(host: &str, family: Family) -> Option<Self> {
        let kind = match family {
            Family::V4 => Rtype::A,
            Family::V6 => Rtype::AAAA,
        };
        let question = Question::new(absolute(host)?, kind, Class::IN);
        Some(Self { id: 0, recursion_desired: true, question, edns: None })
    }

    /// The maximum number of bytes of an answer in one datagram.
    pub(crate) fn datagram(&self) -> usize {
        usize::from(self.edns.as_ref().map_or(PLAIN_LIMIT, |edns| edns.payload))
    }

    /// The queried address family, or `None` if the mesh cannot answer a question of this type.
    pub(crate) fn family(&self) -> Option<Family> {
        match (self.question.qclass(), self.question.qtype()) {
            (Class::IN, Rtype::A) => Some(Family::V4),
            (Class::IN, Rtype::AAAA) => Some(Family::V6),
            _ => None,
        }
    }

    /// The query type as a metric label. The tens of thousands of types without a name share one label.
    pub(crate) fn kind(&self) -> String {
        match self.question.qtype().to_mnemonic_str() {
            Some(name) => name.to_ascii_lowercase(),
            None => UNKNOWN.to_owned(),
        }
    }

    /// The queried name in lower case and without a final dot. The result is `None` if the name is the root or has
    /// bytes that no hostname has.
    pub(crate) fn host(&self) -> Option<String> {
        let mut host = String::new();
        for label in self.question.qname().iter().filter(|label| !label.is_root()) {
            if !host.is_empty() {
                host.push('.');
            }
            push_label(&mut host, label)?;
        }
        (!host.is_empty()).then_some(host)
    }
}

fn push_label(host: &mut String, label: &Label) -> Option<()> {
    for byte in label.iter() {
        let usual = byte.is_ascii_graphic() && byte != b'.' && byte != b'\\';
        host.push(usual.then_some(char::from(byte.to_ascii_lowercase()))?);
    }
    Some(())
}

/// Makes an answer without a question that carries `rcode`.
fn refusal(id: u16, opcode: Opcode, rcode: Rcode) -> Vec<u8> {
    let mut message = MessageBuilder::new_vec();
    let header = message.header_mut();
    header.set_id(id);
    header.set_qr(true);
    header.set_opcode(opcode);
    header.set_rcode(rcode);
    message.finish()
}

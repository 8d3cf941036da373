//! What a client asks.

use domain::base::{
    Message, MessageBuilder, Name, Question, Rtype, ToName,
    iana::{Class, Opcode, Rcode},
    name::Label,
};

use super::lookup::Family;
use crate::protocols::labels::UNKNOWN;

/// The longest answer to who does not say that it takes longer ones (RFC 1035 section 4.2.1).
/// Limit: an answer in a datagram, where the client does not allow more: 512 bytes; past it: the answer has the
/// records that fit and says that it is cut.
const PLAIN_LIMIT: u16 = 512;

/// A question that is answered.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// Chosen by the client, for the answer.
    pub id: u16,
    /// The client wants an answer and no referral.
    pub recursion_desired: bool,
    /// What it asks.
    pub question: Question<Name<Vec<u8>>>,
    /// The extensions it knows, if any (RFC 6891).
    pub edns: Option<Edns>,
}

/// What a client says of the extensions it knows, and hears back (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    /// Bytes of a datagram that it takes.
    pub payload: u16,
    /// Of the extensions.
    pub version: u8,
    /// It wants signatures.
    pub dnssec_ok: bool,
}

/// Why there is no question in what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// This says so to the client.
    Answer(Vec<u8>),
    /// It is too short to be answered.
    Silent,
}

// === impl Query ===

impl Query {
    /// Reads a message of a client.
    ///
    /// # Errors
    /// What is no query of one question: as FORMERR or NOTIMP, with the id that came.
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

    /// Most bytes of an answer in one datagram.
    pub(crate) fn datagram(&self) -> usize {
        usize::from(self.edns.as_ref().map_or(PLAIN_LIMIT, |edns| edns.payload))
    }

    /// The family asked for, if it is a question that the mesh may answer.
    pub(crate) fn family(&self) -> Option<Family> {
        match (self.question.qclass(), self.question.qtype()) {
            (Class::IN, Rtype::A) => Some(Family::V4),
            (Class::IN, Rtype::AAAA) => Some(Family::V6),
            _ => None,
        }
    }

    /// The type asked for, as metrics have it: those without a name, of which there are tens of thousands, are one.
    pub(crate) fn kind(&self) -> String {
        match self.question.qtype().to_mnemonic_str() {
            Some(name) => name.to_ascii_lowercase(),
            None => UNKNOWN.to_owned(),
        }
    }

    /// The name in lower case and without a dot at its end. `None` if no host has such a name: it has bytes that none
    /// has, or is the root.
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

/// A message without a question that says `rcode`.
fn refusal(id: u16, opcode: Opcode, rcode: Rcode) -> Vec<u8> {
    let mut message = MessageBuilder::new_vec();
    let header = message.header_mut();
    header.set_id(id);
    header.set_qr(true);
    header.set_opcode(opcode);
    header.set_rcode(rcode);
    message.finish()
}

//! What is asked of the name servers of the node, and what becomes of their answers.

use domain::{
    base::{Message, MessageBuilder, ParsedName, Record, Rtype, iana::Rcode, wire::ParseError},
    rdata::AllRecordData,
};

use super::{
    answer::{Says, compose, compressed},
    query::Query,
};

/// Why a name server's answer is none.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It is not what was asked; somebody else may have sent it.
    #[error("it answers another question")]
    Foreign,
    /// It cannot be read.
    #[error("malformed: {0}")]
    Malformed(#[from] ParseError),
}

/// A record of an answer.
type Relayed<'a> = Record<ParsedName<&'a [u8]>, AllRecordData<&'a [u8], ParsedName<&'a [u8]>>>;

/// What a name server has answered to the question that was put to it.
#[derive(Debug)]
pub struct Answer(Message<Vec<u8>>);

/// The message that puts `query`'s question to a name server under `id`.
pub fn question(query: &Query, id: u16) -> Vec<u8> {
    let mut message = MessageBuilder::new_vec();
    let header = message.header_mut();
    header.set_id(id);
    header.set_rd(true);
    let mut section = message.question();
    let _ = section.push(&query.question);
    let mut rest = section.additional();
    if let Some(edns) = &query.edns {
        let _ = rest.opt(|opt| {
            opt.set_udp_payload_size(edns.payload);
            opt.set_dnssec_ok(edns.dnssec_ok);
            Ok(())
        });
    }
    rest.finish()
}

// === impl Answer ===

impl Answer {
    /// What came as an answer to `asked`.
    ///
    /// # Errors
    /// It answers something else, or is no message.
    pub fn read(bytes: Vec<u8>, asked: &[u8]) -> Result<Self, Unusable> {
        let message = Message::from_octets(bytes).map_err(|_| ParseError::ShortInput)?;
        let asked = Message::from_slice(asked).map_err(|_| ParseError::ShortInput)?;
        if message.is_answer(asked) { Ok(Self(message)) } else { Err(Unusable::Foreign) }
    }

    /// There is more than it could hold.
    pub fn is_truncated(&self) -> bool {
        self.0.header().tc()
    }

    /// The server knows the answer, or knows that there is none: asking another one is of no use.
    pub fn is_final(&self) -> bool {
        matches!(self.0.header().rcode(), Rcode::NOERROR | Rcode::NXDOMAIN)
    }

    /// The answer to the client, in at most `limit` bytes, without what the server says of its authority.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn relay(&self, query: &Query, limit: usize) -> Result<Vec<u8>, Unusable> {
        let header = self.0.header();
        // Read before the answer is begun: a name server that errs costs the whole of it.
        let answers: Vec<Relayed<'_>> =
            self.0.answer()?.into_records::<AllRecordData<_, _>>().collect::<Result<_, _>>()?;
        let additionals: Vec<Relayed<'_>> =
            self.0.additional()?.into_records::<AllRecordData<_, _>>().collect::<Result<_, _>>()?;
        let additionals = additionals.iter().filter(|record| record.rtype() != Rtype::OPT);
        let says = Says { authoritative: false, recursion: header.ra(), rcode: header.rcode() };
        let relayed = compose(
            compressed(),
            (query, limit),
            says,
            |section| answers.iter().try_for_each(|record| section.push(record)),
            |section| { additionals }.try_for_each(|record| section.push(record)),
        );
        Ok(relayed.into_target())
    }
}

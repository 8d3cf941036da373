//! What is asked of the name servers of the node, and what becomes of their answers.

use std::convert::Infallible;

use domain::{
    base::{
        Message, MessageBuilder, ParsedName, Record, Rtype,
        iana::Rcode,
        message::RecordSection,
        message_builder::{AdditionalBuilder, AnswerBuilder},
        wire::{Composer, ParseError},
    },
    rdata::AllRecordData,
};

use super::{
    answer::{AnswerFlags, AnswerTo, compose, compressed},
    query::Query,
};

/// Why a name server's answer is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// It is not what was asked; somebody else may have sent it.
    #[error("it answers another question")]
    Foreign,
    /// It cannot be read.
    #[error("malformed: {0}")]
    Malformed(#[from] ParseError),
}

/// Records of an answer up to which names in it are compressed.
/// Limit: records of an answer whose names are compressed: 256; past it: the names are written out.
const COMPRESSED_RECORDS: usize = 256;

/// A record of an answer.
type Relayed<'a> = Record<ParsedName<&'a [u8]>, AllRecordData<&'a [u8], ParsedName<&'a [u8]>>>;

/// What a name server has answered to the question that was put to it.
#[derive(Debug)]
pub(crate) struct Answer(Message<Vec<u8>>);

/// The message that puts `query`'s question to a name server under `id`.
pub(crate) fn query(query: &Query, id: u16) -> Vec<u8> {
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
    /// It answers something else, or cannot be read.
    pub(crate) fn read(bytes: Vec<u8>, asked: &[u8]) -> Result<Self, Unusable> {
        let message = Message::from_octets(bytes).map_err(|_| ParseError::ShortInput)?;
        let asked = Message::from_slice(asked).map_err(|_| ParseError::ShortInput)?;
        let (header, counts) = (message.header(), message.header_counts());
        // Some servers say no more than that they do not understand.
        let is_bare = counts.qdcount() == 0
            && header.qr()
            && header.id() == asked.header().id()
            && !matches!(header.rcode(), Rcode::NOERROR | Rcode::NXDOMAIN);
        if !is_bare && !message.is_answer(asked) {
            return Err(Unusable::Foreign);
        }
        if !is_bare {
            records(message.answer()?)?;
            records(message.additional()?)?;
        }
        Ok(Self(message))
    }

    /// There is more than it could hold.
    pub(crate) fn is_truncated(&self) -> bool {
        self.0.header().tc()
    }

    /// The server knows the answer, or knows that there is none: asking another one is of no use.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.0.header().rcode(), Rcode::NOERROR | Rcode::NXDOMAIN)
    }

    /// The answer to the client, in at most `limit` bytes, without what the server says of its authority.
    ///
    /// # Errors
    /// A record cannot be read.
    pub(crate) fn relay(&self, query: &Query, limit: usize) -> Result<Vec<u8>, Unusable> {
        let header = self.0.header();
        let answers = records(self.0.answer()?)?;
        let additionals = records(self.0.additional()?)?;
        let flags = AnswerFlags {
            authoritative: false,
            recursion: header.ra(),
            truncated: header.tc(),
            rcode: header.rcode(),
        };
        let to = AnswerTo { query, limit };
        // Each name is looked for among those that are written already, which is of use for few.
        Ok(if answers.len() + additionals.len() <= COMPRESSED_RECORDS {
            fill(compressed(), to, flags, &answers, &additionals).into_target()
        } else {
            fill(Vec::new(), to, flags, &answers, &additionals)
        })
    }
}

fn records(section: RecordSection<'_, Vec<u8>>) -> Result<Vec<Relayed<'_>>, ParseError> {
    section.into_records().collect()
}

fn fill<T: Composer<AppendError = Infallible>>(
    target: T,
    to: AnswerTo<'_>,
    flags: AnswerFlags,
    answers: &[Relayed<'_>],
    additionals: &[Relayed<'_>],
) -> T {
    let mut additionals = additionals.iter().filter(|record| record.rtype() != Rtype::OPT);
    let put = |section: &mut AnswerBuilder<T>| answers.iter().try_for_each(|record| section.push(record));
    let beside = |section: &mut AdditionalBuilder<T>| additionals.try_for_each(|record| section.push(record));
    compose(target, to, flags, put, beside)
}

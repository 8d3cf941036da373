//! Queries to the name servers of the node, and the relaying of their answers.

use domain::{
    base::{
        HashCompressor, Message, MessageBuilder, ParsedName, Record, Rtype,
        iana::Rcode,
        message::RecordSection,
        message_builder::{AdditionalBuilder, AnswerBuilder},
        wire::ParseError,
    },
    rdata::AllRecordData,
};

use super::{
    answer::{AnswerFlags, AnswerTo, compose},
    query::Query,
};

/// Why a name server's answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// The answer belongs to another question; a third party may have sent the answer.
    #[error("it answers another question")]
    Foreign,
    /// The answer cannot be decoded.
    #[error("malformed: {0}")]
    Malformed(#[from] ParseError),
}

/// A record of an answer.
pub(super) type Relayed<'a> = Record<ParsedName<&'a [u8]>, AllRecordData<&'a [u8], ParsedName<&'a [u8]>>>;

/// A name server's answer to a query of this proxy.
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
    /// Reads the message `bytes`, which arrived as an answer to the query `asked`.
    ///
    /// # Errors
    /// The message answers another question, or cannot be decoded.
    pub(crate) fn read(bytes: Vec<u8>, asked: &[u8]) -> Result<Self, Unusable> {
        let message = Message::from_octets(bytes).map_err(|_| ParseError::ShortInput)?;
        let asked = Message::from_slice(asked).map_err(|_| ParseError::ShortInput)?;
        let (header, counts) = (message.header(), message.header_counts());
        // Some servers send an error without the question if they do not understand the query.
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

    /// The message.
    pub(super) fn message(&self) -> &Message<Vec<u8>> {
        &self.0
    }

    /// Whether the name server truncated the answer.
    pub(crate) fn is_truncated(&self) -> bool {
        self.0.header().tc()
    }

    /// Whether the answer is final: the name exists or certainly does not exist, so another server need not be asked.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.0.header().rcode(), Rcode::NOERROR | Rcode::NXDOMAIN)
    }

    /// Makes the answer to the client, in at most `limit` bytes. The answer leaves out the server's authority section.
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
        let mut additionals = additionals.iter().filter(|record| record.rtype() != Rtype::OPT);
        let put = |section: &mut AnswerBuilder<_>| answers.iter().try_for_each(|record| section.push(record));
        let beside = |section: &mut AdditionalBuilder<_>| {
            additionals.try_for_each(|record| section.push(record)) //
        };
        Ok(compose(HashCompressor::new(Vec::new()), to, flags, put, beside).into_target())
    }
}

pub(super) fn records(section: RecordSection<'_, Vec<u8>>) -> Result<Vec<Relayed<'_>>, ParseError> {
    section.into_records().collect()
}

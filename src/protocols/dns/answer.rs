//! Answers to clients.

use std::{convert::Infallible, net::IpAddr};

use domain::{
    base::{
        MessageBuilder,
        iana::Rcode,
        message_builder::{AdditionalBuilder, AnswerBuilder, PushError},
        wire::Composer,
    },
    rdata::{A, Aaaa, Cname},
};

use super::{lookup::Found, names::absolute, own_names::OwnNames, query::Query};

/// The number of seconds that a client may cache an answer of the mesh.
/// Limit: life of an answer of the mesh: 30 s; past it: the client asks again.
const MESH_TTL_SECONDS: u32 = 30;
/// The length of an OPT record without options, in bytes.
/// Limit: room of an answer that is kept for an extension: 11 bytes; past it: the answer has fewer records.
const OPT_BYTES: usize = 11;

/// The query that an answer is for, and the bytes the answer may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerTo<'a> {
    pub(super) query: &'a Query,
    pub(super) limit: usize,
}

/// The header of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerFlags {
    pub(super) authoritative: bool,
    pub(super) recursion: bool,
    pub(super) truncated: bool,
    pub(super) rcode: Rcode,
}

/// Makes the answer to `query` with the addresses of `found` for `host`, in at most `limit` bytes. Records that do not
/// fit are left out, and the answer is marked as truncated.
pub(crate) fn found(query: &Query, host: &str, found: &Found, limit: usize) -> Vec<u8> {
    let to = AnswerTo { query, limit };
    let flags = AnswerFlags { authoritative: true, recursion: true, truncated: false, rcode: Rcode::NOERROR };
    compose(OwnNames::default(), to, flags, |answers| push(answers, host, found), |_| Ok(())).into_target()
}

/// Makes an answer to `query` without records that carries `rcode`.
pub(crate) fn error(query: &Query, rcode: Rcode) -> Vec<u8> {
    let flags = AnswerFlags { authoritative: false, recursion: true, truncated: false, rcode };
    compose(Vec::new(), AnswerTo { query, limit: query.datagram() }, flags, |_| Ok(()), |_| Ok(()))
}

/// Composes an answer of at most `limit` bytes. If not all answer records fit, the answer holds the first ones and is
/// marked as truncated. Additional records are left out without a mark if they do not fit.
pub(super) fn compose<T: Composer<AppendError = Infallible>>(
    target: T,
    AnswerTo { query, limit }: AnswerTo<'_>,
    flags: AnswerFlags,
    answers: impl FnOnce(&mut AnswerBuilder<T>) -> Result<(), PushError>,
    additionals: impl FnOnce(&mut AdditionalBuilder<T>) -> Result<(), PushError>,
) -> T {
    let Ok(mut message) = MessageBuilder::from_target(target);
    let reserved = if query.edns.is_some() { OPT_BYTES } else { 0 };
    message.set_push_limit(limit.saturating_sub(reserved));
    let header = message.header_mut();
    header.set_id(query.id);
    header.set_qr(true);
    header.set_aa(flags.authoritative);
    header.set_rd(query.recursion_desired);
    header.set_ra(flags.recursion);
    header.set_rcode(flags.rcode);
    let mut question = message.question();
    // A question always fits: it is shorter than the smallest limit of a datagram.
    let _ = question.push(&query.question);
    let mut section = question.answer();
    // The records that fit stay in the answer, because not every client repeats the query by TCP.
    if answers(&mut section).is_err() || flags.truncated {
        section.header_mut().set_tc(true);
    }
    let mut rest = section.additional();
    if additionals(&mut rest).is_err() {
        rest.rewind();
    }
    rest.clear_push_limit();
    if let Some(edns) = &query.edns {
        let _ = rest.opt(|opt| {
            opt.set_udp_payload_size(edns.payload);
            opt.set_version(edns.version);
            opt.set_dnssec_ok(edns.dnssec_ok);
            Ok(())
        });
    }
    rest.finish()
}

fn push<T: Composer>(answers: &mut AnswerBuilder<T>, host: &str, found: &Found) -> Result<(), PushError> {
    // A part of a name from a question can always be written.
    let Some(mut owner) = absolute(host) else { return Ok(()) };
    if let Some(alias) = found.alias.as_deref().filter(|_| !found.addresses.is_empty()).and_then(absolute) {
        answers.push((&owner, MESH_TTL_SECONDS, Cname::new(&alias)))?;
        owner = alias;
    }
    found.addresses.iter().try_for_each(|address| match *address {
        IpAddr::V4(ip) => answers.push((&owner, MESH_TTL_SECONDS, A::new(ip))),
        IpAddr::V6(ip) => answers.push((&owner, MESH_TTL_SECONDS, Aaaa::new(ip))),
    })
}

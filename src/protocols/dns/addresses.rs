//! The addresses of a name in a name server's answer, and how long they live.

use std::{net::IpAddr, time::Duration};

use domain::{
    base::{ParsedName, ToName as _, Ttl, iana::Rcode, wire::ParseError},
    rdata::AllRecordData,
};

use super::{
    cache::{LONGEST_LIFE, SHORTEST_LIFE},
    forward::{Answer, Relayed, records},
};

/// The aliases of a name that are followed in one answer.
/// Limit: aliases of an endpoint's name in one answer: 16; past it: the name has no address.
const MAX_ALIASES: usize = 16;
/// The addresses of a name that are taken.
/// Limit: addresses of an endpoint's name in one answer: 64; past it: the others are passed over.
const MAX_ADDRESSES: usize = 64;

/// The addresses of a name in one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// The addresses; none if the name does not exist or has no address of the family asked for.
    pub ips: Vec<IpAddr>,
    /// The life of the answer.
    pub life: Duration,
}

// === impl Addresses ===

impl Addresses {
    /// Reads the addresses of the name that the answer's question asks for. Aliases are followed.
    /// The result is `None` if the answer is an error of the server, which says nothing of the name.
    ///
    /// # Errors
    /// A record cannot be read.
    pub(crate) fn read(answer: &Answer) -> Result<Option<Self>, ParseError> {
        let message = answer.message();
        match message.header().rcode() {
            Rcode::NOERROR => {}
            Rcode::NXDOMAIN => return Ok(Some(Self { ips: Vec::new(), life: denial(answer)? })),
            _ => return Ok(None),
        }
        let answers = records(message.answer()?)?;
        let question = message.sole_question()?;
        let (ips, life) = follow(&answers, *question.qname())?;
        if ips.is_empty() {
            return Ok(Some(Self { ips, life: life.min(denial(answer)?) }));
        }
        Ok(Some(Self { ips, life }))
    }
}

/// The addresses that `owner` leads to, and the shortest life of the records on the way.
fn follow<'a>(
    answers: &[Relayed<'a>],
    owner: ParsedName<&'a [u8]>,
) -> Result<(Vec<IpAddr>, Duration), ParseError> {
    let (mut owner, mut life) = (owner, LONGEST_LIFE);
    for _ in 0..=MAX_ALIASES {
        let of_owner = || answers.iter().filter(|record| record.owner().name_eq(&owner));
        let mut ips = Vec::new();
        for record in of_owner() {
            let ip = match record.data() {
                AllRecordData::A(a) => IpAddr::V4(a.addr()),
                AllRecordData::Aaaa(aaaa) => IpAddr::V6(aaaa.addr()),
                _ => continue,
            };
            life = life.min(seconds(record.ttl()));
            if ips.len() < MAX_ADDRESSES {
                ips.push(ip.to_canonical());
            }
        }
        let alias = of_owner().find_map(|record| match record.data() {
            AllRecordData::Cname(cname) => Some((record.ttl(), *cname.cname())),
            _ => None,
        });
        match alias {
            Some((ttl, target)) if ips.is_empty() => {
                life = life.min(seconds(ttl));
                owner = target;
            }
            _ => return Ok((ips, life)),
        }
    }
    Ok((Vec::new(), life))
}

/// The life of the answer that there is no such record (RFC 2308 section 5).
fn denial(answer: &Answer) -> Result<Duration, ParseError> {
    let soa = records(answer.message().authority()?)?.into_iter().find_map(|record| match record.data() {
        AllRecordData::Soa(soa) => Some(seconds(record.ttl().min(soa.minimum()))),
        _ => None,
    });
    Ok(soa.unwrap_or(SHORTEST_LIFE))
}

fn seconds(ttl: Ttl) -> Duration {
    Duration::from_secs(ttl.as_secs().into())
}

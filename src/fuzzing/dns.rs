//! Names: questions of pods, and what name servers answer. Another library reads what is written, and agrees on what is
//! read.

use std::{net::IpAddr, sync::LazyLock, time::Duration};

use domain::base::iana::Rcode;
use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{RData, Record},
};

use super::input::Input;
use crate::protocols::{
    dns::{
        addresses::Addresses,
        answer,
        cache::LONGEST_LIFE,
        forward::{self, Answer},
        lookup::{Asker, Family, find},
        query::{Query, Refused},
        resolvers::Resolvers,
    },
    mesh::fixtures::{TestMesh, pod, service},
};

/// The longest message of TCP.
const WHOLE: usize = 65_535;
/// The shortest message that has an id.
const HEADER: usize = 12;

static MESH: LazyLock<TestMesh> = LazyLock::new(|| {
    let vips: Vec<String> = (1..60).map(|n| format!("10.1.0.{n}")).collect();
    TestMesh::new()
        .with(service("web.ns1.svc.cluster.local", "10.1.0.1 fd00::1"))
        .with(service("large.ns1.svc.cluster.local", &vips.join(" ")))
        .with(service("*.example.com", "10.1.0.2"))
        .with(service("pods.ns1.svc.cluster.local", ""))
        .with(pod("a", "10.0.0.1").of("pods.ns1.svc.cluster.local", &[]))
});

fn asker() -> Asker<'static> {
    Asker {
        namespace: "ns1",
        network: "",
        domain: "cluster.local",
        search: None,
        preferred_namespace: None,
        ipv6: true,
    }
}

/// A message of a pod, and the answer of the mesh to it.
pub fn dns_query(data: &[u8]) {
    let (kind, bytes) = data.split_first().unwrap_or((&0, data));
    let query = match Query::parse(bytes) {
        Ok(query) => query,
        Err(Refused::Silent) => return assert!(bytes.len() < HEADER),
        Err(Refused::Answer(refusal)) => {
            let refusal = Message::from_vec(&refusal).unwrap();
            assert_eq!(refusal.metadata.id, u16::from_be_bytes([bytes[0], bytes[1]]));
            assert_eq!(refusal.metadata.message_type, MessageType::Response);
            assert!([ResponseCode::FormErr, ResponseCode::NotImp].contains(&refusal.metadata.response_code));
            return;
        }
    };
    if let Ok(theirs) = Message::from_vec(bytes) {
        assert_eq!((theirs.metadata.id, theirs.metadata.op_code), (query.id, OpCode::Query));
        assert_eq!(theirs.metadata.recursion_desired, query.recursion_desired);
        same_question(&query, &theirs);
    }
    assert!(!query.kind().is_empty());
    let limit = if kind & 1 == 0 { query.datagram() } else { WHOLE };
    assert!(limit >= 512);
    if let (Some(host), Some(family)) = (query.host(), query.family()) {
        assert!(!host.is_empty() && host.len() <= 255);
        if let Some(found) = find(&MESH.mesh, &asker(), &host, family) {
            let told = answered(&query, &answer::found(&query, &host, &found, limit), limit);
            let ips = told.answers.iter().filter_map(|record| match &record.data {
                RData::A(ip) => Some(IpAddr::V4(ip.0)),
                RData::AAAA(ip) => Some(IpAddr::V6(ip.0)),
                _ => None,
            });
            let ips: Vec<IpAddr> = ips.collect();
            assert!(found.addresses.starts_with(&ips));
            assert_eq!(ips.len() < found.addresses.len(), told.metadata.truncation);
        }
    }
    let refusal = answered(&query, &answer::error(&query, Rcode::SERVFAIL), limit);
    assert!(refusal.answers.is_empty() && refusal.metadata.response_code == ResponseCode::ServFail);
    let asked = Message::from_vec(&forward::query(&query, 7)).unwrap();
    assert_eq!((asked.metadata.id, asked.metadata.message_type), (7, MessageType::Query));
    same_question(&query, &asked);
    let (resolvers, _) = Resolvers::parse(bytes);
    assert!(resolvers.servers.len() <= 3 && (1..=5).contains(&resolvers.attempts));
    assert!(resolvers.candidates("a.b").len() <= 33);
}

/// Reads an answer, which fits into `limit` bytes and repeats the question.
fn answered(query: &Query, bytes: &[u8], limit: usize) -> Message {
    assert!(bytes.len() <= limit, "{} bytes, at most {limit} are allowed", bytes.len());
    let told = Message::from_vec(bytes).expect("an answer that cannot be read");
    assert_eq!((told.metadata.id, told.metadata.message_type), (query.id, MessageType::Response));
    assert_eq!(told.metadata.recursion_desired, query.recursion_desired);
    assert_eq!(told.edns.is_some(), query.edns.is_some());
    same_question(query, &told);
    told
}

fn same_question(ours: &Query, theirs: &Message) {
    let [question] = &theirs.queries[..] else { panic!("{} questions", theirs.queries.len()) };
    assert_eq!(u16::from(question.query_type()), ours.question.qtype().to_int());
    let labels: Vec<&[u8]> = question.name().iter().collect();
    let own: Vec<&[u8]> =
        ours.question.qname().iter().filter(|label| !label.is_root()).map(|label| label.as_slice()).collect();
    assert_eq!(labels, own);
}

/// What a name server says to a query of this proxy, and what a pod is told of it.
pub fn dns_answer(data: &[u8]) {
    let mut input = Input::new(data);
    let (host, family) =
        (*input.pick(&["a.example", "b.example"]), if input.flip() { Family::V4 } else { Family::V6 });
    let mut query = Query::of(host, family).unwrap();
    let kind = input.byte();
    if kind & 1 == 1 {
        // A client that knows extensions.
        let asked = [
            &b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x01a\x07example\0\0\x01\0\x01"[..],
            b"\0\0\x29\x10\0\0\0\0\0\0\0",
        ];
        query = Query::parse(&asked.concat()).unwrap();
    }
    let asked = forward::query(&query, 7);
    let bytes = if kind & 2 == 0 { message(&mut input, &asked) } else { input.rest().to_vec() };
    let limit = [512, 1232, WHOLE][usize::from(kind >> 2) % 3];
    let theirs = Message::from_vec(&bytes);
    let Ok(answer) = Answer::read(bytes, &asked) else { return };
    let told = match answer.relay(&query, limit) {
        Ok(told) => told,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    if limit < WHOLE {
        assert!(told.len() <= limit);
    }
    // The other library refuses some records that this one passes on as they are.
    if let (Ok(theirs), Ok(told)) = (&theirs, Message::from_vec(&told)) {
        same_question(&query, &told);
        assert_eq!(told.metadata.response_code.low(), theirs.metadata.response_code.low());
        assert!(told.metadata.truncation || told.answers.len() == theirs.answers.len());
        for (theirs, told) in theirs.answers.iter().zip(&told.answers).filter(|(theirs, _)| is_plain(theirs))
        {
            assert_eq!((&theirs.name, theirs.ttl, &theirs.data), (&told.name, told.ttl, &told.data));
        }
    }
    if let Ok(Some(found)) = Addresses::read(&answer) {
        assert!(
            found.ips.len() <= 64 && found.life <= LONGEST_LIFE.max(Duration::from_secs(u32::MAX.into()))
        );
        if let Ok(theirs) = &theirs {
            let known = |ip: &IpAddr| {
                theirs.answers.iter().any(|record| match &record.data {
                    RData::A(a) => IpAddr::V4(a.0) == *ip,
                    RData::AAAA(a) => a.0.to_canonical() == *ip,
                    _ => false,
                })
            };
            assert!(found.ips.iter().all(known), "an address that nobody has said");
        }
    }
}

/// Records whose data both libraries know.
fn is_plain(record: &Record) -> bool {
    matches!(
        record.data,
        RData::A(_)
            | RData::AAAA(_)
            | RData::CNAME(_)
            | RData::MX(_)
            | RData::NS(_)
            | RData::PTR(_)
            | RData::TXT(_)
    )
}

/// An answer to `asked` of any records.
fn message(input: &mut Input<'_>, asked: &[u8]) -> Vec<u8> {
    let mut bytes = asked.to_vec();
    (bytes[2], bytes[3]) = (0x81 | input.byte() & 6, 0x80 | input.byte() & 15);
    // What stands behind the question was the query's own.
    let question = 12 + asked[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    bytes.truncate(question);
    let mut counts = [0_u8; 3];
    for (section, count) in counts.iter_mut().enumerate() {
        for _ in 0..input.below(if section == 0 { 8 } else { 3 }) {
            *count += 1;
            record(input, &mut bytes);
        }
    }
    for (section, count) in counts.into_iter().enumerate() {
        (bytes[6 + 2 * section], bytes[7 + 2 * section]) = (0, count);
    }
    bytes.extend(input.bytes(40));
    bytes
}

fn record(input: &mut Input<'_>, bytes: &mut Vec<u8>) {
    let here = bytes.len() as u16;
    match input.below(4) {
        // The name of the question.
        0 | 1 => bytes.extend([0xc0, 12]),
        // A pointer to anywhere, also behind it.
        2 => bytes.extend((0xc000 | (input.u16() % (here + 20))).to_be_bytes()),
        _ => bytes.extend([1, b'x', 0xc0, 12]),
    }
    let kind = *input.pick(&[1_u16, 28, 5, 6, 15, 16, 41, 33, 2, 12, 257, 64]);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(input.u32().to_be_bytes());
    let data = match kind {
        1 if input.below(8) > 0 => input.u32().to_be_bytes().to_vec(),
        28 if input.below(8) > 0 => [[0xfd; 12].to_vec(), input.u32().to_be_bytes().to_vec()].concat(),
        5 if input.below(8) > 0 => (0xc000 | (input.u16() % (here + 20))).to_be_bytes().to_vec(),
        _ => input.bytes(300).to_vec(),
    };
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
}

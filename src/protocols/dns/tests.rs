//! Names, questions and answers, held to docs/spec/dataplane.md 7. What is written is read by another library.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns as TheirEdns, Message, MessageType, OpCode, Query as Question, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};

use super::{
    addresses::Addresses,
    answer,
    forward::{self, Answer, Unusable},
    hosts,
    lookup::{Asker, Family, Found, find},
    names::{Place, candidates, wildcards},
    query::{Query, Refused},
    resolvers::Resolvers,
};
use crate::protocols::mesh::fixtures::{TestMesh, ip, pod, service};

fn hosts_of(name: &str) -> Vec<(String, Option<&str>)> {
    let place = Place { namespace: "ns1", domain: "cluster.local", search: None };
    candidates(name, &place).into_iter().map(|candidate| (candidate.host, candidate.stripped)).collect()
}

fn plain(names: &[&str]) -> Vec<(String, Option<&'static str>)> {
    names.iter().map(|name| ((*name).to_owned(), None)).collect()
}

#[test]
fn a_name_may_mean_what_it_is_short_for_by_the_number_of_its_labels() {
    for (name, expected) in [
        ("a", &["a", "a.ns1.svc.cluster.local"][..]),
        ("a.b", &["a.b", "a.b.svc.cluster.local", "a.b.ns1.svc.cluster.local"]),
        ("a.b.svc", &["a.b.svc", "a.b.svc.cluster.local", "a.b.svc.svc.cluster.local"]),
        ("p.a.b", &["p.a.b", "p.a.b.svc.cluster.local"]),
        ("p.a.b.svc", &["p.a.b.svc", "p.a.b.svc.cluster.local"]),
        ("a.b.c.d", &["a.b.c.d"]),
        ("q.p.a.b.svc", &["q.p.a.b.svc"]),
    ] {
        assert_eq!(hosts_of(name), plain(expected), "{name}");
    }
}

#[test]
fn what_a_resolver_has_put_behind_a_name_is_taken_off() {
    let of = |name: &str, rest| (name.to_owned(), Some(rest));
    assert_eq!(
        hosts_of("x.com.ns1.svc.cluster.local"),
        [
            ("x.com.ns1.svc.cluster.local".to_owned(), None),
            of("x.com", "x.com"),
            of("x.com.svc.cluster.local", "x.com"),
            of("x.com.ns1.svc.cluster.local", "x.com"),
            of("x.com.ns1", "x.com.ns1"),
            of("x.com.ns1.svc.cluster.local", "x.com.ns1"),
            of("x.com.ns1.svc", "x.com.ns1.svc"),
            of("x.com.ns1.svc.cluster.local", "x.com.ns1.svc"),
        ]
    );
    // Not in the middle of a label, and not all of it.
    assert_eq!(hosts_of("xcluster.local").iter().filter(|(_, stripped)| stripped.is_some()).count(), 0);
    assert_eq!(hosts_of("cluster.local").iter().filter(|(_, stripped)| stripped.is_some()).count(), 0);
}

#[test]
fn wildcards_go_from_the_most_specific_on() {
    assert_eq!(wildcards("a.b.c").collect::<Vec<_>>(), ["*.b.c", "*.c"]);
    assert_eq!(wildcards("a").count(), 0);
}

/// The addresses and the alias that a pod of ns1 on network `network` is told.
fn told(t: &TestMesh, network: &str, name: &str, family: Family) -> Option<(Vec<String>, Option<String>)> {
    let asker = Asker {
        namespace: "ns1",
        network,
        domain: "cluster.local",
        search: None,
        preferred_namespace: Some("liked"),
        ipv6: true,
    };
    let Found { addresses, alias } = find(&t.mesh, &asker, name, family)?;
    let mut addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    addresses.sort();
    Some((addresses, alias))
}

#[test]
fn services_are_found_by_their_names_with_the_addresses_of_the_own_network() {
    let t = TestMesh::new()
        .with(service("a.ns1.svc.cluster.local", "10.1.0.1 n2/10.2.0.1 fd00::1"))
        .with(service("x.com", "10.1.0.2"))
        .with(service("*.x.com", "10.1.0.3"))
        .with(service("no-address.com", ""))
        .with(service("headless.ns1.svc.cluster.local", ""));
    let has = |list: &[&str], alias: Option<&str>| {
        Some((list.iter().map(|ip| (*ip).to_owned()).collect::<Vec<_>>(), alias.map(str::to_owned)))
    };
    for (name, expected) in [
        ("a", has(&["10.1.0.1"], None)),
        ("a.ns1", has(&["10.1.0.1"], None)),
        (
            "a.ns1.svc.cluster.local.ns1.svc.cluster.local",
            has(&["10.1.0.1"], Some("a.ns1.svc.cluster.local")),
        ),
        ("x.com", has(&["10.1.0.2"], None)),
        ("x.com.svc.cluster.local", has(&["10.1.0.2"], Some("x.com"))),
        ("deep.y.x.com", has(&["10.1.0.3"], None)),
        // A wildcard has no name to lead to.
        ("y.x.com.cluster.local", has(&["10.1.0.3"], None)),
        ("headless", has(&[], None)),
        ("no-address.com", None),
        ("b", None),
        ("com", None),
    ] {
        assert_eq!(told(&t, "", name, Family::V4), expected, "{name}");
    }
    assert_eq!(told(&t, "n2", "a", Family::V4), has(&["10.2.0.1"], None));
    assert_eq!(told(&t, "n2", "a", Family::V6), has(&[], None));
    assert_eq!(told(&t, "", "a", Family::V6), has(&["fd00::1"], None));
}

#[test]
fn of_several_services_the_own_goes_before_the_canonical_the_preferred_and_the_first() {
    let at = |namespace: &str, vip: &str| service("x.com", vip).namespace(namespace);
    let mut t = TestMesh::new().with(at("any", "10.1.0.1")).with(at("liked", "10.1.0.2"));
    let first = |t: &TestMesh| told(t, "", "x.com", Family::V4).unwrap().0;
    assert_eq!(first(&t), ["10.1.0.2"], "preferred");
    t.put(at("zoo", "10.1.0.3").canonical());
    assert_eq!(first(&t), ["10.1.0.3"], "canonical");
    t.put(at("ns1", "10.1.0.4"));
    assert_eq!(first(&t), ["10.1.0.4"], "own");
}

#[test]
fn a_headless_service_is_one_address_of_each_endpoint_that_is_ready() {
    let host = "h.ns1.svc.cluster.local";
    let behind = |name: &str, ips: &str| pod(name, ips).of(host, &[(80, 80)]);
    let t = TestMesh::new()
        .with(service(host, ""))
        .with(behind("a", "10.0.0.1 10.0.0.9 fd00::1"))
        .with(behind("b", "10.0.0.2"))
        .with(behind("c", "10.0.0.3").unhealthy());
    assert_eq!(told(&t, "", "h", Family::V4).unwrap().0, ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(told(&t, "", "h", Family::V6).unwrap().0, ["fd00::1"]);
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn parsed(message: &Message) -> Query {
    Query::parse(&message.to_vec().unwrap()).unwrap()
}

#[test]
fn a_question_is_read_with_its_extensions() {
    let query = parsed(&question("Web.Example.", RecordType::AAAA));
    assert_eq!((query.id, query.recursion_desired, query.datagram()), (77, true, 512));
    assert_eq!(
        (query.host().as_deref(), query.family(), query.kind().as_str()),
        (Some("web.example"), Some(Family::V6), "aaaa")
    );
    let mut message = question("a.", RecordType::HTTPS);
    let mut edns = TheirEdns::new();
    edns.set_max_payload(1232).set_dnssec_ok(true);
    message.set_edns(edns);
    let query = parsed(&message);
    assert_eq!((query.datagram(), query.family(), query.kind().as_str()), (1232, None, "https"));
    assert_eq!(parsed(&question("a.", RecordType::Unknown(65_300))).kind(), "unknown");
    assert_eq!(parsed(&question(".", RecordType::A)).host(), None);
    assert_eq!(parsed(&question(r"a\.b.c.", RecordType::A)).host(), None);
}

#[test]
fn what_is_no_question_is_refused_with_its_id() {
    let refused = |message: &Message| match Query::parse(&message.to_vec().unwrap()) {
        Err(Refused::Answer(answer)) => {
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!((answer.metadata.id, answer.metadata.message_type), (77, MessageType::Response));
            answer.metadata.response_code
        }
        other => panic!("{other:?}"),
    };
    let mut answer = question("a.", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    assert_eq!(refused(&answer), ResponseCode::FormErr);
    let mut update = question("a.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(refused(&update), ResponseCode::NotImp);
    let mut two = question("a.", RecordType::A);
    two.add_query(Question::query(Name::from_ascii("b.").unwrap(), RecordType::A));
    assert_eq!(refused(&two), ResponseCode::FormErr);
    let mut cut = question("abc.", RecordType::A).to_vec().unwrap();
    cut.truncate(15);
    assert!(matches!(Query::parse(&cut), Err(Refused::Answer(_))));
    assert_eq!(Query::parse(&[0; 11]).unwrap_err(), Refused::Silent);
}

fn records(answer: &[u8]) -> (Message, Vec<String>) {
    let message = Message::from_vec(answer).unwrap();
    let line =
        |record: &Record| format!("{} {} {} {}", record.name, record.ttl, record.record_type(), record.data);
    let lines = message.answers.iter().map(line).collect();
    (message, lines)
}

#[test]
fn an_answer_has_the_name_in_lower_case_and_leads_to_the_one_that_was_meant() {
    let query = parsed(&question("X.Com.Ns1.", RecordType::A));
    let mut found = Found { addresses: vec![ip("10.0.0.1")], alias: None };
    let (message, lines) = records(&answer::found(&query, "x.com.ns1", &found, 512));
    assert_eq!(lines, ["x.com.ns1. 30 A 10.0.0.1"]);
    let says = &message.metadata;
    assert!(says.authoritative && says.recursion_available && says.recursion_desired && !says.truncation);
    assert_eq!((says.id, says.response_code), (77, ResponseCode::NoError));
    assert!(message.edns.is_none());
    found.alias = Some("x.com".to_owned());
    let (_, lines) = records(&answer::found(&query, "x.com.ns1", &found, 512));
    assert_eq!(lines, ["x.com.ns1. 30 CNAME x.com.", "x.com. 30 A 10.0.0.1"]);
    found.addresses.clear();
    let (message, lines) = records(&answer::found(&query, "x.com.ns1", &found, 512));
    assert!(lines.is_empty() && message.metadata.authoritative);
}

#[test]
fn what_does_not_fit_is_left_out_and_said_to_be() {
    let addresses: Vec<IpAddr> = (0..=255).map(|n| IpAddr::from([10, 0, 0, n])).collect();
    let found = Found { addresses, alias: None };
    for payload in [None, Some(100), Some(4095), Some(4200)] {
        let mut asked = question("many.", RecordType::A);
        if let Some(payload) = payload {
            let mut edns = TheirEdns::new();
            edns.set_max_payload(payload).set_version(0);
            asked.set_edns(edns);
        }
        let query = parsed(&asked);
        let answer = answer::found(&query, "many", &found, query.datagram());
        assert!(answer.len() <= query.datagram(), "{payload:?}: {}", answer.len());
        let (message, lines) = records(&answer);
        let whole = payload == Some(4200);
        // What fits is there: not every client asks again.
        let fits = lines.len() == 256 || (lines.len() + 1) * 16 + 40 > query.datagram();
        assert!(fits && message.metadata.truncation != whole, "{payload:?}: {} lines", lines.len());
        assert_eq!(lines.len() == 256, whole);
        assert_eq!(message.edns.map(|edns| edns.max_payload()), payload.map(|payload| payload.max(512)));
        assert_eq!(records(&answer::found(&query, "many", &found, 65_535)).1.len(), 256);
    }
}

#[test]
fn a_large_answer_is_whole_on_a_connection() {
    const COUNT: u32 = 3_000;
    let addresses = || (0..COUNT).map(|n| Ipv4Addr::from_bits(0x0A00_0000 + n));
    for name in
        ["a-long-name.of-some-namespace.svc.cluster.local.", "A-Long-Name.Of-Some-Namespace.Svc.Example."]
    {
        let query = parsed(&question(name, RecordType::A));
        let lower = name.to_ascii_lowercase();
        let host = lower.trim_end_matches('.');
        let whole = |answer: Vec<u8>, owner: &str| {
            let (message, lines) = records(&answer);
            assert!(answer.len() <= 65_535 && !message.metadata.truncation, "{name}: {} bytes", answer.len());
            assert_eq!(lines.len(), COUNT as usize, "{name}");
            assert!(lines.iter().all(|line| line.starts_with(&format!("{owner} "))), "{name}: {}", lines[0]);
        };
        let found = Found { addresses: addresses().map(IpAddr::from).collect(), alias: None };
        whole(answer::found(&query, host, &found, 65_535), &lower);
        let asked = forward::query(&query, 4242);
        // The other library writes names out, so the records are put behind its header and question by hand.
        let mut served = Message::from_vec(&asked).unwrap().into_response().to_vec().unwrap();
        served[6..8].copy_from_slice(&u16::try_from(COUNT).unwrap().to_be_bytes());
        for ip in addresses() {
            served.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
            served.extend(ip.octets());
        }
        let answer = Answer::read(served, &asked).unwrap();
        whole(answer.relay(&query, 65_535).unwrap(), name);
    }
}

/// The answer of a name server to `asked`, with a record in each section.
fn served(asked: &[u8]) -> Message {
    let mut message = Message::from_vec(asked).unwrap().into_response();
    message.metadata.recursion_available = true;
    let name = message.queries[0].name().clone();
    let record = |data: &str| Record::from_rdata(name.clone(), 9, RData::A(data.parse().unwrap()));
    message.add_answer(record("192.0.2.1"));
    message.add_authority(record("192.0.2.2"));
    message.add_additional(record("192.0.2.3"));
    message
}

#[test]
fn what_a_name_server_says_goes_on_without_its_authority() {
    let query = parsed(&question("Out.Example.", RecordType::A));
    let asked = forward::query(&query, 4242);
    let put = Message::from_vec(&asked).unwrap();
    assert_eq!((put.metadata.id, put.metadata.recursion_desired), (4242, true));
    assert_eq!(put.queries[0].name().to_ascii(), "Out.Example.", "as it was asked");
    let read = |message: &Message| Answer::read(message.to_vec().unwrap(), &asked);
    let answer = read(&served(&asked)).unwrap();
    assert!(answer.is_final() && !answer.is_truncated());
    let (message, lines) = records(&answer.relay(&query, 512).unwrap());
    assert_eq!((message.metadata.id, message.metadata.authoritative), (77, false));
    assert_eq!(lines, ["Out.Example. 9 A 192.0.2.1"]);
    assert_eq!((message.authorities.len(), message.additionals.len()), (0, 1));
    let mut failed = served(&asked);
    failed.metadata.response_code = ResponseCode::ServFail;
    assert!(!read(&failed).unwrap().is_final());
    let mut missing = served(&asked);
    missing.metadata.response_code = ResponseCode::NXDomain;
    assert!(read(&missing).unwrap().is_final());
}

#[test]
fn only_what_answers_the_question_is_believed() {
    let query = parsed(&question("out.example.", RecordType::A));
    let asked = forward::query(&query, 4242);
    let forged = |change: &dyn Fn(&mut Message)| {
        let mut message = served(&asked);
        change(&mut message);
        Answer::read(message.to_vec().unwrap(), &asked).unwrap_err()
    };
    let other = Question::query(Name::from_ascii("other.").unwrap(), RecordType::A);
    let changes: [&dyn Fn(&mut Message); 3] = [
        &|message| message.metadata.id = 4243,
        &|message| message.metadata.message_type = MessageType::Query,
        &|message| message.queries = vec![other.clone()],
    ];
    for change in changes {
        assert!(matches!(forged(change), Unusable::Foreign));
    }
    assert!(matches!(Answer::read(vec![0; 5], &asked), Err(Unusable::Malformed(_))));
    // Cut in the middle of a record.
    let mut cut = served(&asked).to_vec().unwrap();
    cut.truncate(cut.len() - 5);
    assert!(matches!(Answer::read(cut, &asked), Err(Unusable::Malformed(_))));
    // A server that does not understand may leave the question out, but cannot say so that there is no such name.
    for (rcode, believed) in [(ResponseCode::FormErr, true), (ResponseCode::NXDomain, false)] {
        let bare = Message::error_msg(4242, OpCode::Query, rcode).to_vec().unwrap();
        let answer = Answer::read(bare, &asked);
        assert_eq!(answer.as_ref().is_ok_and(|answer| !answer.is_final()), believed, "{rcode}");
        if let Ok(answer) = answer {
            let (message, _) = records(&answer.relay(&query, 512).unwrap());
            assert_eq!((message.metadata.response_code, message.queries.len()), (rcode, 1));
        }
    }
}

#[test]
fn a_resolver_of_its_own_has_its_own_search_domains() {
    let search = Resolvers::parse(b"search Corp.Example. other.example\n").0.search;
    assert_eq!(search, ["corp.example", "other.example"]);
    let place = Place { namespace: "ns1", domain: "cluster.local", search: Some(&search) };
    let stripped = |name| {
        let found = candidates(name, &place).into_iter();
        found.filter_map(|candidate| candidate.stripped.map(|_| candidate.host)).collect::<Vec<_>>()
    };
    assert_eq!(stripped("web.corp.example"), ["web", "web.ns1.svc.cluster.local"]);
    assert!(stripped("web.ns1.svc.cluster.local").is_empty(), "that is none of its search domains");
}

#[test]
fn name_servers_are_those_of_resolv_conf_within_bounds() {
    let (resolvers, complaints) = Resolvers::parse(
        b"search a.b\nnameserver 10.0.0.10\nnameserver fd00::a\noptions timeout:7 attempts:3\n",
    );
    let servers = vec!["10.0.0.10:53".parse().unwrap(), "[fd00::a]:53".parse().unwrap()];
    let (timeout, search) = (Duration::from_secs(7), vec!["a.b".to_owned()]);
    assert_eq!(resolvers, Resolvers { servers, timeout, attempts: 3, search, ndots: 1 });
    assert!(complaints.is_empty(), "{complaints:?}");
    let (resolvers, complaints) = Resolvers::parse(
        b"nameserver nonsense\nnameserver fe80::1%eth0\noptions timeout:0 attempts:99\n\
          nameserver 1.0.0.1\nnameserver 1.0.0.2\nnameserver 1.0.0.3\nnameserver 1.0.0.4\n",
    );
    assert_eq!(
        (resolvers.servers.len(), resolvers.timeout, resolvers.attempts),
        (3, Duration::from_secs(1), 5)
    );
    assert_eq!(complaints.len(), 3, "{complaints:?}");
    let (resolvers, _) = Resolvers::parse(b"");
    assert_eq!((resolvers.timeout, resolvers.attempts), (Duration::from_secs(5), 2));
}

#[test]
fn search_domains_are_tried_in_the_order_of_the_c_library() {
    let (resolvers, complaints) = Resolvers::parse(b"search ns.svc.c svc.c\noptions ndots:2\n");
    assert!(complaints.is_empty(), "{complaints:?}");
    for (host, names) in [
        ("db", &["db.ns.svc.c", "db.svc.c", "db"][..]),
        ("db.x", &["db.x.ns.svc.c", "db.x.svc.c", "db.x"]),
        ("db.x.y", &["db.x.y", "db.x.y.ns.svc.c", "db.x.y.svc.c"]),
        ("db.", &["db"]),
    ] {
        assert_eq!(resolvers.candidates(host), names, "{host}");
    }
    let many: String = (0..33).map(|n| format!(" d{n}")).collect();
    let (resolvers, complaints) = Resolvers::parse(format!("search{many}\noptions ndots:99\n").as_bytes());
    assert_eq!((resolvers.search.len(), resolvers.ndots, complaints.len()), (32, 15, 0));
    assert_eq!(Resolvers::parse(b"").0.candidates("db"), ["db"]);
}

#[test]
fn a_hosts_file_has_addresses_by_any_of_its_names() {
    let text = "# comment\n127.0.0.1 localhost\n::1\tlocalhost ip6-localhost # six\nnonsense db\n10.0.0.9 db db.x\n\n";
    for (host, ips) in [
        ("localhost", &["127.0.0.1", "::1"][..]),
        ("DB.X", &["10.0.0.9"]),
        ("db.", &["10.0.0.9"]),
        ("six", &[]),
        ("10.0.0.9", &[]),
    ] {
        let found: Vec<String> = hosts::find(text, host).iter().map(ToString::to_string).collect();
        assert_eq!(found, ips, "{host}");
    }
}

/// What the answer of a name server to a query for the addresses of `db.x` says.
fn addresses(
    rcode: ResponseCode,
    records: &[(&str, u32, RData)],
    soa: Option<(u32, u32)>,
) -> Option<Addresses> {
    let query = Query::of("db.x", Family::V4).unwrap();
    let asked = forward::query(&query, 7);
    let mut message = Message::from_vec(&asked).unwrap();
    message.metadata.message_type = MessageType::Response;
    message.metadata.response_code = rcode;
    for (owner, ttl, data) in records {
        message.add_answer(Record::from_rdata(Name::from_ascii(owner).unwrap(), *ttl, data.clone()));
    }
    if let Some((ttl, minimum)) = soa {
        let name = |text| Name::from_ascii(text).unwrap();
        let soa = hickory_proto::rr::rdata::SOA::new(name("ns.x."), name("root.x."), 1, 2, 3, 4, minimum);
        message.add_authority(Record::from_rdata(name("x."), ttl, RData::SOA(soa)));
    }
    let answer = Answer::read(message.to_vec().unwrap(), &asked).unwrap();
    Addresses::read(&answer).unwrap()
}

#[test]
fn an_answer_has_the_addresses_behind_its_aliases_and_the_shortest_life() {
    let a = |last| RData::A(hickory_proto::rr::rdata::A::new(192, 0, 2, last));
    let alias = |to| RData::CNAME(hickory_proto::rr::rdata::CNAME(Name::from_ascii(to).unwrap()));
    let found = |ips: &[&str], seconds| {
        let ips = ips.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect();
        Some(Addresses { ips, life: Duration::from_secs(seconds) })
    };
    let read = |records: &[(&str, u32, RData)]| addresses(ResponseCode::NoError, records, None);
    assert_eq!(read(&[("db.x.", 60, a(1)), ("DB.X.", 50, a(2))]), found(&["192.0.2.1", "192.0.2.2"], 50));
    let aliased = [("b.x.", 99, a(1)), ("db.x.", 40, alias("a.x.")), ("a.x.", 70, alias("b.x."))];
    assert_eq!(read(&aliased), found(&["192.0.2.1"], 40));
    // What belongs to another name is none of it, and a circle ends.
    assert_eq!(read(&[("other.x.", 60, a(1))]), found(&[], 1));
    assert_eq!(read(&[("db.x.", 60, alias("a.x.")), ("a.x.", 60, alias("db.x."))]), found(&[], 1));
}

#[test]
fn a_denial_lives_as_long_as_its_zone_says_and_an_error_says_nothing_of_the_name() {
    let denied = |seconds| Some(Addresses { ips: Vec::new(), life: Duration::from_secs(seconds) });
    assert_eq!(addresses(ResponseCode::NXDomain, &[], Some((60, 30))), denied(30));
    assert_eq!(addresses(ResponseCode::NoError, &[], Some((20, 30))), denied(20));
    assert_eq!(addresses(ResponseCode::NXDomain, &[], None), denied(1));
    assert_eq!(addresses(ResponseCode::ServFail, &[], None), None);
    assert!(Query::of("a..b", Family::V6).is_none() && Query::of(&"x".repeat(64), Family::V4).is_none());
}

//! The DNS proxy of each pod, held to docs/spec/dataplane.md 7.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    net::{IpAddr, Ipv4Addr, Shutdown, UdpSocket},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::RecordType::{A, AAAA, ANY, HTTPS, SRV, TXT},
};
use warren::lab::{control::resources::ResourceFault, net::fabric::has_ipv6};

use crate::{
    metrics::{Metrics, metrics, metrics_show},
    names::*,
    support::*,
};

pub(crate) fn a_service_has_all_names_of_kubernetes_by_both_transports() {
    let named = Named::raise(NAMED);
    for by in BOTH {
        for name in ["web", "web.default", "web.default.svc", "web.default.svc.cluster.local"] {
            let answer = named.ask_by(by, "client", &question(name, A));
            served(&answer, &[&format!("{name}. A 10.96.0.80")]);
        }
        for name in ["cart.shop", "cart.shop.svc", "cart.shop.svc.cluster.local"] {
            for pod in ["client", "shop/buyer"] {
                let answer = named.ask_by(by, pod, &question(name, A));
                served(&answer, &[&format!("{name}. A 10.96.0.82")]);
            }
        }
    }
    // Whoever prefers the proxy's own address to one that is redirected has it.
    for to in ["127.0.0.1:15053", "[::1]:15053", "[fd77::53]:53"] {
        if to.starts_with('[') && !has_ipv6() {
            continue;
        }
        for by in BOTH {
            let query = question("web", A);
            let bytes = exchange(named.lab.pod("near").unwrap(), by, to, &query.to_vec().unwrap());
            served(&answer_to(&query, &bytes), &["web. A 10.96.0.80"]);
        }
    }
    assert_eq!(named.server.asked(), [], "all of this is known without asking");
}

pub(crate) fn a_name_without_its_namespace_is_one_of_the_own_namespace() {
    let named = Named::raise(NAMED);
    served(&named.ask("shop/buyer", "cart", A), &["cart. A 10.96.0.82"]);
    served(
        &named.ask("client", "far.default.svc.other.local", A),
        &["far.default.svc.other.local. A 10.96.0.87"],
    );
    assert_eq!(named.server.asked(), []);
    unknown(&named.ask("client", "cart", A));
    unknown(&named.ask("client", "far", A));
    unknown(&named.ask("client", "web.shop", A));
    // As they are: no search list is tried on the way.
    assert_eq!(named.passed_names(), ["cart.", "far.", "web.shop."].map(String::from).into());
}

pub(crate) fn a_service_answers_for_the_families_it_has() {
    let mut named = Named::raise(NAMED);
    served(&named.ask("client", "web", AAAA), &[]);
    served(&named.ask("client", "dual", A), &["dual. A 10.96.0.81"]);
    served(&named.ask("client", "dual", AAAA), &["dual. AAAA fd77:96::81"]);
    // Field 2 of Address is the service, field 9 of that its families.
    for (families, v4, v6) in [
        (1, &["dual. A 10.96.0.81"][..], &[][..]),
        (2, &[], &["dual. AAAA fd77:96::81"]),
        (3, &["dual. A 10.96.0.81"], &["dual. AAAA fd77:96::81"]),
    ] {
        let said = vec![(2 << 3) | 2, 2, 9 << 3, families];
        named.inject("default/dual.default.svc.cluster.local", Some(ResourceFault::Extended(said)));
        served(&named.ask("client", "dual", A), v4);
        served(&named.ask("client", "dual", AAAA), v6);
    }
    assert_eq!(named.server.asked(), [], "what has no address is known all the same");
    drop(named);
    let named = Named::raise_with(NAMED, RESOLV, &[("IPV6_ENABLED", "false")]);
    served(&named.ask("client", "dual", A), &["dual. A 10.96.0.81"]);
    served(&named.ask("client", "dual", AAAA), &[]);
    assert_eq!(named.server.asked(), []);
}

pub(crate) fn a_headless_service_is_its_endpoints() {
    let mut named = Named::raise(NAMED);
    let peers = ["peers. A 10.77.1.2", "peers. A 10.77.2.1"];
    served(&named.ask("client", "peers", A), &peers);
    served(&named.ask("client", "peers", AAAA), &["peers. AAAA fd77::2", "peers. AAAA fd77::1"]);
    served(&named.ask("client", "nobody", A), &[]);
    assert_eq!(named.server.asked(), []);
    // None is always the first, which is the one that most take.
    for first in peers {
        eventually(&format!("an answer that begins with {first}"), || {
            (record(&named.ask("client", "peers", A).answers[0]) == first).then_some(())
        });
    }
    // The pods of such a set have no names here.
    let pod = "near.peers.default.svc.cluster.local";
    unknown(&named.ask("client", pod, A));
    assert_eq!(named.passed_names(), BTreeSet::from([format!("{pod}.")]));
    named
        .change(&NAMED.replace("{9000: 9000}, endpoints: [near, server]", "{9000: 9000}, endpoints: [near]"));
    served(&named.ask("client", "peers", A), &peers[..1]);
}

pub(crate) fn the_closest_wildcard_answers_for_names_that_have_no_host() {
    let named = Named::raise(NAMED);
    for (name, vip) in [
        ("a.wild.example.com", "10.96.0.89"),
        ("b.a.wild.example.com", "10.96.0.89"),
        ("deep.wild.example.com", "10.96.0.89"),
        ("a.deep.wild.example.com", "10.96.0.90"),
        ("b.a.deep.wild.example.com", "10.96.0.90"),
        // No alias for what stands for many.
        ("a.wild.example.com.default.svc.cluster.local", "10.96.0.89"),
        ("a.deep.wild.example.com.cluster.local", "10.96.0.90"),
    ] {
        served(&named.ask("client", name, A), &[&format!("{name}. A {vip}")]);
        served(&named.ask("client", name, AAAA), &[]);
    }
    assert_eq!(named.server.asked(), []);
    unknown(&named.ask("client", "wild.example.com", A));
}

pub(crate) fn a_search_suffix_is_taken_off_and_told_by_an_alias() {
    let named = Named::raise(NAMED);
    let service = "web.default.svc.cluster.local";
    served(&named.ask("client", "api.example.com", A), &["api.example.com. A 10.96.0.88"]);
    for (name, suffix, vip) in [
        ("api.example.com", "default.svc.cluster.local", "10.96.0.88"),
        ("api.example.com", "svc.cluster.local", "10.96.0.88"),
        ("api.example.com", "cluster.local", "10.96.0.88"),
        ("cart.shop", "default.svc.cluster.local", "10.96.0.82"),
        (service, "default.svc.cluster.local", "10.96.0.80"),
        (service, "svc.cluster.local", "10.96.0.80"),
    ] {
        let asked = format!("{name}.{suffix}");
        let answer = named.ask("client", &asked, A);
        let alias = format!("{asked}. CNAME {name}.");
        served(&answer, &[&alias, &format!("{name}. A {vip}")]);
        assert_eq!(record(&answer.answers[0]), alias, "an alias comes before what it stands for");
        served(&named.ask("client", &asked, AAAA), &[]);
    }
    assert_eq!(named.server.asked(), []);
    // The suffix of another namespace is none.
    unknown(&named.ask("shop/buyer", "api.example.com.default.svc.cluster.local", A));
}

pub(crate) fn a_service_that_is_not_for_everybody_is_known_to_its_namespace_alone() {
    let named = Named::raise(NAMED);
    let name = "secret.shop.svc.cluster.local";
    let served_as = |name: &str| format!("{name}. A 10.96.0.83");
    served(&named.ask("shop/buyer", name, A), &[&served_as(name)]);
    served(&named.ask("shop/buyer", "secret", A), &[&served_as("secret")]);
    assert_eq!(named.server.asked(), []);
    unknown(&named.ask("client", name, A));
    unknown(&named.ask("client", "secret.shop", A));
    assert_eq!(named.passed_names(), [format!("{name}."), "secret.shop.".to_owned()].into());
}

pub(crate) fn of_several_services_of_one_name_the_nearest_is_meant() {
    // Neither the first nor the last of any order is right.
    let mut mesh = NAMED.to_owned();
    let mut vip = 100;
    let mut wanted = BTreeMap::new();
    for (name, namespaces, canonical, nearest) in [
        ("own", ["aa", "default", "nn", "zz"], "nn", "default"),
        ("canonical", ["aa", "mm", "nn", "zz"], "nn", "nn"),
        ("preferred", ["aa", "bb", "mm", "zz"], "", "mm"),
    ] {
        for namespace in namespaces {
            vip += 1;
            mesh += &format!(
                "  - {{name: {name}, namespace: {namespace}, hostname: {name}.example.com, vips: 10.96.0.{vip}, \
                 ports: {{80: 9000}}, canonical: {}}}\n",
                namespace == canonical
            );
            if namespace == nearest {
                wanted.insert(name, format!("{name}.example.com. A 10.96.0.{vip}"));
            }
        }
    }
    let named = Named::raise_with(&mesh, RESOLV, &[("PREFERED_SERVICE_NAMESPACE", "mm")]);
    assert_eq!(wanted.len(), 3);
    for (name, record) in wanted {
        served(&named.ask("client", &format!("{name}.example.com"), A), &[&record]);
    }
}

pub(crate) fn a_client_is_told_the_addresses_of_its_own_network() {
    let named = Named::raise(NAMED);
    served(&named.ask("client", "both", A), &["both. A 10.96.0.84"]);
    served(&named.ask("abroad", "both", A), &["both. A 10.96.0.85"]);
    served(&named.ask("client", "theirs", A), &[]);
    served(&named.ask("abroad", "theirs", A), &["theirs. A 10.96.0.86"]);
    served(&named.ask("abroad", "web", A), &[]);
    assert_eq!(named.server.asked(), []);
}

pub(crate) fn what_has_no_address_in_the_mesh_is_left_to_the_name_server() {
    let named = Named::raise(NAMED);
    // One has endpoints only, the other a range of addresses.
    for name in ["plain.example.com", "block.example.com"] {
        let answer = named.ask("client", name, A);
        passed_on(&answer, ResponseCode::NoError, &[&format!("{name}. A {FOUND}")]);
    }
    // Only addresses are answered for services that are known.
    let service = "web.default.svc.cluster.local";
    for kind in [TXT, SRV, HTTPS, ANY] {
        unknown(&named.ask("client", service, kind));
        let asked = named.server.asked();
        assert!(
            asked.iter().any(|asked| (asked.name.as_str(), asked.kind) == (&format!("{service}."), kind))
        );
    }
}

pub(crate) fn what_the_name_server_says_is_passed_on() {
    let named = Named::raise(NAMED);
    let found = format!("found.example.com. A {FOUND}");
    for by in BOTH {
        for (name, kind, code, wanted) in [
            ("found.example.com", A, ResponseCode::NoError, &[found.as_str()][..]),
            ("found.example.com", AAAA, ResponseCode::NoError, &["found.example.com. AAAA 2001:db8::10"]),
            ("found.example.com", TXT, ResponseCode::NoError, &["found.example.com. TXT hello"]),
            ("found.example.com", SRV, ResponseCode::NoError, &[]),
            (
                "alias.example.com",
                A,
                ResponseCode::NoError,
                &["alias.example.com. CNAME found.example.com.", &found],
            ),
            ("empty.example.com", A, ResponseCode::NoError, &[]),
            ("absent.example.com", A, ResponseCode::NXDomain, &[]),
            ("refused.example.com", A, ResponseCode::Refused, &[]),
        ] {
            let answer = named.ask_by(by, "client", &question(name, kind));
            passed_on(&answer, code, wanted);
            let glue: &[&str] = if wanted.is_empty() { &[] } else { &["ns.example.com. A 192.0.2.53"] };
            assert_eq!(answer.additionals.iter().map(record).collect::<Vec<_>>(), glue);
        }
    }
    // To the name server it is the pod that asks.
    let from = |name: &str| -> BTreeSet<IpAddr> {
        let asked = named.server.asked().into_iter().filter(|asked| asked.name == name);
        asked.map(|asked| asked.from).collect()
    };
    assert_eq!(from("found.example.com."), ["10.77.1.1".parse().unwrap()].into());
    unknown(&named.ask("shop/buyer", "mine.example.com", A));
    assert_eq!(from("mine.example.com."), ["10.77.1.4".parse().unwrap()].into());
}

pub(crate) fn a_name_server_that_does_not_answer_is_a_failure() {
    let Named { server, lab } = Named::raise(NAMED);
    let client = lab.pod("client").unwrap();
    let fails = |by, name: &str| {
        let query = question(name, A);
        let answer = answer_to(&query, &exchange(client, by, RESOLVER, &query.to_vec().unwrap()));
        assert_eq!(answer.response_code, ResponseCode::ServFail, "{answer:?}");
        assert!(answer.answers.is_empty(), "{answer:?}");
    };
    for by in BOTH {
        fails(by, "mute.example.com");
    }
    assert!(server.asked().iter().any(|asked| asked.name == "mute.example.com."));
}

pub(crate) fn where_nobody_listens_for_questions_is_known_at_once() {
    // Longer than any answer is waited for here.
    let patient = RESOLV.replace("timeout:1", "timeout:30");
    let Named { server, lab } = Named::raise_with(NAMED, &patient, &[]);
    drop(server);
    for by in BOTH {
        let query = question("found.example.com", A);
        let bytes = exchange(lab.pod("client").unwrap(), by, RESOLVER, &query.to_vec().unwrap());
        assert_eq!(answer_to(&query, &bytes).response_code, ResponseCode::ServFail);
    }
}

pub(crate) fn a_pod_that_is_removed_takes_its_questions_along() {
    let patient = RESOLV.replace("timeout:1", "timeout:30");
    let mut named = Named::raise_with(NAMED, &patient, &[]);
    let mut asking = dial(&named.lab, "shop/buyer", "127.0.0.1:15053").unwrap();
    let query = question("mute.example.com", A).to_vec().unwrap();
    asking.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes()).unwrap();
    asking.write_all(&query).unwrap();
    eventually("question that nobody answers", || {
        named.passed_names().contains("mute.example.com.").then_some(())
    });
    let without: Vec<&str> = NAMED.lines().filter(|line| !line.contains("{name: buyer,")).collect();
    named.change(&without.join("\n"));
    assert!(is_turned_away(&end_of(&mut asking)), "the connection is ended, and has no answer");
}

pub(crate) fn queries_that_wait_for_a_name_server_hold_up_no_other() {
    let patient = RESOLV.replace("timeout:1", "timeout:30");
    let named = Named::raise_with(NAMED, &patient, &[]);
    let waiting = socket(named.lab.pod("client").unwrap(), addr(RESOLVER));
    for id in 0..50 {
        let mut query = question("mute.example.com", A);
        query.metadata.id = id;
        waiting.send(&query.to_vec().unwrap()).unwrap();
    }
    eventually("question that nobody answers", || {
        named.passed_names().contains("mute.example.com.").then_some(())
    });
    for by in BOTH {
        served(&named.ask_by(by, "client", &question("web", A)), &["web. A 10.96.0.80"]);
        let answer = named.ask_by(by, "client", &question("found.example.com", A));
        passed_on(&answer, ResponseCode::NoError, &[&format!("found.example.com. A {FOUND}")]);
    }
}

pub(crate) fn a_flood_of_names_that_nobody_knows_keeps_none_of_the_mesh_from_being_answered() {
    let patient = RESOLV.replace("timeout:1", "timeout:30");
    let named = Named::raise_with(NAMED, &patient, &[]);
    let flood = socket(named.lab.pod("client").unwrap(), addr(RESOLVER));
    flood.set_nonblocking(true).unwrap();
    let mut sent = 0;
    // Nobody answers such a question within the test's time but to say that too many wait.
    let refused = eventually("question that is one too many", || {
        for _ in 0..50 {
            let mut query = question("mute.example.com", A);
            query.metadata.id = sent;
            sent += 1;
            let _ = flood.send(&query.to_vec().unwrap());
        }
        let mut answer = [0; 512];
        let length = flood.recv(&mut answer).ok()?;
        Some(Message::from_vec(&answer[..length]).unwrap())
    });
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    assert!(sent > 512, "refused after {sent} questions");
    for by in BOTH {
        served(&named.ask_by(by, "client", &question("web", A)), &["web. A 10.96.0.80"]);
    }
    // The bound is one pod's.
    let answer = named.ask("near", "found.example.com", A);
    passed_on(&answer, ResponseCode::NoError, &[&format!("found.example.com. A {FOUND}")]);
}

pub(crate) fn the_next_name_server_is_asked_where_one_is_silent() {
    let resolv = "# Of the node.\nnameserver 10.77.3.2\nnameserver 10.77.3.1\noptions timeout:1 attempts:1\n";
    let named = Named::raise_with(NAMED, resolv, &[]);
    // Bound, it takes what comes and says nothing; the client must not learn that nobody listens.
    let silent = named.lab.outside("silent").unwrap().run(|| UdpSocket::bind("0.0.0.0:53")).unwrap().unwrap();
    let answer = named.ask("client", "found.example.com", A);
    passed_on(&answer, ResponseCode::NoError, &[&format!("found.example.com. A {FOUND}")]);
    silent.set_read_timeout(Some(LIMIT)).unwrap();
    silent.recv(&mut [0; 512]).expect("the first in the file is asked first");
}

pub(crate) fn an_answer_to_another_question_is_not_taken() {
    let named = Named::raise(NAMED);
    let answer = named.ask("client", "forged.example.com", A);
    passed_on(&answer, ResponseCode::NoError, &[&format!("forged.example.com. A {FOUND}")]);
}

/// [`NAMED`] with a service of so many addresses.
fn with_many(count: u32) -> String {
    let vips: Vec<String> = (0..count).map(|n| Ipv4Addr::from_bits(0x0A62_0000 + n).to_string()).collect();
    format!("{NAMED}  - {{name: many, vips: [{}], ports: {{80: 9000}}}}\n", vips.join(", "))
}

pub(crate) fn what_is_too_much_for_a_datagram_is_truncated_and_whole_by_tcp() {
    let named = Named::raise(&with_many(MANY));
    for name in ["many", "MANY.default.svc.cluster.local", "many.example.com"] {
        let query = question(name, A);
        let bytes = named.send(By::Udp, "client", &query.to_vec().unwrap());
        let answer = answer_to(&query, &bytes);
        assert!(answer.truncation && bytes.len() <= 512, "{} bytes: {answer:?}", bytes.len());
        assert_eq!(answer.response_code, ResponseCode::NoError);
        let answer = named.ask_by(By::Tcp, "client", &query);
        assert!(!answer.truncation);
        let found = records(&answer).into_iter().collect::<BTreeSet<_>>().len();
        assert_eq!(found, MANY as usize, "{name}");
    }
}

pub(crate) fn a_datagram_is_as_long_as_the_client_takes_it() {
    // Too many for 512 bytes, not for 1232.
    let named = Named::raise(&with_many(60));
    let query = question("many", A);
    let answer = named.ask("client", "many", A);
    assert!(answer.truncation && answer.edns.is_none(), "{answer:?}");
    for (payload, dnssec_ok) in [(100, false), (600, true), (1232, false)] {
        let bytes = named.send(By::Udp, "client", &offering(query.clone(), payload, dnssec_ok));
        let answer = answer_to(&query, &bytes);
        let payload = payload.max(512);
        assert!(bytes.len() <= payload.into(), "{} bytes, not {payload}", bytes.len());
        assert_eq!(answer.truncation, payload < 1232, "{answer:?}");
        assert_eq!(answer.answers.len() == 60, payload >= 1232, "{answer:?}");
        let edns = answer.edns.as_ref().expect("what is asked with an OPT record is answered with one");
        assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (payload, 0, dnssec_ok));
    }
    // It is the client's, whatever the name server is asked with.
    let query = question("found.example.com", A);
    assert!(named.ask("client", "found.example.com", A).edns.is_none());
    let bytes = named.send(By::Udp, "client", &offering(query.clone(), 700, true));
    let edns = answer_to(&query, &bytes).edns.expect("what is asked with an OPT record is answered with one");
    assert_eq!((edns.max_payload(), edns.flags().dnssec_ok), (700, true));
}

pub(crate) fn what_is_no_query_is_turned_down_and_stops_nobody() {
    let named = Named::raise(NAMED);
    let (mut status, mut notify, mut response) = (question("web", A), question("web", A), question("web", A));
    status.metadata.op_code = OpCode::Status;
    notify.metadata.op_code = OpCode::Notify;
    response.metadata.message_type = MessageType::Response;
    for by in BOTH {
        for (message, code) in [
            (&status, ResponseCode::NotImp),
            (&notify, ResponseCode::NotImp),
            (&response, ResponseCode::FormErr),
        ] {
            let answer = named.send(by, "client", &message.to_vec().unwrap());
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!((answer.id, answer.message_type), (message.id, MessageType::Response));
            assert_eq!(answer.response_code, code, "{by:?}: {message:?}");
        }
    }
    let mut good = question("web", A);
    good.metadata.id = 4242;
    let client = named.lab.pod("client").unwrap();
    let socket = socket(client, addr(RESOLVER));
    for rubbish in rubbish() {
        socket.send(&rubbish).unwrap();
        let mut stream = dial_from(client, addr(RESOLVER)).unwrap();
        write_framed(&mut stream, &rubbish).unwrap();
        // A part of a message, and then nothing more. The proxy may have hung up already.
        let _ = stream.write_all(&[0, 200, 7]).and_then(|()| stream.shutdown(Shutdown::Write));
    }
    socket.send(&good.to_vec().unwrap()).unwrap();
    let found =
        std::iter::repeat_with(|| receive(&socket)).find(|bytes| bytes.starts_with(&4242_u16.to_be_bytes()));
    served(&answer_to(&good, &found.unwrap()), &["web. A 10.96.0.80"]);
    served(&named.ask_by(By::Tcp, "client", &good), &["web. A 10.96.0.80"]);
    let now = metrics(&named.lab, "one");
    assert_eq!(now.sum("warren_task_panics_total", &[]) + now.sum("warren_actor_crashes_total", &[]), 0.0);
}

/// What nobody should send; no id among it is 4242.
fn rubbish() -> Vec<Vec<u8>> {
    let header = |questions: u8| [0, 1, 1, 0, 0, questions, 0, 0, 0, 0, 0, 0];
    vec![
        vec![],
        vec![0],
        vec![0; 11],
        vec![0xff; 12],
        header(0).to_vec(),
        // More questions than there are.
        header(0xff).to_vec(),
        // A name that is its own end.
        [header(1).as_slice(), &[0xc0, 12, 0, 1, 0, 1]].concat(),
        // A name longer than names are, of 8 labels of 63 bytes.
        [header(1).as_slice(), &[&[63; 64][..]; 8].concat(), &[0, 0, 1, 0, 1]].concat(),
        vec![0xa5; 1400],
    ]
}

pub(crate) fn names_are_found_in_whatever_case_and_answered_in_lower_case() {
    let named = Named::raise(NAMED);
    for name in ["WEB", "Web.Default.svc.CLUSTER.local"] {
        let wanted = format!("{}. A 10.96.0.80", name.to_lowercase());
        served(&named.ask("client", name, A), &[&wanted]);
    }
    served(
        &named.ask("client", "API.Example.com.Default.svc.cluster.LOCAL", A),
        &[
            "api.example.com.default.svc.cluster.local. CNAME api.example.com.",
            "api.example.com. A 10.96.0.88",
        ],
    );
    assert_eq!(named.server.asked(), []);
    let answer = named.ask("client", "Found.EXAMPLE.com", A);
    assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::NoError, 1), "{answer:?}");
}

pub(crate) fn a_tcp_connection_takes_many_queries_and_is_ended_when_idle() {
    let named = Named::raise(NAMED);
    let mut stream = dial_from(named.lab.pod("client").unwrap(), addr(RESOLVER)).unwrap();
    let names = ["web", "found.example.com", "dual", "peers"];
    for name in names {
        let query = question(name, A);
        write_framed(&mut stream, &query.to_vec().unwrap()).unwrap();
        let answer = answer_to(&query, &read_framed(&mut stream).unwrap());
        assert!(!answer.answers.is_empty(), "{answer:?}");
    }
    // All at once, answered in whatever order.
    let mut waiting: BTreeMap<u16, Message> = BTreeMap::new();
    for (id, name) in (0..).zip(names) {
        let mut query = question(name, A);
        query.metadata.id = id;
        write_framed(&mut stream, &query.to_vec().unwrap()).unwrap();
        waiting.insert(id, query);
    }
    while !waiting.is_empty() {
        let bytes = read_framed(&mut stream).unwrap();
        let query =
            waiting.remove(&u16::from_be_bytes([bytes[0], bytes[1]])).expect("an answer to a question");
        assert!(!answer_to(&query, &bytes).answers.is_empty());
    }
    assert_eq!(end_of(&mut stream), End::Closed(Vec::new()));
}

pub(crate) fn queries_are_counted_by_type_transport_and_client() {
    const REQUESTS: &str = "istio_dns_requests_total";
    const UPSTREAM: &str = "istio_dns_upstream_requests_total";
    const FAILURES: &str = "istio_dns_upstream_failures_total";
    const DURATION: &str = "istio_dns_upstream_request_duration_seconds";
    let named = Named::raise(NAMED);
    for (by, pod, name, kind) in [
        (By::Udp, "client", "web", A),
        (By::Udp, "client", "web.default", A),
        (By::Tcp, "client", "web", AAAA),
        (By::Udp, "client", "found.example.com", A),
        (By::Udp, "client", "mute.example.com", AAAA),
        (By::Udp, "near", "found.example.com", TXT),
    ] {
        named.ask_by(by, pod, &question(name, kind));
    }
    let labels = |kind, by, client| {
        [
            ("request_query_type", kind),
            ("request_protocol", by),
            ("source_canonical_service", client),
            ("source_canonical_revision", "v1"),
        ]
    };
    let wanted = [
        (REQUESTS, labels("a", "udp", "client"), 3.0),
        (REQUESTS, labels("aaaa", "tcp", "client"), 1.0),
        (REQUESTS, labels("aaaa", "udp", "client"), 1.0),
        (REQUESTS, labels("txt", "udp", "near"), 1.0),
        (UPSTREAM, labels("a", "udp", "client"), 1.0),
        (UPSTREAM, labels("aaaa", "tcp", "client"), 0.0),
        (UPSTREAM, labels("aaaa", "udp", "client"), 1.0),
        (UPSTREAM, labels("txt", "udp", "near"), 1.0),
        (FAILURES, labels("aaaa", "udp", "client"), 1.0),
    ];
    metrics_show(&named.lab, "one", &format!("{wanted:?}"), |now: &Metrics| {
        let counted = wanted.iter().all(|(name, labels, value)| now.sum(name, labels) == *value);
        let all = [(REQUESTS, 6.0), (UPSTREAM, 3.0), (FAILURES, 1.0)];
        counted && all.iter().all(|(name, value)| now.sum(name, &[]) == *value)
    });
    let now = metrics(&named.lab, "one");
    let answered = labels("a", "udp", "client");
    assert_eq!(now.sum(&format!("{DURATION}_count"), &answered), 1.0);
    let buckets = format!("{DURATION}_bucket");
    let bounds: Vec<f64> =
        now.find(&buckets, &answered).map(|sample| sample.labels["le"].parse().unwrap()).collect();
    assert_eq!(bounds, [0.0005, 0.001, 0.01, 0.1, 1.0, 5.0, f64::INFINITY]);
    for sample in now.find(REQUESTS, &[]) {
        assert_eq!(sample.labels.len(), 4, "{sample:?}");
    }
}

pub(crate) fn a_service_is_reached_by_the_addresses_of_its_name_as_long_as_it_is_there() {
    let mut named = Named::raise(NAMED);
    let addresses = |named: &Named, pod: &str, name: &str| -> Vec<IpAddr> {
        let answer = named.ask(pod, name, A);
        answer.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
    };
    for (pod, name, port, count) in
        [("client", "web.default", 80, 1), ("client", "peers", 9000, 2), ("shop/buyer", "cart", 80, 1)]
    {
        let found = addresses(&named, pod, name);
        assert_eq!(found.len(), count, "{name}: {found:?}");
        for ip in found {
            open(&named.lab, pod, &format!("{ip}:{port}")).unwrap();
        }
    }
    unknown(&named.ask("client", "late", A));
    named.change(&format!(
        "{NAMED}  - {{name: late, vips: 10.96.0.99, ports: {{80: 9000}}, endpoints: [server]}}\n"
    ));
    served(&named.ask("client", "late", A), &["late. A 10.96.0.99"]);
    open(&named.lab, "client", "10.96.0.99:80").unwrap();
    named.change(NAMED);
    unknown(&named.ask("client", "late", A));
}

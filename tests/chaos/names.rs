//! What breaking the DNS proxy costs the pods that ask.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, AtomicU16, Ordering},
    thread,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};

use crate::support::*;

const SERVICE: &str =
    "services:\n  - {name: web, vips: 10.96.0.80, ports: {80: 9000}, endpoints: [server]}\n";

/// Asks for the service's address and waits for the answer.
fn ask(socket: &UdpSocket, id: u16) {
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii("web.").unwrap(), RecordType::A));
    socket.send(&question.to_vec().unwrap()).unwrap();
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).unwrap_or_else(|error| panic!("question {id}: {error}"));
    let answer = Message::from_vec(&answer[..length]).unwrap();
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (id, ResponseCode::NoError));
    assert_eq!(answer.answers.len(), 1, "{answer:?}");
}

pub(crate) fn a_lost_dns_actor_costs_no_question() {
    let lab = raise_of(&format!("{MESH}{SERVICE}"), 2);
    let namespace = lab.pod("client").unwrap();
    let socket = namespace.run(|| UdpSocket::bind("127.0.0.1:0")).unwrap().unwrap();
    socket.connect("127.0.0.1:15053").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let (broken, asked) = (AtomicBool::new(false), AtomicU16::new(0));
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !broken.load(Ordering::Relaxed) {
                ask(&socket, asked.fetch_add(1, Ordering::Relaxed));
            }
        });
        for how in ["kill", "panic"] {
            for dns in actors(&lab, "one").iter().filter(|actor| actor.is == "dns") {
                let before = asked.load(Ordering::Relaxed);
                break_actor(&lab, "one", &dns.path, how);
                eventually("answer after it", || {
                    let more = asked.load(Ordering::Relaxed).wrapping_sub(before) > 1;
                    (more || asking.is_finished()).then_some(())
                });
            }
        }
        broken.store(true, Ordering::Relaxed);
    });
    let crashes = counter(&lab, "one", "warren_actor_crashes_total{kind=\"dns\"}");
    assert_eq!(crashes, 4, "two pods, each broken twice");
}

//! What a process may send that hands connections over: what is wrong is refused by name and stays where it was. The
//! messages are written by hand here.

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use prost::Message as _;
use warren::{lab::net::Namespace, sys::fdpass::SeqPacket};

use crate::{
    logs::line,
    support::*,
    zds::{cni_pod, netns, runtime},
};

#[derive(Clone, PartialEq, prost::Message)]
struct Hello {
    #[prost(uint32, tag = "1")]
    protocol: u32,
    #[prost(string, tag = "2")]
    program: String,
    #[prost(string, tag = "3")]
    instance: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Verdict {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(bool, tag = "2")]
    taken: bool,
    #[prost(string, tag = "3")]
    reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Direction {
    #[prost(bytes = "vec", tag = "1")]
    pending: Vec<u8>,
    #[prost(int32, tag = "2")]
    progress: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Side {
    #[prost(string, tag = "1")]
    pod_uid: String,
    #[prost(uint64, tag = "2")]
    netns_dev: u64,
    #[prost(uint64, tag = "3")]
    netns_ino: u64,
    #[prost(string, tag = "4")]
    client: String,
    #[prost(string, tag = "5")]
    destination: String,
    #[prost(string, tag = "6")]
    dialled: String,
    #[prost(string, tag = "7")]
    identity: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(int32, tag = "2")]
    kind: i32,
    #[prost(message, repeated, tag = "3")]
    sides: Vec<Side>,
    #[prost(message, optional, tag = "4")]
    forward: Option<Direction>,
    #[prost(message, optional, tag = "5")]
    backward: Option<Direction>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(oneof = "Body", tags = "1, 2, 3")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Body {
    #[prost(message, tag = "1")]
    Hello(Hello),
    #[prost(message, tag = "2")]
    Record(Record),
    #[prost(message, tag = "3")]
    Verdict(Verdict),
}

const OUTBOUND: i32 = 1;
const PLAINTEXT: i32 = 2;

/// A connection of a client with a server, and what stands between them.
struct Between {
    client: TcpStream,
    near: TcpStream,
    far: TcpStream,
    server: TcpStream,
}

impl Between {
    fn inside(namespace: &Namespace) -> Self {
        let pair = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            one.set_read_timeout(Some(LIMIT)).unwrap();
            (one, listener.accept().unwrap().0)
        };
        let ((client, near), (server, far)) = namespace.run(|| (pair(), pair())).unwrap();
        Self { client, near, far, server }
    }

    fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.near.as_fd(), self.far.as_fd()]
    }
}

/// A link to the proxy of node one.
struct Stranger {
    socket: SeqPacket,
    runtime: tokio::runtime::Runtime,
}

impl Stranger {
    fn connect(lab: &Lab) -> Self {
        let runtime = runtime();
        let path = lab.directory().join("handover-one.sock");
        let socket = eventually("socket for connections", || {
            let _guard = runtime.enter();
            SeqPacket::connect(&path).ok()
        });
        Self { socket, runtime }
    }

    fn greeted(lab: &Lab) -> Self {
        let stranger = Self::connect(lab);
        let answer = stranger.say(&hello(1), &[]);
        assert!(matches!(answer, Some(Body::Hello(Hello { protocol: 1, .. }))), "{answer:?}");
        stranger
    }

    /// Sends a message, and waits for the answer or the end of the link.
    fn say(&self, body: &Body, fds: &[BorrowedFd<'_>]) -> Option<Body> {
        let bytes = Message { body: Some(body.clone()) }.encode_to_vec();
        self.send(&[&[0], &*bytes].concat(), fds)
    }

    fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Option<Body> {
        self.runtime.block_on(async {
            self.socket.send_all(packet, fds).await.ok()?;
            let packet = self.socket.recv().await.ok()??;
            Message::decode(&packet.bytes[1..]).unwrap().body
        })
    }
}

fn hello(protocol: u32) -> Body {
    Body::Hello(Hello { protocol, program: "x".into(), instance: "stranger".into() })
}

/// The record of a plaintext connection to the pod near.
fn record_of(lab: &Lab, between: &Between) -> Record {
    let netns = File::from(netns(lab.pod("near").unwrap()).try_clone().unwrap()).metadata().unwrap();
    let side = Side {
        pod_uid: cni_pod(lab, "near").uid.to_string(),
        netns_dev: netns.dev(),
        netns_ino: netns.ino(),
        client: between.near.peer_addr().unwrap().to_string(),
        destination: "10.77.1.2:9000".into(),
        dialled: "10.77.1.2:9000".into(),
        identity: String::new(),
    };
    let open = |pending: &str| Some(Direction { pending: pending.into(), progress: 1 });
    Record { number: 5, kind: PLAINTEXT, sides: vec![side], forward: open("on the way"), backward: open("") }
}

pub(crate) fn what_is_no_connection_of_the_node_is_refused_by_name_and_stays_where_it_was() {
    let lab = raise(MESH);
    let between = Between::inside(lab.pod("near").unwrap());
    let elsewhere = Between::inside(lab.pod("client").unwrap());
    let record = record_of(&lab, &between);
    let stranger = Stranger::greeted(&lab);
    let refused = |break_it: &dyn Fn(&mut Record), fds: &[BorrowedFd<'_>], named: &str| {
        let mut broken = record.clone();
        break_it(&mut broken);
        match stranger.say(&Body::Record(broken), fds) {
            Some(Body::Verdict(Verdict { number: 5, taken: false, reason })) => {
                assert!(reason.contains(named), "{named}: {reason}");
            }
            other => panic!("{named}: {other:?}"),
        }
    };
    let fds = between.fds();
    refused(&|r| r.sides[0].pod_uid = "no-such-pod".into(), &fds, "\"no-such-pod\" is not served here");
    refused(&|r| r.sides[0].netns_ino += 1, &fds, "another network namespace here");
    refused(&|r| r.kind = 9, &fds, "kind 9, which this version does not take");
    refused(&|r| r.sides[0].client = "10.77.1.2:1".into(), &fds, "a socket of another client");
    refused(&|r| r.sides[0].identity = "spiffe://cluster.local/ns/a/sa/b".into(), &fds, "with an identity");
    refused(&|r| r.sides.clear(), &fds, "0 sides");
    refused(&|r| r.forward = None, &fds, "a direction");
    refused(&|_| {}, &[], "0 descriptors");
    refused(&|_| {}, &fds[..1], "1 descriptors");
    refused(&|_| {}, &[fds[0], fds[1], fds[1]], "3 descriptors");
    let file: OwnedFd = File::open("/proc/self/status").unwrap().into();
    let (pipe, _write) = std::io::pipe().unwrap();
    refused(&|_| {}, &[file.as_fd(), fds[1]], "no TCP socket");
    refused(&|_| {}, &[fds[0], pipe.as_fd()], "no TCP socket");
    let listener = listen(lab.pod("near").unwrap(), 7000);
    refused(&|_| {}, &[fds[0], listener.as_fd()], "a socket that listens");
    refused(&|_| {}, &[fds[0], elsewhere.far.as_fd()], "another network namespace");
    refused(&|r| r.kind = OUTBOUND, &[elsewhere.near.as_fd(), fds[1]], "another network namespace");
    // Nobody has touched the connection.
    (&between.client).write_all(b"still here").unwrap();
    (&between.near).read_exact(&mut [0; 10]).unwrap();
    // Whoever speaks no hand-over is hung up on.
    for packet in [&[7, 1, 2][..], &[0, 0xff], &[1]] {
        assert_eq!(Stranger::greeted(&lab).send(packet, &[]), None, "{packet:?}");
    }
    assert_eq!(Stranger::connect(&lab).say(&Body::Record(record.clone()), &fds), None);
    let newer = Stranger::connect(&lab);
    assert!(matches!(newer.say(&hello(2), &[]), Some(Body::Hello(_))));
    assert_eq!(newer.say(&Body::Record(record.clone()), &fds), None);
    // The connection as it is: it is taken, and what is pending goes first.
    let taken = |verdict: Option<Body>| {
        assert!(
            matches!(verdict, Some(Body::Verdict(Verdict { number: 5, taken: true, .. }))),
            "{verdict:?}"
        );
    };
    taken(stranger.say(&Body::Record(record.clone()), &fds));
    let Between { mut client, near, far, mut server } = between;
    drop((near, far));
    client.write_all(b", and more").unwrap();
    let mut got = [0; 20];
    server.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"on the way, and more");
    server.write_all(b"welcome").unwrap();
    client.read_exact(&mut [0; 7]).unwrap();
    drop(server);
    assert_eq!(end_of(&mut client), End::Closed(Vec::new()));
    drop(client);
    let line = line(&lab, "one", &[("src.addr", &record.sides[0].client)]);
    assert_eq!((line.field("bytes_recv"), line.field("bytes_sent")), ("20", "7"), "{line:#?}");
}

pub(crate) fn a_connection_that_policies_forbid_by_now_is_cut_before_a_byte_moves() {
    let lab = raise(&format!("{MESH}strict: [default]\n"));
    let between = Between::inside(lab.pod("near").unwrap());
    let record = record_of(&lab, &between);
    let verdict = Stranger::greeted(&lab).say(&Body::Record(record), &between.fds());
    assert!(matches!(verdict, Some(Body::Verdict(Verdict { taken: true, .. }))), "{verdict:?}");
    let Between { mut client, near, far, mut server } = between;
    drop((near, far));
    assert!(is_turned_away(&end_of(&mut server)) && is_turned_away(&end_of(&mut client)));
    let line = line(&lab, "one", &[("direction", "inbound"), ("bytes_recv", "0")]);
    assert!(line.field("error").contains("policy"), "{line:#?}");
}

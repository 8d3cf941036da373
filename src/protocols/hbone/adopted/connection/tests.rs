//! What a taken-over tunnel makes of frames, by scripts: those that are allowed, and each violation.

use super::*;
use crate::protocols::hbone::{
    ledger::StreamSnapshot,
    wire::{CONTINUATION, END_HEADERS, HAS_PRIORITY, HEADER_BYTES, HEADERS, PADDED, PRIORITY, PUSH_PROMISE},
};

const UNKNOWN: u8 = 0xbe;
const NONE: &[u8] = &[];
const MAX_FRAME: u32 = 16_384;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { payload: payload.len() as u32, kind, flags, stream };
    [&header.encode(), payload].concat()
}

fn stream(id: u32, received_all: bool) -> StreamSnapshot {
    StreamSnapshot { id, send: 1000, receive: 20_000, sent_all: false, received_all }
}

/// A connection with the streams 1, which is open, and 3, of which the peer has ended its half. This end has reset
/// stream 5, and stream 7 is closed.
fn snapshot(role: Role) -> Snapshot {
    let (last_own, last_peer) = if role == Role::Client { (7, 0) } else { (0, 7) };
    Snapshot {
        role,
        send: 5000,
        receive: 30_000,
        peer: PeerSettings { initial_window: 1000, max_frame: MAX_FRAME },
        own_initial: 20_000,
        own_pending: vec![],
        acks_owed: 0,
        last_own,
        last_peer,
        goaway_sent: (role == Role::Server).then_some(7),
        goaway_received: None,
        streams: vec![stream(1, false), stream(3, true)],
        reset: vec![5],
    }
}

fn adopted(role: Role) -> Adopted {
    Adopted::new(&snapshot(role), MAX_FRAME, 30_000).unwrap()
}

/// Has `adopted` receive `bytes` in pieces of `len` bytes. Data of a stream that comes in pieces is joined.
fn receive(adopted: &mut Adopted, bytes: &[u8], len: usize) -> Result<Vec<Event>, Reason> {
    let mut events = Vec::new();
    for piece in bytes.chunks(len) {
        let mut piece = Bytes::copy_from_slice(piece);
        while let Some(event) = adopted.receive(&mut piece)? {
            match (&event, events.last_mut()) {
                (Event::Data(stream, more), Some(Event::Data(last, data))) if stream == last => {
                    *data = [&data[..], &more[..]].concat().into();
                }
                _ => events.push(event),
            }
        }
        assert!(piece.is_empty());
    }
    Ok(events)
}

fn output(adopted: &mut Adopted) -> Vec<u8> {
    let out: Vec<u8> = adopted.output().iter().flatten().copied().collect();
    adopted.sent(out.len());
    assert!(adopted.output().is_empty());
    out
}

/// The frames that come in, by role, and what has happened then, or what the peer has broken.
fn check(role: Role, name: &str, bytes: &[u8], expected: &Result<Vec<Event>, Reason>) {
    for len in [1, 2, 7, 10, bytes.len().max(1)] {
        let got = receive(&mut adopted(role), bytes, len);
        assert_eq!(&got, expected, "{name} as {role:?} in pieces of {len}");
    }
}

fn setting(id: u8, value: u32) -> Vec<u8> {
    let [v0, v1, v2, v3] = value.to_be_bytes();
    frame(SETTINGS, 0, 0, &[0, id, v0, v1, v2, v3])
}

fn update(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

#[test]
fn each_violation_ends_the_tunnel_with_its_error() {
    const PROTOCOL: Reason = Reason::PROTOCOL_ERROR;
    const SIZE: Reason = Reason::FRAME_SIZE_ERROR;
    const FLOW: Reason = Reason::FLOW_CONTROL_ERROR;
    const CLOSED: Reason = Reason::STREAM_CLOSED;
    let goaway = |last: u8| frame(GOAWAY, 0, 0, &[0, 0, 0, last, 0, 0, 0, 0]);
    let table = [
        ("DATA on the connection", frame(DATA, 0, 0, b"x"), PROTOCOL),
        ("DATA on an idle stream", frame(DATA, 0, 9, b"x"), PROTOCOL),
        ("DATA after the end", frame(DATA, 0, 3, b"x"), CLOSED),
        (
            "DATA after the own end of this script",
            [frame(DATA, 1, 1, b"x"), frame(DATA, 0, 1, b"x")].concat(),
            CLOSED,
        ),
        ("DATA on a closed stream", frame(DATA, 0, 7, b"x"), CLOSED),
        ("DATA padded beyond its end", frame(DATA, PADDED, 1, &[3, 0, 0]), PROTOCOL),
        ("DATA without the length of its padding", frame(DATA, PADDED, 1, NONE), SIZE),
        (
            "DATA beyond the stream's window",
            [&frame(DATA, 0, 1, &[0; 15_000])[..], &frame(DATA, 0, 1, &[0; 5001])].concat(),
            FLOW,
        ),
        (
            "DATA beyond the connection's window",
            [
                &frame(DATA, 0, 5, &[0; 16_000])[..],
                &frame(DATA, 0, 1, &[0; 15_000]),
                &frame(DATA, 0, 5, &[0; 16_000]),
                &frame(DATA, 0, 5, &[0; 16_000]),
            ]
            .concat(),
            FLOW,
        ),
        ("a frame that is too large", frame(UNKNOWN, 0, 0, &[0; 16_385]), SIZE),
        ("HEADERS on the connection", frame(HEADERS, END_HEADERS, 0, b"x"), PROTOCOL),
        ("HEADERS that end nothing", frame(HEADERS, END_HEADERS, 1, b"x"), PROTOCOL),
        ("HEADERS after the end", frame(HEADERS, END_HEADERS | END_STREAM, 3, b"x"), CLOSED),
        ("HEADERS on a closed stream", frame(HEADERS, END_HEADERS, 7, b"x"), CLOSED),
        ("HEADERS on a stream that this end opens, or none", frame(HEADERS, END_HEADERS, 8, b"x"), PROTOCOL),
        (
            "HEADERS padded beyond their end",
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[9, 0]),
            PROTOCOL,
        ),
        (
            "HEADERS padded over their priority",
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED | HAS_PRIORITY, 1, &[1, 0, 0, 0, 0, 0]),
            PROTOCOL,
        ),
        (
            "HEADERS without their priority",
            frame(HEADERS, END_HEADERS | END_STREAM | HAS_PRIORITY, 1, b"four"),
            SIZE,
        ),
        (
            "a frame within a header block",
            [frame(HEADERS, END_STREAM, 1, b"x"), frame(UNKNOWN, 0, 1, b"x")].concat(),
            PROTOCOL,
        ),
        (
            "CONTINUATION of another stream",
            [frame(HEADERS, END_STREAM, 1, b"x"), frame(CONTINUATION, END_HEADERS, 3, b"x")].concat(),
            PROTOCOL,
        ),
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, b"x"), PROTOCOL),
        (
            "a header block without end",
            [frame(HEADERS, END_STREAM, 1, b"x"), frame(CONTINUATION, 0, 1, NONE).repeat(8000)].concat(),
            Reason::ENHANCE_YOUR_CALM,
        ),
        ("PRIORITY on the connection", frame(PRIORITY, 0, 0, &[0; 5]), PROTOCOL),
        ("PRIORITY of another length", frame(PRIORITY, 0, 1, &[0; 4]), SIZE),
        ("RST_STREAM on the connection", frame(RST_STREAM, 0, 0, &[0; 4]), PROTOCOL),
        ("RST_STREAM on an idle stream", frame(RST_STREAM, 0, 9, &[0; 4]), PROTOCOL),
        ("RST_STREAM of another length", frame(RST_STREAM, 0, 1, &[0; 5]), SIZE),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, NONE), PROTOCOL),
        ("SETTINGS of another length", frame(SETTINGS, 0, 0, &[0; 7]), SIZE),
        ("an acknowledgement with settings", frame(SETTINGS, ACK, 0, &[0; 6]), SIZE),
        ("an acknowledgement of nothing", frame(SETTINGS, ACK, 0, NONE), PROTOCOL),
        ("ENABLE_PUSH of 2", setting(2, 2), PROTOCOL),
        ("an initial window of 2^31", setting(4, 1 << 31), FLOW),
        (
            "an initial window with which a stream's overflows",
            [update(1, (1 << 31) - 1001), setting(4, 1001)].concat(),
            FLOW,
        ),
        ("frames of 16,383 bytes", setting(5, 16_383), PROTOCOL),
        ("frames of 2^24 bytes", setting(5, 1 << 24), PROTOCOL),
        ("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), PROTOCOL),
        ("PING on a stream", frame(PING, 0, 1, &[0; 8]), PROTOCOL),
        ("PING of another length", frame(PING, 0, 0, &[0; 9]), SIZE),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
        ("GOAWAY of another length", frame(GOAWAY, 0, 0, &[0; 7]), SIZE),
        ("GOAWAY that takes back", [goaway(5), goaway(7)].concat(), PROTOCOL),
        ("WINDOW_UPDATE of another length", frame(WINDOW_UPDATE, 0, 1, &[1; 3]), SIZE),
        ("WINDOW_UPDATE of nothing", update(0, 0), PROTOCOL),
        ("WINDOW_UPDATE of nothing on a stream", update(1, 0), PROTOCOL),
        ("WINDOW_UPDATE on an idle stream", update(9, 1), PROTOCOL),
        ("a connection's window of 2^31", update(0, (1 << 31) - 5000), FLOW),
        ("a stream's window of 2^31", update(3, (1 << 31) - 1000), FLOW),
    ];
    for (name, bytes, reason) in &table {
        for role in [Role::Client, Role::Server] {
            for len in [1, 3, 10, bytes.len()] {
                let got = receive(&mut adopted(role), bytes, len);
                assert_eq!(got, Err(*reason), "{name} as {role:?} in pieces of {len}");
            }
        }
    }
    check(Role::Client, "a server that may push", &setting(2, 1), &Err(PROTOCOL));
    check(Role::Client, "a server that opens", &frame(HEADERS, END_HEADERS, 9, b"x"), &Err(PROTOCOL));
}

#[test]
fn what_the_rules_allow_is_understood_in_whatever_pieces_it_comes() {
    let data = |bytes: &'static [u8]| Event::Data(1, Bytes::from_static(bytes));
    let table = [
        ("DATA", frame(DATA, 0, 1, b"four"), vec![data(b"four")]),
        ("DATA that ends", frame(DATA, END_STREAM, 1, b"last"), vec![data(b"last"), Event::End(1)]),
        ("an empty end", frame(DATA, END_STREAM, 1, NONE), vec![Event::End(1)]),
        ("empty DATA", frame(DATA, 0, 1, NONE), vec![]),
        (
            "padded DATA",
            frame(DATA, PADDED | END_STREAM, 1, b"\x02four\0\0"),
            vec![data(b"four"), Event::End(1)],
        ),
        ("padding alone", frame(DATA, PADDED | END_STREAM, 1, b"\x02\0\0"), vec![Event::End(1)]),
        ("no padding", frame(DATA, PADDED, 1, b"\x00four"), vec![data(b"four")]),
        ("trailers", frame(HEADERS, END_HEADERS | END_STREAM, 1, b"x"), vec![Event::End(1)]),
        (
            "long trailers",
            [frame(HEADERS, END_STREAM | PADDED, 1, b"\x01xy"), frame(CONTINUATION, END_HEADERS, 1, b"x")]
                .concat(),
            vec![Event::End(1)],
        ),
        ("a reset", frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), vec![Event::Reset(1, Reason::CANCEL)]),
        ("a reset of a closed stream", frame(RST_STREAM, 0, 7, &[0, 0, 0, 8]), vec![]),
        ("DATA on its way to a reset stream", frame(DATA, 0, 5, b"late"), vec![]),
        (
            "trailers on their way to a reset stream",
            frame(HEADERS, END_HEADERS | END_STREAM, 5, b"x"),
            vec![],
        ),
        ("room for a stream", update(1, 10), vec![Event::Room(1)]),
        ("room for all", update(0, 10), vec![Event::Room(0)]),
        ("room for a closed stream", update(7, 10), vec![]),
        ("an initial window", setting(4, 2000), vec![Event::Room(0)]),
        ("an answer to another PING", frame(PING, ACK, 0, &[7; 8]), vec![]),
        ("an answer", frame(PING, ACK, 0, &PING_PAYLOAD), vec![Event::Pong]),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0; 5]), vec![]),
        ("a goodbye", frame(GOAWAY, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 0, 1, 2, 3]), vec![]),
        ("an unknown frame", frame(UNKNOWN, 0xff, 1, &[1; 100]), vec![]),
    ];
    for (name, bytes, events) in table {
        for role in [Role::Client, Role::Server] {
            check(role, name, &bytes, &Ok(events.clone()));
        }
    }
}

#[test]
fn a_goodbye_that_leaves_streams_out_ends_them() {
    let goodbye = frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 2]);
    let mut client = adopted(Role::Client);
    assert_eq!(receive(&mut client, &goodbye, 5), Ok(vec![Event::Reset(3, Reason::INTERNAL_ERROR)]));
    assert_eq!(client.streams().collect::<Vec<_>>(), [1]);
    // A client's goodbye speaks of the server's streams.
    let mut server = adopted(Role::Server);
    assert_eq!(receive(&mut server, &goodbye, 5), Ok(vec![]));
    assert_eq!(server.streams().count(), 2);
}

#[test]
fn what_asks_for_an_answer_gets_it() {
    let mut tunnel = adopted(Role::Client);
    receive(&mut tunnel, &frame(PING, 0, 0, b"payloads"), 3).unwrap();
    assert_eq!(output(&mut tunnel), frame(PING, ACK, 0, b"payloads"));
    receive(&mut tunnel, &setting(4, 3000), 3).unwrap();
    assert_eq!(output(&mut tunnel), frame(SETTINGS, ACK, 0, NONE));
    assert_eq!((tunnel.room(1), tunnel.peer().initial_window), (3000, 3000));
    receive(&mut tunnel, &frame(SETTINGS, 0, 0, NONE), 3).unwrap();
    assert_eq!(output(&mut tunnel), frame(SETTINGS, ACK, 0, NONE));
    // Nobody reads padding.
    receive(&mut tunnel, &frame(DATA, PADDED, 1, b"\x03four\0\0\0"), 3).unwrap();
    assert_eq!(output(&mut tunnel), update(1, 4));
    tunnel.ping();
    assert_eq!(output(&mut tunnel), frame(PING, 0, 0, &PING_PAYLOAD));
}

#[test]
fn a_server_refuses_new_streams_and_a_peer_that_does_not_stop_opening() {
    let mut tunnel = adopted(Role::Server);
    let opening = [frame(HEADERS, 0, 9, b"x"), frame(CONTINUATION, END_HEADERS, 9, b"y")].concat();
    assert_eq!(receive(&mut tunnel, &opening, 4), Ok(vec![]));
    assert_eq!(output(&mut tunnel), frame(RST_STREAM, 0, 9, &[0, 0, 0, 7]));
    // What the peer has sent meanwhile is counted on the connection.
    assert_eq!(receive(&mut tunnel, &frame(DATA, END_STREAM, 9, &[0; 16_000]), 999), Ok(vec![]));
    assert_eq!(output(&mut tunnel), update(0, 16_000));
    let mut opened = 9;
    let refused = (0..2000).find_map(|_| {
        opened += 2;
        receive(&mut tunnel, &frame(HEADERS, END_HEADERS, opened, b"x"), 99).err()
    });
    assert_eq!((refused, opened), (Some(Reason::ENHANCE_YOUR_CALM), 9 + 2 * 1024));
}

#[test]
fn a_server_that_has_not_said_goodbye_says_so_first_and_acknowledges_what_is_due() {
    let snapshot = Snapshot { goaway_sent: Some(u32::MAX >> 1), acks_owed: 1, ..snapshot(Role::Server) };
    let mut tunnel = Adopted::new(&snapshot, MAX_FRAME, 30_000).unwrap();
    let goodbye = frame(GOAWAY, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 0]);
    assert_eq!(output(&mut tunnel), [frame(SETTINGS, ACK, 0, NONE), goodbye].concat());
    assert!(output(&mut adopted(Role::Server)).is_empty() && output(&mut adopted(Role::Client)).is_empty());
}

#[test]
fn what_a_server_has_said_of_its_last_stream_never_rises() {
    // A peer had opened a stream before it knew of the goodbye, and HTTP/2 ignores it.
    let said = Snapshot { goaway_sent: Some(7), last_peer: 9, ..snapshot(Role::Server) };
    let mut adopted = Adopted::new(&said, 20_000, 40_000).unwrap();
    assert_eq!(output(&mut adopted), b"");
    adopted.goaway(Reason::NO_ERROR);
    assert_eq!(output(&mut adopted), frame(GOAWAY, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 0]));
}

#[test]
fn bytes_are_sent_as_far_as_both_windows_and_the_frame_size_allow() {
    let mut tunnel = adopted(Role::Client);
    let mut bytes = Bytes::from(vec![7; 1500]);
    assert!(!tunnel.send(1, &mut bytes, true));
    assert_eq!((bytes.len(), tunnel.room(1), tunnel.room(3)), (500, 0, 1000));
    assert_eq!(output(&mut tunnel), frame(DATA, 0, 1, &[7; 1000]));
    receive(&mut tunnel, &update(1, 500), 99).unwrap();
    assert!(tunnel.send(1, &mut bytes, true));
    assert_eq!(output(&mut tunnel), frame(DATA, END_STREAM, 1, &[7; 500]));
    assert_eq!(tunnel.room(1), 0);
    // The connection's window is what is left of 5000 bytes.
    receive(&mut tunnel, &[update(3, 100_000), setting(5, 20_000)].concat(), 99).unwrap();
    output(&mut tunnel);
    let mut bytes = Bytes::from(vec![7; 30_000]);
    assert!(!tunnel.send(3, &mut bytes, false));
    assert_eq!(output(&mut tunnel), frame(DATA, 0, 3, &[7; 3500]));
    receive(&mut tunnel, &update(0, 100_000), 99).unwrap();
    assert!(tunnel.send(3, &mut bytes, false));
    assert_eq!(
        output(&mut tunnel),
        [frame(DATA, 0, 3, &[7; 20_000]), frame(DATA, 0, 3, &[7; 6500])].concat()
    );
    assert!(tunnel.send(3, &mut Bytes::new(), true));
    assert_eq!(output(&mut tunnel), frame(DATA, END_STREAM, 3, NONE));
    assert_eq!(tunnel.streams().collect::<Vec<_>>(), [1]);
    // Nothing more can be said on a closed stream.
    tunnel.reset(3, Reason::CANCEL);
    tunnel.grant(3, 5);
    assert!(!tunnel.send(3, &mut Bytes::from_static(b"x"), true));
    assert!(output(&mut tunnel).is_empty());
}

#[test]
fn an_initial_window_may_leave_a_debt_that_updates_pay_first() {
    let mut tunnel = adopted(Role::Client);
    receive(&mut tunnel, &setting(4, 0), 99).unwrap();
    tunnel.send(1, &mut Bytes::from_static(b"x"), false);
    receive(&mut tunnel, &[setting(4, 10), update(1, 0x7fff_ff00)].concat(), 99).unwrap();
    assert_eq!(tunnel.room(1), 5000);
}

#[test]
fn the_connections_window_follows_what_is_released_and_its_target() {
    let mut tunnel = adopted(Role::Client);
    receive(&mut tunnel, &frame(DATA, 0, 1, &[0; 15_000]), 999).unwrap();
    tunnel.release(14_999);
    assert!(output(&mut tunnel).is_empty());
    tunnel.release(1);
    assert_eq!(output(&mut tunnel), update(0, 15_000));
    tunnel.hold(10_000);
    tunnel.set_target(60_000);
    assert!(output(&mut tunnel).is_empty());
    tunnel.release(10_000);
    assert_eq!(output(&mut tunnel), update(0, 30_000));
    tunnel.set_target(u32::MAX);
    assert_eq!(output(&mut tunnel), update(0, (1 << 31) - 1 - 60_000));
}

#[test]
fn a_flood_of_frames_that_move_nothing_is_found_out() {
    let mut tunnel = adopted(Role::Client);
    let now = Instant::now();
    let flood = |tunnel: &mut Adopted| {
        (0..9000).any(|_| {
            receive(tunnel, &frame(PING, ACK, 0, &[0; 8]), 99).unwrap();
            tunnel.is_flooded(|| now)
        })
    };
    assert!(flood(&mut tunnel));
}

#[test]
fn reading_to_a_boundary_leaves_the_rest() {
    let frames = [
        frame(HEADERS, END_STREAM, 1, b"abc"),
        frame(CONTINUATION, END_HEADERS, 1, b"d"),
        frame(DATA, 0, 5, &[0; 50]),
    ];
    let (all, block) = (frames.concat(), frames[0].len() + frames[1].len());
    for at in 0..all.len() {
        let mut tunnel = adopted(Role::Client);
        let mut bytes = Bytes::from(all.clone());
        let mut first = bytes.split_to(at);
        while tunnel.receive(&mut first).unwrap().is_some() {}
        while tunnel.receive_to_boundary(&mut bytes).unwrap().is_some() {}
        assert!(tunnel.is_between_frames());
        let end = [0, block, all.len()].into_iter().find(|end| *end >= at).unwrap();
        assert_eq!(bytes.len(), all.len() - end, "after {at} bytes");
    }
    assert_eq!(HEADER_BYTES, 9);
}

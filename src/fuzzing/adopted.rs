//! A tunnel that was taken over, whose peer follows no rule.

use std::time::Instant;

use bytes::Bytes;
use h2::Reason;

use super::{
    frames::{Step, script},
    input::Input,
};
use crate::protocols::hbone::{
    adopted::{Adopted, Event},
    frames::Role,
    ledger::{PeerSettings, Snapshot, StreamSnapshot},
};

/// The largest payload of a frame, either way.
const MAX_FRAME: u32 = 16_384;
/// What waits for the connection at most: what streams may send, and the answers to one piece of bytes.
const MAX_OUTPUT: usize = 1 << 20;

/// A snapshot that may be none of a connection.
fn snapshot(input: &mut Input<'_>) -> Snapshot {
    let role = if input.flip() { Role::Client } else { Role::Server };
    let mut streams = Vec::new();
    for id in [1, 3, 5, 7] {
        let (send, receive) = (i64::from(input.u16()), i64::from(input.u16()));
        let (sent_all, received_all) = (input.below(4) == 3, input.below(4) == 3);
        if input.below(4) != 3 {
            streams.push(StreamSnapshot { id, send, receive, sent_all, received_all });
        }
    }
    let last = 7 + input.below(3) as u32;
    let (last_own, last_peer) = if role == Role::Client { (last, 0) } else { (0, last) };
    Snapshot {
        role,
        send: input.u16().into(),
        receive: i64::from(input.u16()) * 4,
        peer: PeerSettings { initial_window: input.u16().into(), max_frame: MAX_FRAME },
        own_initial: 65_535,
        own_pending: vec![None; input.below(3)],
        acks_owed: input.below(3) as u32,
        last_own,
        last_peer,
        goaway_sent: input.flip().then_some(last_peer),
        goaway_received: None,
        streams,
        reset: vec![9; input.below(2)],
    }
}

/// What the tunnel says is frames, and none of them is too large. Takes the bytes, and returns what remains of a frame.
fn check_output(tunnel: &mut Adopted) {
    let out: Vec<u8> = tunnel.output().iter().flatten().copied().collect();
    assert!(out.len() <= MAX_OUTPUT, "{} bytes wait", out.len());
    let mut rest = &out[..];
    while !rest.is_empty() {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]);
        // What the peer has settled may be larger.
        assert!(length <= tunnel.peer().max_frame.max(MAX_FRAME));
        assert!(matches!(rest[3], 0 | 3 | 4 | 6 | 7 | 8), "a frame of kind {}", rest[3]);
        rest = &rest[9 + length as usize..];
    }
    tunnel.sent(out.len());
    assert!(tunnel.output().is_empty());
}

/// Something that this end does meanwhile.
fn act(input: &mut Input<'_>, tunnel: &mut Adopted, unread: &mut usize) {
    let stream = 1 + 2 * input.below(5) as u32;
    match input.below(8) {
        0 => {
            let (room, mut bytes) = (tunnel.room(stream), Bytes::from(vec![7; input.below(70_000)]));
            let before = bytes.len();
            let all = tunnel.send(stream, &mut bytes, input.flip());
            assert!(before - bytes.len() <= room && all == bytes.is_empty());
        }
        1 => tunnel.reset(stream, Reason::CANCEL),
        2 => tunnel.grant(stream, input.u32()),
        3 => {
            let released = input.below(*unread + 1);
            *unread -= released;
            tunnel.release(released);
        }
        4 => tunnel.set_target(input.u32()),
        5 => tunnel.ping(),
        _ => {}
    }
}

/// A peer of a tunnel that was taken over.
pub fn adopted(data: &[u8]) {
    let mut input = Input::new(data);
    let Ok(mut tunnel) = Adopted::new(&snapshot(&mut input), MAX_FRAME, input.u32()) else { return };
    let (mut unread, now, odd) = (0, Instant::now(), input.flip());
    let authorities: &[&str] = if odd { &["10.0.0.2:80"] } else { &[] };
    check_output(&mut tunnel);
    for step in script(&mut input.clone(), authorities) {
        let Step::Send(bytes) = step else { continue };
        let mut bytes = Bytes::from(bytes);
        while !bytes.is_empty() {
            let mut piece = bytes.split_to((1 + input.below(20_000)).min(bytes.len()));
            tunnel.begin_turn();
            loop {
                match tunnel.receive(&mut piece) {
                    Ok(Some(Event::Data(_, data))) => unread += data.len(),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(reason) => {
                        tunnel.goaway(reason);
                        return check_output(&mut tunnel);
                    }
                }
                check_output(&mut tunnel);
            }
            assert!(piece.is_empty());
            if tunnel.is_flooded(|| now) {
                return;
            }
            act(&mut input, &mut tunnel, &mut unread);
            check_output(&mut tunnel);
        }
    }
    for stream in tunnel.streams().collect::<Vec<_>>() {
        tunnel.reset(stream, Reason::CANCEL);
    }
    assert!(tunnel.is_unused());
    check_output(&mut tunnel);
}

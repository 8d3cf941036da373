use super::*;
use crate::protocols::hbone::wire::END_HEADERS;

const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const UNKNOWN: u8 = 0xbe;

fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
    let [_, l0, l1, l2] = (payload as u32).to_be_bytes();
    let mut frame = vec![l0, l1, l2, kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.resize(HEADER_BYTES + payload, 0x55);
    frame
}

/// Lets `frame` pass `count` times, and returns whether the peer was found to flood. All of it happens at one time.
fn floods(frames: &mut Frames, frame: &[u8], count: usize) -> bool {
    let now = Instant::now();
    (0..count).any(|_| {
        frames.received(frame);
        frames.are_too_many(|| now)
    })
}

#[test]
fn a_turn_ends_after_so_many_frames_or_bytes() {
    for (frame, most) in [(frame(PRIORITY, 0, 1, 5), 512), (frame(DATA, 0, 1, 16_384), 128)] {
        let mut frames = Frames::new(Role::Client);
        for _ in 0..3 {
            frames.begin_turn();
            let mut passed = 0;
            while !frames.is_turn_over() {
                frames.received(&frame);
                passed += 1;
            }
            assert_eq!(passed, most);
        }
    }
}

#[test]
fn reads_are_short_while_frames_are_tiny() {
    let mut frames = Frames::new(Role::Client);
    for (bytes, short) in [
        (frame(DATA, 0, 1, 16_384), false),
        (frame(PRIORITY, 0, 1, 5).repeat(100), true),
        (frame(DATA, 0, 1, 1), false),
        (frame(DATA, 0, 1, 1).repeat(100), true),
        (frame(DATA, 0, 1, 9_000), false),
    ] {
        frames.received(&bytes);
        assert_eq!(frames.short_read().is_some(), short, "{} bytes", bytes.len());
    }
}

#[test]
fn a_peer_that_sends_only_frames_that_move_nothing_is_found_out() {
    let hollow = [
        frame(PRIORITY, 0, 1, 5),
        frame(WINDOW_UPDATE, 0, 0, 4),
        frame(RST_STREAM, 0, 1, 4),
        frame(SETTINGS, 0, 0, 0),
        frame(PING, 0, 0, 8),
        frame(UNKNOWN, 0, 0, 0),
        frame(UNKNOWN, 0, 7, 3000),
        frame(DATA, 0, 1, 0),
        frame(DATA, PADDED, 1, 200),
    ];
    for frame in &hollow {
        assert!(floods(&mut Frames::new(Role::Client), frame, 9_000), "{frame:?}");
        // Far fewer than that are nobody's concern.
        assert!(!floods(&mut Frames::new(Role::Client), frame, 5_000), "{frame:?}");
    }
}

#[test]
fn a_peer_that_moves_bytes_is_never_found_out_however_small_they_are() {
    let mut frames = Frames::new(Role::Client);
    assert!(!floods(&mut frames, &frame(DATA, 0, 1, 1), 300_000));
    assert!(!floods(&mut frames, &frame(HEADERS, 4, 1, 30), 300_000));
    // A peer that gives back the window of each small frame at once, for the stream and for the connection.
    frames.sent(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    for _ in 0..100_000 {
        frames.sent(&frame(DATA, 0, 1, 1));
        frames.received(&frame(WINDOW_UPDATE, 0, 0, 4));
        frames.received(&frame(WINDOW_UPDATE, 0, 1, 4));
        assert!(!frames.are_too_many(Instant::now));
    }
}

#[test]
fn frames_that_move_nothing_are_forgiven_if_they_take_their_time() {
    let mut frames = Frames::new(Role::Client);
    let mut now = Instant::now();
    for _ in 0..20 {
        for _ in 0..HOLLOW_FRAMES {
            frames.received(&frame(PING, 0, 0, 8));
        }
        assert!(!frames.are_too_many(|| now));
        now += HOLLOW_INTERVAL;
    }
}

#[test]
fn the_goaway_names_the_last_stream_of_a_client_and_waits_for_the_end_of_a_frame() {
    let mut frames = Frames::new(Role::Server);
    frames.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    for stream in [1, 5, 3] {
        frames.received(&frame(HEADERS, 4, stream, 10));
    }
    assert_eq!(frames.goaway().unwrap(), [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0xb]);
    frames.sent(&frame(DATA, 0, 1, 100)[..50]);
    assert_eq!(frames.goaway(), None);
}

#[test]
fn padding_of_data_is_found_in_whatever_pieces_it_comes() {
    let mut padded = frame(DATA, PADDED, 5, 40);
    padded[HEADER_BYTES] = 30;
    let empty = frame(DATA, PADDED, 7, 0);
    let all = [frame(DATA, 0, 3, 40), padded, empty, frame(HEADERS, PADDED | END_HEADERS, 9, 20)].concat();
    for len in 1..all.len() {
        let mut frames = Frames::new(Role::Client);
        all.chunks(len).for_each(|piece| frames.received(piece));
        assert_eq!(frames.padding(), [(5, 31)], "pieces of {len}");
        assert_eq!(frames.padding(), []);
    }
}

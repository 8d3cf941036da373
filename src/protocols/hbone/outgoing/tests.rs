//! What goes out in place of what HTTP/2 says about windows, in whatever pieces it hands its frames over.

use std::time::Instant;

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;
use crate::protocols::{
    config::Http2Config,
    hbone::{budget::BufferBudget, frames::Role},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, l0, l1, l2] = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![l0, l1, l2, kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn windows() -> Windows {
    Windows::new(BufferBudget::new(64 << 20, 1).of(0), &Http2Config::default(), Instant::now)
}

/// Sends `frames` as HTTP/2 does, in writes that take as much as `seed` says, and returns what went out.
fn send(windows: &Windows, all: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let (mut rng, mut out) = (SmallRng::seed_from_u64(seed), Vec::new());
    let (mut outgoing, mut frames) = (Outgoing::new(windows.clone()), Frames::new(Role::Server));
    let flat: Vec<u8> = all.concat();
    let mut at = 0;
    loop {
        let unsent = outgoing.unsent(&frames).to_vec();
        if !unsent.is_empty() {
            let n = rng.random_range(1..=unsent.len());
            frames.sent(&unsent[..n]);
            out.extend_from_slice(&unsent[..n]);
            outgoing.sent(n);
            continue;
        }
        if at == flat.len() {
            return out;
        }
        let middle = rng.random_range(at..=flat.len());
        let bufs = [io::IoSlice::new(&flat[at..middle]), io::IoSlice::new(&flat[middle..])];
        let take = |bufs: &[io::IoSlice<'_>], rng: &mut SmallRng| {
            let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
            let n = rng.random_range(1..=all.len());
            all[..n].to_vec()
        };
        let sent = match outgoing.next(&frames, &bufs).unwrap() {
            Next::All => take(&bufs, &mut rng),
            Next::First(first) => take(&first, &mut rng),
            Next::Replaced(n) => {
                at += n;
                continue;
            }
        };
        frames.sent(&sent);
        at += sent.len();
        out.extend_from_slice(&sent);
    }
}

#[test]
fn the_settings_tell_the_first_window_and_windows_of_streams_are_not_told() {
    let setting = |id: u8, value: u32| [&[0, id][..], &value.to_be_bytes()].concat();
    let settings = |window| [setting(3, 200), setting(4, window), setting(5, 1 << 20)].concat();
    let more = (1u32 << 20).to_be_bytes();
    let long = vec![7; 3000];
    let frames = |window: u32, stream_updates: bool| {
        let mut all = vec![frame(SETTINGS, 0, 0, &settings(window)), frame(SETTINGS, ACK, 0, &[])];
        all.push(frame(WINDOW_UPDATE, 0, 0, &more));
        all.push(frame(DATA, 0, 3, &long));
        if stream_updates {
            all.push(frame(WINDOW_UPDATE, 0, 3, &more));
            all.push(frame(WINDOW_UPDATE, 0, 5, &more));
        }
        all.push(frame(HEADERS, END_HEADERS, 5, &long));
        if stream_updates {
            all.push(frame(WINDOW_UPDATE, 0, 7, &more));
        }
        all
    };
    for seed in 0..300 {
        let out = send(&windows(), &frames((1 << 31) - 1, true), seed);
        assert!(out == frames(64 * 1024, false).concat(), "seed {seed}");
    }
}

#[test]
fn what_streams_may_send_is_told_between_frames_and_not_inside_a_header_list() {
    let (windows, mut frames) = (windows(), Frames::new(Role::Server));
    let mut stream = windows.lent(9, 0);
    stream.received(64 * 1024).unwrap();
    stream.taken(64 * 1024, false);
    let mut outgoing = Outgoing::new(windows);
    // A stream that the peer has not opened yet is not spoken of.
    assert!(outgoing.unsent(&frames).is_empty());
    frames.received(&[0; 24]);
    frames.received(&frame(HEADERS, END_HEADERS, 9, &[]));
    let header = frame(HEADERS, 0, 3, &[1; 10]);
    frames.sent(&header[..4]);
    assert!(outgoing.unsent(&frames).is_empty());
    frames.sent(&header[4..]);
    assert!(outgoing.unsent(&frames).is_empty());
    frames.sent(&frame(CONTINUATION, END_HEADERS, 3, &[1; 10]));
    assert_eq!(outgoing.unsent(&frames), frame(WINDOW_UPDATE, 0, 9, &(128u32 * 1024).to_be_bytes()));
}

/// HTTP/2 at the other end ends the tunnel if a stream is named that has crossed its GOAWAY.
#[test]
fn a_client_names_no_stream_that_its_server_has_not_answered() {
    let (windows, mut frames) = (windows(), Frames::new(Role::Client));
    let _streams = [1, 3].map(|id| windows.lent(id, 64 * 1024));
    let mut outgoing = Outgoing::new(windows);
    frames.sent(&[0; 24]);
    [1, 3].into_iter().for_each(|id| frames.sent(&frame(HEADERS, END_HEADERS, id, &[])));
    assert!(outgoing.unsent(&frames).is_empty());
    frames.received(&frame(HEADERS, END_HEADERS, 3, &[]));
    assert_eq!(outgoing.unsent(&frames), frame(WINDOW_UPDATE, 0, 3, &(64u32 * 1024).to_be_bytes()));
}

#[test]
fn settings_that_come_in_parts_are_refused() {
    let settings = frame(SETTINGS, 0, 0, &[0; 60]);
    let mut outgoing = Outgoing::new(windows());
    let bufs = [io::IoSlice::new(&settings[..30])];
    assert!(outgoing.next(&Frames::new(Role::Server), &bufs).is_err());
}

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;

const UNKNOWN: u8 = 0xbe;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { payload: payload.len() as u32, kind, flags, stream };
    [&header.encode(), payload].concat()
}

#[test]
fn headers_and_fields_are_found_in_whatever_pieces_they_come() {
    let settings = [0, 4, 0, 1, 0, 0, 0, 9, 1, 2, 3, 4];
    let frames = [
        frame(DATA, 0, 3, &[0x55]),
        frame(DATA, 0, 3, &[]),
        frame(SETTINGS, 0, 0, &settings),
        frame(SETTINGS, ACK, 0, &[]),
        frame(HEADERS, 0, 3, &[0x55; 40]),
        frame(CONTINUATION, END_HEADERS, 3, &[]),
        frame(WINDOW_UPDATE, 0, 5, &[0x80, 0, 1, 0]),
        frame(WINDOW_UPDATE, 0, 5, &[1]),
        frame(UNKNOWN, 0, 0, &vec![0x55; 70_000]),
        frame(GOAWAY, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 2, 1, 2, 3]),
        frame(PING, 0, 0, &[0; 8]),
    ];
    let header = |bytes: &Vec<u8>| Passed::Frame(Header::of(bytes[..HEADER_BYTES].try_into().unwrap()));
    let mut expected: Vec<Passed> = frames.iter().map(header).collect();
    expected.insert(3, Passed::Setting(INITIAL_WINDOW, 65_536));
    expected.insert(4, Passed::Setting(9, 0x0102_0304));
    expected.insert(9, Passed::Update { stream: 5, more: 256 });
    expected.insert(13, Passed::GoAway(7));
    let all = frames.concat();
    for seed in 0..200 {
        let (mut rng, mut headers, mut found) = (SmallRng::seed_from_u64(seed), Headers::default(), vec![]);
        let mut rest = &all[..];
        while !rest.is_empty() {
            let n = rng.random_range(1..20_000usize).min([1, 9, 20_000][seed as usize % 3]).min(rest.len());
            headers.pass(&rest[..n], |passed, _| found.push(passed));
            rest = &rest[n..];
        }
        assert_eq!(found, expected, "seed {seed}");
        assert!(headers.is_between_frames());
    }
}

#[test]
fn a_place_between_frames_is_reached_by_reading_what_certainly_comes_before_it() {
    let all = [
        frame(HEADERS, 0, 1, &[0x55; 40]),
        frame(CONTINUATION, END_HEADERS, 1, &[0x55; 3]),
        frame(DATA, 0, 1, &[0x55; 100]),
    ];
    let ends = [all[0].len() + all[1].len(), all.concat().len()];
    let all = all.concat();
    for start in 1..all.len() {
        let mut headers = Headers::default();
        headers.pass(&all[..start], |_, _| {});
        let mut at = start;
        while headers.until_boundary() > 0 {
            let next = at + headers.until_boundary();
            headers.pass(&all[at..next], |_, _| {});
            at = next;
        }
        let expected = *ends.iter().find(|end| **end >= start).unwrap();
        assert_eq!(at, expected, "after {start} bytes");
    }
}

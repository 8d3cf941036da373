//! Scripts of HTTP/2 frames, as a peer may write them who follows no rule.

use super::input::Input;

/// The client's connection preface (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// The most copies of a frame that are sent in a row.
const COPIES: usize = 400;

/// A step of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// These bytes are sent.
    Send(Vec<u8>),
    /// So many milliseconds pass.
    Wait(u64),
}

/// One frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, l0, l1, l2] = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![l0, l1, l2, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Empty SETTINGS, with which each end begins.
pub(super) fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[])
}

/// A field of a header block as a literal that is not indexed (RFC 7541 section 6.2.2), without Huffman's code.
fn field(block: &mut Vec<u8>, name: &str, value: &[u8]) {
    block.push(0);
    for text in [name.as_bytes(), value] {
        // A length of seven bits, and the rest of it in the next bytes.
        match text.len().checked_sub(127) {
            None => block.push(text.len() as u8),
            Some(mut rest) => {
                block.push(127);
                while rest >= 128 {
                    block.push(rest as u8 | 128);
                    rest >>= 7;
                }
                block.push(rest as u8);
            }
        }
        block.extend(text);
    }
}

/// A request as the server's end gets it. `authorities`: those that lead somewhere.
fn request(input: &mut Input<'_>, authorities: &[&str]) -> Vec<u8> {
    let mut block = Vec::new();
    field(&mut block, ":method", input.word(&["CONNECT", "CONNECT", "GET"]).as_bytes());
    field(&mut block, ":authority", input.word(authorities).as_bytes());
    for _ in 0..input.below(4) {
        let name = input.word(&["baggage", "forwarded", "traceparent", "x-forwarded-network", ":path"]);
        let value = match input.below(3) {
            0 => b"k8s.namespace.name=far,k8s.deployment.name=stranger".to_vec(),
            1 => b"for=\"10.0.0.9:1\";host=web.ns1.svc.cluster.local".to_vec(),
            _ => input.bytes(400).to_vec(),
        };
        field(&mut block, &name.to_ascii_lowercase(), &value);
    }
    block
}

/// An answer as the client's end gets it.
fn answer(input: &mut Input<'_>) -> Vec<u8> {
    let mut block = Vec::new();
    field(&mut block, ":status", input.word(&["200", "200", "503", "100"]).as_bytes());
    if input.flip() {
        field(&mut block, "baggage", input.bytes(400));
    }
    block
}

/// The steps of a script. `authorities`: those of requests; answers are sent instead if there are none.
pub(super) fn script(input: &mut Input<'_>, authorities: &[&str]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut last = settings();
    for _ in 0..100 {
        if input.is_empty() {
            break;
        }
        let kind = input.below(16);
        if kind == 15 {
            steps.push(Step::Wait([1, 100, 1_000, 10_000][input.below(4)]));
            continue;
        }
        if kind == 14 {
            let copies = input.below(COPIES);
            steps.push(Step::Send(last.repeat(copies)));
            continue;
        }
        last = message(input, kind, authorities);
        steps.push(Step::Send(last.clone()));
    }
    steps
}

fn message(input: &mut Input<'_>, kind: usize, authorities: &[&str]) -> Vec<u8> {
    let stream = if kind < 9 { 1 + 2 * input.below(8) as u32 } else { 0 };
    match kind {
        0 | 1 => {
            let block = if authorities.is_empty() { answer(input) } else { request(input, authorities) };
            frame(HEADERS, END_HEADERS | *input.pick(&[0, 0, 1, 0x20]), stream, &block)
        }
        2 => frame(HEADERS, input.byte(), stream, input.bytes(300)),
        3 => {
            let length = input.below(20_000);
            frame(DATA, *input.pick(&[0, 0, 1]), stream, &vec![b'x'; length])
        }
        4 => frame(DATA, input.byte(), stream, input.bytes(64)),
        5 => frame(RST_STREAM, 0, stream, &u32::from(input.byte()).to_be_bytes()),
        6 => frame(WINDOW_UPDATE, 0, stream, &input.u32().to_be_bytes()),
        7 => frame(PRIORITY, 0, stream, &[0, 0, 0, input.byte(), input.byte()]),
        8 => frame(CONTINUATION, input.byte(), stream, input.bytes(300)),
        9 => {
            let mut payload = Vec::new();
            for _ in 0..input.below(6) {
                payload.extend(u16::from(input.byte() % 10).to_be_bytes());
                payload.extend(input.u32().to_be_bytes());
            }
            frame(SETTINGS, *input.pick(&[0, 0, 1]), 0, &payload)
        }
        10 => frame(PING, *input.pick(&[0, 1]), 0, &[input.byte(); 8]),
        11 => frame(GOAWAY, 0, 0, &[0, 0, 0, input.byte(), 0, 0, 0, input.byte()]),
        12 => frame(input.byte(), input.byte(), input.byte().into(), input.bytes(300)),
        _ => input.bytes(300).to_vec(),
    }
}

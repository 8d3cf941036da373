//! Frames of HTTP/2 as bytes, right or wrong (RFC 9113 and RFC 7541).

/// The types of frames (RFC 9113 section 6).
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
/// A type that no document defines.
pub(super) const UNKNOWN: u8 = 0xEE;

/// The flags of frames.
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// The setting that limits what a peer may send on a new stream.
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The indexes of `:authority` and `:method` in the static table (RFC 7541 appendix A).
const AUTHORITY: u8 = 1;
const METHOD: u8 = 2;
/// The first bits of a field that enters the dynamic table.
const REMEMBERED: u8 = 0x40;

/// One frame. A payload longer than the 24 bits of its length is cut.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).min(0xFF_FFFF);
    let [_, length @ ..] = length.to_be_bytes();
    let mut bytes = length.to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// So many equal frames, one after the other.
pub(super) fn frames(count: usize, kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(kind, 0, stream, payload).repeat(count)
}

/// The first bytes of a client: the preface and its settings.
pub(super) fn opening(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes()))
        .collect();
    [PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()
}

/// The number of the client's stream `n`, counted from 0.
pub(super) fn stream(n: u32) -> u32 {
    (2 * n + 1) & 0x7FFF_FFFF
}

/// The header block of a CONNECT to `authority`.
pub(super) fn connect(authority: &[u8]) -> Vec<u8> {
    [known(METHOD, b"CONNECT"), known(AUTHORITY, authority)].concat()
}

/// The header block of a CONNECT that leaves its fields in the dynamic table, and the block that names them there.
pub(super) fn remembered_connect(authority: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let first = [known(REMEMBERED | METHOD, b"CONNECT"), known(REMEMBERED | AUTHORITY, authority)].concat();
    (first, vec![0x80 | 63, 0x80 | 62])
}

/// A field that enters the dynamic table, and a field of one byte that repeats it.
pub(super) fn bomb(name: &[u8], value: &[u8]) -> (Vec<u8>, u8) {
    ([&[REMEMBERED][..], &text(name), &text(value)].concat(), 0x80 | 62)
}

/// A field that no table remembers.
pub(super) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &text(name), &text(value)].concat()
}

/// A field whose name is in the static table.
fn known(name: u8, value: &[u8]) -> Vec<u8> {
    [&[name][..], &text(value)].concat()
}

/// A string with its length (RFC 7541 section 5.2).
fn text(value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if value.len() < 127 {
        bytes.push(u8::try_from(value.len()).unwrap_or(0));
    } else {
        bytes.push(127);
        let mut rest = value.len() - 127;
        while rest >= 128 {
            bytes.push(u8::try_from(rest % 128).unwrap_or(0) | 0x80);
            rest /= 128;
        }
        bytes.push(u8::try_from(rest).unwrap_or(0));
    }
    bytes.extend_from_slice(value);
    bytes
}

#[cfg(test)]
mod tests;

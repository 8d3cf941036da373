//! HTTP/2 in tunnels (docs/spec/dataplane.md 2.2).

use serde::Serialize;

use super::{
    reader::{Reader, defaults},
    var::Var,
};

const STREAM_WINDOW: Var = Var::number(
    "HTTP2_STREAM_WINDOW_SIZE",
    "4194304",
    "Bytes that a peer may send on a stream before they are taken, at most. While much of `WARREN_BUFFER_BUDGET` is lent, a \
     stream begins with less, and gets more as its reader reads.",
);
const CONNECTION_WINDOW: Var = Var::number(
    "HTTP2_CONNECTION_WINDOW_SIZE",
    "16777216",
    "The same for all streams of a tunnel together. What waits for readers that do not read comes on top, so it stops no \
     other stream.",
);
const FRAME_SIZE: Var =
    Var::number("HTTP2_FRAME_SIZE", "1048576", "The largest frame that is accepted, in bytes.");
const EARLY_DATA: Var = Var::flag(
    "WARREN_EARLY_DATA",
    "true",
    "What a client has said already goes along with the CONNECT to another node's proxy, which saves a round trip \
     between the nodes. With `false` it waits for the answer.",
);

/// The largest window RFC 9113 section 6.9.1 allows.
/// Limit: an HTTP/2 window as a setting: 2^31 - 1 bytes; past it: the setting is refused.
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// The window every connection starts with, which no setting can make smaller (RFC 9113 section 6.9.2).
/// Limit: an HTTP/2 connection window as a setting, at least: 65,535 bytes; past it: the setting is refused.
const CONNECTION_WINDOW_MIN: u32 = 65_535;

/// Flow control of tunnels, sizes in bytes, and what is sent ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Http2Config {
    /// Bytes that a peer may send on a stream before the proxy has taken them.
    pub stream_window: u32,
    /// The bytes that a peer may send on all streams of a connection together.
    pub connection_window: u32,
    /// The largest frame that the proxy accepts.
    pub frame_size: u32,
    /// Whether a client's early bytes are sent with the CONNECT to another node's proxy.
    pub early_data: bool,
}

impl Default for Http2Config {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl Http2Config {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            stream_window: r.number(&STREAM_WINDOW, 1..=WINDOW_MAX),
            connection_window: r.number(&CONNECTION_WINDOW, CONNECTION_WINDOW_MIN..=WINDOW_MAX),
            // The range of RFC 9113 section 6.5.2.
            frame_size: r.number(&FRAME_SIZE, 16_384..=16_777_215),
            early_data: r.boolean(&EARLY_DATA),
        }
    }
}

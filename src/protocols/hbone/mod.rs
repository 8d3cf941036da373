//! HBONE: TCP streams as HTTP/2 CONNECT over mutual TLS (docs/spec/dataplane.md 2).

pub mod adopted;
pub mod budget;
pub mod client;
pub mod frames;
pub mod frozen;
pub mod headers;
pub mod io;
pub mod ledger;
pub mod nested;
mod outgoing;
pub mod server;
pub mod side;
pub mod windows;
mod wire;

#[cfg(test)]
mod tests;

use self::windows::{LARGEST, Windows};
use super::config::Http2Config;

/// The number of streams that a peer may open on one tunnel (docs/spec/dataplane.md 2.2).
/// Limit: streams on a tunnel that a peer dialled: 200; past it: HTTP/2 refuses the stream.
pub const MAX_PEER_STREAMS: u32 = 200;
/// The number of bytes of request headers that a server accepts.
/// Limit: header list of a request: 64 KiB; past it: the stream is refused.
const SERVER_HEADER_LIST: u32 = 64 * 1024;
/// The number of bytes of response headers that a client accepts.
/// Limit: header list of an answer: 16 KiB; past it: the stream is refused.
const CLIENT_HEADER_LIST: u32 = 16 * 1024;
/// The number of locally reset streams whose late frames are still tolerated. The number exceeds the streams of a
/// tunnel, because all streams may be cut at once. A late frame for a forgotten stream counts as the peer's error, and
/// enough such errors end the tunnel.
/// Limit: streams that were reset and are remembered: 1024; past it: a late frame counts as the peer's error.
const MAX_RESET_STREAMS: usize = 1024;
/// The number of streams that the peer may reset before this side accepts the streams (CVE-2023-44487).
/// Limit: streams that a peer has reset and nobody has looked at: 64; past it: the connection ends.
const MAX_PENDING_RESETS: usize = 64;
/// What small frames cost while no stream has taken them: 256 bytes each, less their payload. A turn of a tunnel has 512
/// frames, and its streams then take them.
/// Limit: cost of small frames that a tunnel's streams have not taken: 16 MiB; past it: the connection ends.
const MAX_FRAME_OVERHEAD: usize = 16 << 20;
/// The number of bytes that a stream may queue for sending.
/// Limit: bytes that a stream has queued for sending: 512 KiB; past it: the stream's relay waits.
const SEND_BUFFER: usize = 512 * 1024;
/// The number of bytes that the one stream of an inner tunnel may queue for sending.
/// Limit: bytes that the stream of an inner tunnel has queued for sending: 128 KiB; past it: the stream's relay waits.
const INNER_SEND_BUFFER: usize = 128 * 1024;

/// The windows that HTTP/2 believes in: that of a stream and that of the connection.
///
/// With `windows` the peer is told other windows of streams, and the connection's window is the configured one: what
/// waits for readers is made up for. Without `windows` the connection's window is what all streams' windows need, so that
/// a stalled reader never stops another stream.
/// Limit: window of a tunnel: HTTP2_CONNECTION_WINDOW_SIZE and what waits for readers; past it: the peer waits.
fn believed_windows(config: &Http2Config, windows: Option<&Windows>) -> (u32, u32) {
    if let Some(windows) = windows {
        return (LARGEST, windows.connection());
    }
    let all = u64::from(config.stream_window) * (u64::from(MAX_PEER_STREAMS) + 1);
    let connection = u64::from(config.connection_window).max(all).min(u64::from(LARGEST));
    (config.stream_window, u32::try_from(connection).unwrap_or(LARGEST))
}

//! HBONE: TCP streams as HTTP/2 CONNECT over mutual TLS (docs/spec/dataplane.md 2).

pub mod client;
pub mod headers;
pub mod io;
pub mod server;
pub mod side;

#[cfg(test)]
mod tests;

use super::config::Http2Config;

/// Streams that a peer may open on one tunnel (docs/spec/dataplane.md 2.2).
/// Limit: streams on a tunnel that a peer dialled: 200; past it: HTTP/2 refuses the stream.
pub const MAX_PEER_STREAMS: u32 = 200;
/// Bytes of request headers a server accepts.
/// Limit: header list of a request: 64 KiB; past it: the stream is refused.
const SERVER_HEADER_LIST: u32 = 64 * 1024;
/// Bytes of response headers a client accepts.
/// Limit: header list of an answer: 16 KiB; past it: the stream is refused.
const CLIENT_HEADER_LIST: u32 = 16 * 1024;
/// Streams that we have reset lately and whose late frames are still tolerated. More than a tunnel has streams, as all
/// may be cut at once: a frame for one that is forgotten counts as the peer's error, and enough of those end the tunnel.
/// Limit: streams that were reset and are remembered: 1024; past it: a late frame counts as the peer's error.
const MAX_RESET_STREAMS: usize = 1024;
/// Streams that the peer may have reset before we have looked at them (CVE-2023-44487).
/// Limit: streams that a peer has reset and nobody has looked at: 64; past it: the connection ends.
const MAX_PENDING_RESETS: usize = 64;
/// Bytes that a stream may have queued for sending.
/// Limit: bytes that a stream has queued for sending: 512 KiB; past it: the stream's relay waits.
const SEND_BUFFER: usize = 512 * 1024;

/// The connection window that no sum of stalled streams can use up, so that one stalled reader never stops another
/// stream: the configured one, or all streams' windows together if that is more.
/// Limit: window of a tunnel: all windows of its streams together, at most 2^31 - 1 bytes; past it: the peer waits.
fn uncoupled_window(config: &Http2Config) -> u32 {
    let all = u64::from(config.stream_window) * (u64::from(MAX_PEER_STREAMS) + 1);
    let most = u64::from(u32::MAX >> 1);
    u32::try_from(u64::from(config.connection_window).max(all).min(most)).unwrap_or(u32::MAX >> 1)
}

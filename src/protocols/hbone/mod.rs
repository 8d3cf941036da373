//! HBONE: TCP streams as HTTP/2 CONNECT over mutual TLS (contract/dataplane.md section 2).

pub mod client;
pub mod headers;
pub mod io;
pub mod server;
pub mod side;

#[cfg(test)]
mod tests;

use super::config::Http2Config;

/// Streams that a peer may open on one tunnel (contract/dataplane.md section 2.2).
pub const MAX_PEER_STREAMS: u32 = 200;
/// Bytes of request headers a server accepts.
const SERVER_HEADER_LIST: u32 = 64 * 1024;
/// Bytes of response headers a client accepts.
const CLIENT_HEADER_LIST: u32 = 16 * 1024;
/// Streams that we have reset lately and whose late frames are still tolerated. More than a tunnel has streams, as all
/// may be cut at once: a frame for one that is forgotten counts as the peer's error, and enough of those end the tunnel.
const MAX_RESET_STREAMS: usize = 1024;
/// Streams that the peer may have reset before we have looked at them (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 64;
/// Bytes that a stream may have queued for sending.
const SEND_BUFFER: usize = 512 * 1024;

/// The connection window that no sum of stalled streams can use up, so that one stalled reader never stops another
/// stream: the configured one, or all streams' windows together if that is more.
fn uncoupled_window(config: &Http2Config) -> u32 {
    let all = u64::from(config.stream_window) * (u64::from(MAX_PEER_STREAMS) + 1);
    let most = u64::from(u32::MAX >> 1);
    u32::try_from(u64::from(config.connection_window).max(all).min(most)).unwrap_or(u32::MAX >> 1)
}

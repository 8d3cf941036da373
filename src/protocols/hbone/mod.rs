//! HBONE: TCP streams as HTTP/2 CONNECT over mutual TLS (docs/spec/dataplane.md 2).

pub mod client;
pub mod headers;
pub mod io;
pub mod server;
pub mod side;

#[cfg(test)]
mod tests;

/// HTTP/2 settings and bounds of a tunnel (docs/spec/dataplane.md 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Settings {
    /// Initial window of a stream in bytes.
    pub stream_window: u32,
    /// Window of the whole connection in bytes; at least what all streams together may hold.
    pub connection_window: u32,
    /// Largest frame we accept in bytes.
    pub frame_size: u32,
    /// Streams a peer may open on one connection.
    pub max_streams: u32,
}

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

// === impl Http2Settings ===

impl Default for Http2Settings {
    fn default() -> Self {
        Self { stream_window: 4 << 20, connection_window: 16 << 20, frame_size: 1 << 20, max_streams: 200 }
    }
}

impl Http2Settings {
    /// The connection window that no sum of stalled streams can use up, so that one stalled reader never stops
    /// another stream: the configured one, or all streams' windows together if that is more.
    /// Limit: window of a tunnel: all windows of its streams together, at most 2^31 - 1 bytes; past it: the peer
    /// waits.
    pub fn uncoupled_window(&self) -> u32 {
        let all = u64::from(self.stream_window) * (u64::from(self.max_streams) + 1);
        let most = u64::from(u32::MAX >> 1);
        u32::try_from(u64::from(self.connection_window).max(all).min(most)).unwrap_or(u32::MAX >> 1)
    }
}

//! The client's end of a tunnel: opening it, and opening streams on it.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{
    Reason,
    client::{Connection, SendRequest},
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, uri::Authority};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    CLIENT_HEADER_LIST, INNER_SEND_BUFFER, MAX_FRAME_OVERHEAD, MAX_PENDING_RESETS, MAX_RESET_STREAMS,
    SEND_BUFFER, believed_windows,
    headers::{BAGGAGE, FORWARDED, FORWARDED_NETWORK, TRACEPARENT, TraceParent},
    side::{Received, StreamSide},
    windows::{LARGEST, Windows},
};
use crate::protocols::{addr::HboneAddr, config::Http2Config};

/// The number of streams that may be opened before the peer's settings are known, unless the caller says otherwise.
/// Limit: streams on a tunnel before the peer's limit is known: 100, or POOL_MAX_STREAMS_PER_CONNECTION in a pool; past
/// it: another tunnel is dialled.
const INITIAL_STREAMS: usize = 100;

/// The contents of a CONNECT request. All optional headers may be absent.
#[derive(Clone, Debug)]
pub struct ConnectRequest {
    /// The destination.
    pub authority: HboneAddr,
    /// The source workload.
    pub baggage: Option<HeaderValue>,
    /// The client's address and the service it asked for.
    pub forwarded: Option<HeaderValue>,
    /// Trace context.
    pub trace: TraceParent,
    /// The own network, which only the inner tunnel of a double HBONE carries.
    pub network: Option<HeaderValue>,
}

/// Opens the streams of a tunnel.
#[derive(Clone, Debug)]
pub struct Opener {
    send: SendRequest<Bytes>,
    windows: Option<Windows>,
}

/// Why a stream was not opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The text of the authority cannot be a URI authority.
    #[error("invalid authority: {0}")]
    LocalAuthority(String),
    /// The tunnel failed, or is going away.
    #[error("h2 failed: {error}")]
    Tunnel {
        /// The error of HTTP/2.
        error: h2::Error,
        /// Whether the peer has certainly processed neither the request nor its early data. If false, the peer may have
        /// processed them.
        unprocessed: bool,
    },
    /// The peer refused with this status.
    #[error("http status: {0}")]
    PeerStatus(StatusCode),
}

/// Starts HTTP/2 as a client over `io`. The connection must be driven for anything to happen.
///
/// # Errors
/// The connection broke.
pub async fn handshake<Io: AsyncRead + AsyncWrite + Unpin>(
    io: Io,
    config: &Http2Config,
) -> Result<(SendRequest<Bytes>, Connection<Io, Bytes>), h2::Error> {
    handshake_within(io, config, INITIAL_STREAMS, None).await
}

/// Works like [`handshake`], with these windows if `io` has the peer told of them. At most `initial_streams` streams are
/// opened before the peer's settings are known.
///
/// # Errors
/// The connection broke.
pub async fn handshake_within<Io: AsyncRead + AsyncWrite + Unpin>(
    io: Io,
    config: &Http2Config,
    initial_streams: usize,
    windows: Option<&Windows>,
) -> Result<(SendRequest<Bytes>, Connection<Io, Bytes>), h2::Error> {
    let (stream, connection) = believed_windows(config, windows);
    builder(config, stream)
        .initial_connection_window_size(connection)
        .initial_max_send_streams(initial_streams)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake(io)
        .await
}

/// Starts HTTP/2 as a client of an inner tunnel over `io`, which has the peer told of the tunnel's windows. An inner
/// tunnel carries one stream, so its connection needs no window of its own.
///
/// # Errors
/// The connection broke.
pub async fn inner_handshake<Io: AsyncRead + AsyncWrite + Unpin>(
    io: Io,
    config: &Http2Config,
) -> Result<(SendRequest<Bytes>, Connection<Io, Bytes>), h2::Error> {
    builder(config, LARGEST)
        .initial_connection_window_size(config.stream_window.saturating_mul(2).min(LARGEST))
        .initial_max_send_streams(1)
        .max_send_buffer_size(INNER_SEND_BUFFER)
        .handshake(io)
        .await
}

/// The settings that all tunnels share.
fn builder(config: &Http2Config, stream_window: u32) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(stream_window)
        .max_frame_size(config.frame_size)
        .max_header_list_size(CLIENT_HEADER_LIST)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .data_frame_budget(MAX_FRAME_OVERHEAD)
        .enable_push(false);
    builder
}

/// Opens a stream, waits for its 200, and returns the stream with the headers of the answer. `early_data`, which may be
/// empty, is sent with the request. The caller keeps a copy of `early_data` for a retry.
///
/// # Errors
/// See [`ConnectError`]. There is no timeout: the caller sets the deadline.
pub async fn connect(
    tunnel: impl Into<Opener>,
    request: ConnectRequest,
    early_data: Bytes,
) -> Result<(StreamSide, HeaderMap), ConnectError> {
    let Opener { send: mut tunnel, windows } = tunnel.into();
    let request = request.into_http()?;
    poll_fn(|cx| tunnel.poll_ready(cx)).await.map_err(unsent)?;
    let (response, mut send) = tunnel.send_request(request, false).map_err(unsent)?;
    // The peer is told of the window with the request.
    let window = windows.map(|windows| Box::new(windows.of(send.stream_id().into())));
    let early = early_data.len();
    if !early_data.is_empty() {
        send.send_data(early_data, false).map_err(unsent)?;
    }
    // The handle counts against the tunnel's life; the stream itself keeps it alive.
    drop(tunnel);
    let response = response.await.map_err(unanswered)?;
    if response.status() != StatusCode::OK {
        return Err(ConnectError::PeerStatus(response.status()));
    }
    let (head, body) = response.into_parts();
    let side = StreamSide::new(send, Received::with(body, window)).having_sent(early);
    Ok((side, head.headers))
}

fn unsent(error: h2::Error) -> ConnectError {
    ConnectError::Tunnel { error, unprocessed: true }
}

/// Turns the failure of a request that was sent into a [`ConnectError`].
fn unanswered(error: h2::Error) -> ConnectError {
    // A GOAWAY of the peer names the last request that the peer processes, and later requests fail with this error.
    // The peer has not processed a request that it refused with REFUSED_STREAM (RFC 9113 section 8.7).
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    let unprocessed = error.is_remote() && (error.is_go_away() || refused);
    ConnectError::Tunnel { error, unprocessed }
}

// === impl Opener ===

impl Opener {
    /// Opens streams with these windows.
    pub fn new(send: SendRequest<Bytes>, windows: Windows) -> Self {
        Self { send, windows: Some(windows) }
    }

    /// Polls until the window of the connection has to change. The result is the new window in bytes.
    pub fn poll_window_changed(&self, cx: &Context<'_>) -> Poll<u32> {
        self.windows.as_ref().map_or(Poll::Pending, |windows| windows.poll_changed(cx))
    }

    /// The handle of HTTP/2, once it may open a stream.
    #[cfg(test)]
    pub(crate) async fn ready(self) -> Result<SendRequest<Bytes>, h2::Error> {
        self.send.ready().await
    }

    /// The number of streams that the peer permits.
    pub fn current_max_send_streams(&self) -> usize {
        self.send.current_max_send_streams()
    }
}

/// Streams with the windows that HTTP/2 believes in.
impl From<SendRequest<Bytes>> for Opener {
    fn from(send: SendRequest<Bytes>) -> Self {
        Self { send, windows: None }
    }
}

// === impl ConnectRequest ===

impl ConnectRequest {
    fn into_http(self) -> Result<Request<()>, ConnectError> {
        let authority = Authority::from_maybe_shared(Bytes::from(self.authority.to_string()))
            .map_err(|_| ConnectError::LocalAuthority(self.authority.to_string()))?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = Uri::from(authority);
        let headers = request.headers_mut();
        headers.insert(TRACEPARENT, self.trace.encode());
        let rest = [(BAGGAGE, self.baggage), (FORWARDED, self.forwarded), (FORWARDED_NETWORK, self.network)];
        for (name, value) in rest {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        Ok(request)
    }
}

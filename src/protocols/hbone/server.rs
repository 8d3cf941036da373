//! The server's end of a tunnel: reading CONNECT requests and answering them.

use bytes::Bytes;
use h2::{
    SendStream,
    server::{Connection, SendResponse},
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    MAX_FRAME_OVERHEAD, MAX_PEER_STREAMS, MAX_PENDING_RESETS, MAX_RESET_STREAMS, SEND_BUFFER,
    SERVER_HEADER_LIST, believed_windows,
    headers::{self, BAGGAGE, FORWARDED_NETWORK},
    windows::Windows,
};
use crate::protocols::{
    addr::{AuthorityError, HboneAddr},
    config::Http2Config,
    peer_text::{PeerHost, PeerText},
};

/// The number of local resets that a peer may provoke in the life of its connection (CVE-2025-8671).
/// Limit: resets that a peer may provoke in a connection's life: 1024; past it: the connection ends.
const MAX_LOCAL_RESETS: usize = 1024;

/// The contents of a CONNECT request that was received.
#[derive(Clone, Debug)]
pub struct Connect {
    /// The destination.
    pub authority: HboneAddr,
    /// The service name the client asked for, for telemetry only.
    pub host: Option<PeerHost>,
    /// The client's network, if the request names the network.
    pub network: Option<PeerText>,
}

/// Why a request is refused. The server answers each of these requests with 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The method is not CONNECT.
    #[error("expected method CONNECT, got {0}")]
    PeerMethod(PeerText),
    /// The authority is missing, or is neither `ip:port` nor `host:port`.
    #[error("{0}")]
    PeerAuthority(#[from] AuthorityError),
}

/// Starts HTTP/2 as a server over `io` and waits for the client's preface.
///
/// # Errors
/// The peer speaks something else, or the connection broke.
pub async fn handshake<Io: AsyncRead + AsyncWrite + Unpin>(
    io: Io,
    config: &Http2Config,
) -> Result<Connection<Io, Bytes>, h2::Error> {
    handshake_within(io, config, None).await
}

/// Works like [`handshake`], with these windows if `io` has the peer told of them.
///
/// # Errors
/// As [`handshake`].
pub async fn handshake_within<Io: AsyncRead + AsyncWrite + Unpin>(
    io: Io,
    config: &Http2Config,
    windows: Option<&Windows>,
) -> Result<Connection<Io, Bytes>, h2::Error> {
    let (stream, connection) = believed_windows(config, windows);
    h2::server::Builder::new()
        .initial_window_size(stream)
        .initial_connection_window_size(connection)
        .max_frame_size(config.frame_size)
        .max_header_list_size(SERVER_HEADER_LIST)
        .max_concurrent_streams(MAX_PEER_STREAMS)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
        .data_frame_budget(MAX_FRAME_OVERHEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake(io)
        .await
}

/// Reads a request's head.
///
/// # Errors
/// The request is not a CONNECT with a usable authority.
pub fn parse<B>(request: &Request<B>) -> Result<Connect, BadRequest> {
    if request.method() != Method::CONNECT {
        return Err(BadRequest::PeerMethod(request.method().as_str().into()));
    }
    let authority = request.uri().authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let map = request.headers();
    Ok(Connect {
        authority: authority.parse()?,
        host: headers::forwarded_host(map).map(PeerHost::new),
        network: map.get(FORWARDED_NETWORK).and_then(|v| v.to_str().ok()).map(PeerText::new),
    })
}

/// Answers 200 and returns the stream's sending half.
///
/// # Errors
/// The stream was reset meanwhile.
pub fn accept(
    respond: &mut SendResponse<Bytes>,
    baggage: Option<HeaderValue>,
) -> Result<SendStream<Bytes>, h2::Error> {
    let mut response = Response::new(());
    if let Some(baggage) = baggage {
        response.headers_mut().insert(BAGGAGE, baggage);
    }
    respond.send_response(response, false)
}

/// Answers with an error status and ends the stream.
pub fn refuse(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // A stream that was reset meanwhile needs no answer.
    let _ = respond.send_response(response, true);
}

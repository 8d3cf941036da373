//! Channels of gRPC over TLS.

use std::{error::Error as StdError, time::Duration};

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::{connector, error::GrpcError, target::GrpcTarget};

/// The largest decoded size of a response. Set this size on every client stub (`max_decoding_message_size`): a full
/// push of a big mesh is far larger than tonic's default of 4 MiB.
/// Limit: one response of the control plane, decoded: 200 MiB; past it: the stream ends.
pub(crate) const MAX_RESPONSE_BYTES: usize = 200 << 20;

/// Limit: window of a stream of the control plane: 2 MiB; past it: the server waits.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Limit: window of the control plane's connection: 5 MiB; past it: the server waits.
const CONNECTION_WINDOW_BYTES: u32 = 5 << 20;
/// Limit: time between two PINGs to the control plane: 30 s; past it: a PING is sent.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Limit: answer of the control plane to a PING: 10 s; past it: the connection ends.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to `target` and returns once TLS is established.
///
/// If a later request finds the connection gone, the channel connects again by the same rules and reads the roots
/// again. [`cause`] finds the failed step in the status of such a request.
pub(crate) async fn connect(target: &GrpcTarget) -> Result<Channel, GrpcError> {
    let endpoint = endpoint(target)?;
    let connector = connector::TlsConnector::new(target.clone());
    endpoint.connect_with_connector(connector).await.map_err(|e| unwind(target, &e))
}

/// A channel to `target` that connects with the first request, by the rules of [`connect`].
///
/// # Errors
/// The target's address is invalid.
pub(crate) fn lazily(target: &GrpcTarget) -> Result<Channel, GrpcError> {
    let connector = connector::TlsConnector::new(target.clone());
    Ok(endpoint(target)?.connect_with_connector_lazy(connector))
}

/// A TLS connection to `target` for HTTP/1.1.
///
/// # Errors
/// See [`GrpcError`]. The target's timeout bounds the call.
pub(crate) async fn http1(target: &GrpcTarget) -> Result<TlsStream<TcpStream>, GrpcError> {
    connector::open(target, b"http/1.1").await
}

/// The failed connection attempt behind `status`, if `status` comes from such an attempt.
pub(crate) fn cause(status: &tonic::Status) -> Option<GrpcError> {
    find(status)
}

fn endpoint(target: &GrpcTarget) -> Result<Endpoint, GrpcError> {
    let endpoint = Endpoint::from_shared(format!("https://{target}"))
        .map_err(|e| GrpcError::LocalAddress { address: target.to_string(), reason: e.to_string() })?;
    Ok(endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(false))
}

/// The error of the proxy's own connector, unwrapped from the errors that tonic adds.
fn unwind(target: &GrpcTarget, error: &(dyn StdError + 'static)) -> GrpcError {
    find(error).unwrap_or_else(|| {
        let mut reason = error.to_string();
        let mut next = error.source();
        while let Some(e) = next {
            reason = format!("{reason}: {e}");
            next = e.source();
        }
        GrpcError::PeerHttp2 { host: target.address.host.clone(), port: target.address.port, reason }
    })
}

fn find(error: &(dyn StdError + 'static)) -> Option<GrpcError> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(ours) = e.downcast_ref::<GrpcError>() {
            return Some(ours.clone());
        }
        next = e.source();
    }
    None
}

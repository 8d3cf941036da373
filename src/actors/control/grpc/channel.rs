//! Channels over TLS.

use std::{error::Error as StdError, time::Duration};

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::{connector, error::GrpcError, target::GrpcTarget};

/// What a response may measure at most, decoded; set it on every client stub
/// (`max_decoding_message_size`): a full push of a big mesh is far above tonic's default of 4 MiB.
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

/// Connects to `target` and returns once TLS stands.
///
/// The channel connects again by itself when a later request finds the connection gone, by the same rules and with
/// the roots read anew; [`cause`] then finds the failed step in the status.
pub(crate) async fn connect(target: &GrpcTarget) -> Result<Channel, GrpcError> {
    let endpoint = endpoint(target)?;
    let connector = connector::TlsConnector::new(target.clone());
    endpoint.connect_with_connector(connector).await.map_err(|e| unwind(target, &e))
}

/// A channel to `target` that connects with the first request, by the rules of [`connect`].
///
/// # Errors
/// The target's address is none.
pub(crate) fn lazily(target: &GrpcTarget) -> Result<Channel, GrpcError> {
    let connector = connector::TlsConnector::new(target.clone());
    Ok(endpoint(target)?.connect_with_connector_lazy(connector))
}

/// A TLS connection to `target` for HTTP/1.1.
///
/// # Errors
/// See [`GrpcError`]; bounded by the target's timeout.
pub(crate) async fn http1(target: &GrpcTarget) -> Result<TlsStream<TcpStream>, GrpcError> {
    connector::open(target, b"http/1.1").await
}

/// The failed connection attempt behind `status`, if that is what it was.
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

/// What our connector said, from under the layers tonic wraps around it.
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

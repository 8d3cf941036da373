//! The inner tunnel of a double HBONE: TLS and HTTP/2 over one stream of a tunnel to a gateway. An inner tunnel carries
//! one stream, is never shared, and runs in the task of its connection.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::client::Connection;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::time::timeout;

use super::{keepalive, now, windows};
use crate::{
    dataplane::{
        config::DataPlaneConfig,
        pod::{
            PodId,
            conns::{PodConns, TunnelInfo},
        },
    },
    protocols::{
        hbone::{
            client::{self, Opener},
            frames::Role,
            io::{Coalesced, Flush, coalesced_within},
            nested::{InnerTls, StreamIo},
            side::StreamSide,
        },
        identity::Identity,
        labels::Reporter,
        outcome::{Cause, Failure},
        route::{Sans, failover::AttemptError},
        tls::{
            ALPN_H2, WorkloadCert,
            handshake::{self, HandshakeError},
        },
    },
    runtime::{
        conns::{Conn, CutReason},
        shard::Shard,
        turns::{Source, SourceTurns},
    },
    telemetry::metrics::Metrics,
};

/// The time that a tunnel takes to send its last bytes and to hear that they have arrived.
/// Limit: the end of an inner tunnel: 5 s; past it: the outer stream is reset.
const END_WITHIN: Duration = Duration::from_secs(5);

/// What an inner tunnel needs besides the outer stream.
pub(crate) struct InnerDial<'a> {
    /// The gateway, for errors.
    pub(crate) gateway: SocketAddr,
    /// The pod's certificate.
    pub(crate) cert: &'a WorkloadCert,
    /// The identities that the other end may have.
    pub(crate) sans: &'a Sans,
    /// The shard of the connection.
    pub(crate) shard: &'a Shard,
    /// The pod whose handshake it is.
    pub(crate) id: &'a PodId,
    /// The pod's live connections, tunnels among them.
    pub(crate) conns: &'a PodConns,
    /// Counters.
    pub(crate) metrics: &'a Metrics,
    /// Settings.
    pub(crate) config: &'a Arc<DataPlaneConfig>,
}

/// An established inner tunnel.
pub(crate) struct InnerTunnel {
    /// The connection while it works, boxed to keep the futures that hold the tunnel small.
    connection: Option<Box<Connection<Coalesced<InnerTls>, Bytes>>>,
    flush: Flush<InnerTls>,
    /// Ends when the other end has not answered a PING in time.
    silent: Pin<Box<dyn Future<Output = ()>>>,
    /// The entry by which a revocation list cuts the tunnel, if revocation lists are configured.
    watched: Option<Conn<TunnelInfo>>,
}

/// The result of setting an inner tunnel up.
pub(crate) struct Inner {
    /// The tunnel, which works only while it is driven.
    pub(crate) tunnel: InnerTunnel,
    /// The handle for the one stream.
    pub(crate) send: Opener,
    /// The identity of the other end, by mutual TLS.
    pub(crate) identity: Option<Identity>,
}

/// The reason why there is no inner tunnel. Nothing was sent to the application.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InnerError {
    /// The TLS handshake failed.
    #[error("inner tunnel by {gateway}: {error}")]
    Tls {
        /// The gateway's address.
        gateway: SocketAddr,
        /// The error of the handshake.
        #[source]
        error: HandshakeError,
    },
    /// The TLS handshake did not complete in time.
    #[error("inner tunnel by {gateway}: TLS handshake not completed within {after:?}")]
    TlsTimedOut {
        /// The gateway's address.
        gateway: SocketAddr,
        /// The timeout.
        after: Duration,
    },
    /// A certificate of the other end was revoked since the handshake.
    #[error("inner tunnel by {gateway}: certificate revoked")]
    Revoked {
        /// The gateway's address.
        gateway: SocketAddr,
    },
    /// The pod is ending.
    #[error("inner tunnel by {gateway}: the pod dials no more")]
    Closed {
        /// The gateway's address.
        gateway: SocketAddr,
    },
    /// The way to the destination was slow, and another endpoint was to be had.
    #[error("inner tunnel by {gateway}: not established within {after:?}")]
    Slow {
        /// The gateway's address.
        gateway: SocketAddr,
        /// How long the gateway and the destination had.
        after: Duration,
    },
    /// The other end did not agree on HTTP/2 inside TLS.
    #[error("inner tunnel by {gateway}: peer does not speak h2")]
    Alpn {
        /// The gateway's address.
        gateway: SocketAddr,
    },
    /// HTTP/2 did not start.
    #[error("inner tunnel by {gateway}: {error}")]
    Http2 {
        /// The gateway's address.
        gateway: SocketAddr,
        /// The error of HTTP/2.
        error: String,
    },
}

/// Sets an inner tunnel up over `outer`, a stream of a tunnel to the gateway.
///
/// # Errors
/// See [`InnerError`].
pub(crate) async fn establish(dial: &InnerDial<'_>, outer: StreamSide) -> Result<Inner, InnerError> {
    let gateway = dial.gateway;
    let after = dial.config.timeouts.client_handshake();
    let sans = dial.sans.to_vec();
    // The verifier checks the SPIFFE id. The address given as server name is never compared nor sent.
    let name = gateway.ip().into();
    let turns = SourceTurns::of(dial.shard, Source::Pod(dial.id.serial));
    let (config, buffers) = (dial.cert.client_config(&sans), dial.shard.buffers.clone());
    let shake = handshake::connect_in_turn(config, name, StreamIo::new(outer), buffers, &turns);
    let (stream, peer) = match timeout(after, shake).await {
        Ok(shaken) => shaken.map_err(|error| {
            if error.is_revocation() {
                dial.metrics.crl.rejected(Reporter::Source);
            }
            InnerError::Tls { gateway, error }
        })?,
        Err(_) => return Err(InnerError::TlsTimedOut { gateway, after }),
    };
    if peer.alpn.as_deref() != Some(ALPN_H2) {
        return Err(InnerError::Alpn { gateway });
    }
    let windows = windows(dial.config, dial.shard);
    let (io, mut flush) = coalesced_within(InnerTls::new(stream), Role::Client, &windows);
    let failed = |error: String| InnerError::Http2 { gateway, error };
    let begun = flush.drive(now, client::inner_handshake(io, &dial.config.tunnel.http2));
    let (send, mut connection) = match timeout(dial.config.timeouts.h2_settings, begun).await {
        Ok(Ok(Ok(begun))) => begun,
        Ok(Ok(Err(error))) => return Err(failed(error.to_string())),
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed("timed out".into())),
    };
    let identity = WorkloadCert::server_identity(&peer.certificates, &sans);
    let watched = watch(dial, peer.certificates)?;
    if let Some(watched) = &watched {
        watched.info().set_up(identity.clone());
    }
    let silent = Box::pin(keepalive::silent(dial.config.clone(), connection.ping_pong()));
    let tunnel = InnerTunnel { connection: Some(Box::new(connection)), flush, silent, watched };
    Ok(Inner { tunnel, send: Opener::new(send, windows), identity })
}

/// Has revocation lists cut the tunnel to a server with these certificates, if revocation lists are configured.
fn watch(
    dial: &InnerDial<'_>,
    certs: Vec<CertificateDer<'static>>,
) -> Result<Option<Conn<TunnelInfo>>, InnerError> {
    let gateway = dial.gateway;
    let Some(chain) = dial.cert.server_chain(certs, UnixTime::now()) else { return Ok(None) };
    let watched = dial.conns.dialled.admit(dial.shard.index(), TunnelInfo::new(gateway));
    let watched = watched.map_err(|_| InnerError::Closed { gateway })?;
    if watched.info().keep(Some(chain), &dial.metrics.crl, Reporter::Source) {
        Ok(Some(watched))
    } else {
        Err(InnerError::Revoked { gateway })
    }
}

// === impl InnerTunnel ===

impl InnerTunnel {
    /// Awaits `work`, which uses the stream of the tunnel, and drives the tunnel meanwhile. A stream of a tunnel that
    /// has ended fails.
    ///
    /// # Errors
    /// A revocation list has cut the tunnel.
    pub(crate) async fn drive<T>(&mut self, work: impl Future<Output = T>) -> Result<T, CutReason> {
        let watched = self.watched.clone();
        let mut work = std::pin::pin!(work);
        let driving = poll_fn(|cx| {
            let done = work.as_mut().poll(cx);
            self.poll(cx);
            done
        });
        match &watched {
            Some(watched) => watched.guard(driving).await,
            None => Ok(driving.await),
        }
    }

    /// Ends the tunnel, whose stream has ended: sends what is left, says goodbye, and waits for the other end to do
    /// the same. A reset of the outer stream could overtake the last bytes on the gateway.
    pub(crate) async fn end(mut self) {
        if self.connection.is_none() {
            return;
        }
        let ended = poll_fn(|cx| {
            self.poll(cx);
            if self.connection.is_some() { Poll::Pending } else { self.flush.poll_end(cx) }
        });
        // Whatever is left is dropped.
        let _ = timeout(END_WITHIN, ended).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else { return };
        // The tunnel has ended, has broken, or has a peer that floods it.
        let over = self.flush.poll_turn(now, cx, |cx| Pin::new(connection).poll(cx)).is_ready();
        if over || self.silent.as_mut().poll(cx).is_ready() {
            // The drop fails the stream, and wakes whoever uses the stream.
            self.connection = None;
        }
    }
}

// === impl InnerError ===

impl InnerError {
    /// Whether the gateway or the other end was silent, so that the outer tunnel may be broken.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::TlsTimedOut { .. })
    }
}

impl From<InnerError> for AttemptError {
    fn from(error: InnerError) -> Self {
        Self::Inner(match error {
            InnerError::Tls { .. }
            | InnerError::TlsTimedOut { .. }
            | InnerError::Alpn { .. }
            | InnerError::Revoked { .. } => Failure::Tls(Cause::of(error)),
            InnerError::Slow { .. } | InnerError::Closed { .. } => Failure::Dial(Cause::of(error)),
            InnerError::Http2 { .. } => Failure::H2Handshake(Cause::of(error)),
        })
    }
}

//! The task that dials and drives a tunnel. The task runs on the shard whose streams the tunnel carries.

use std::{
    fmt::Display,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Ping, PingPong, client::Connection};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::time::{sleep, timeout};

use super::{
    dialer::{DialError, TunnelKey},
    movable::{MovableTunnel, OwnTunnel},
    now,
    pool::{PodPool, Tunnel},
    windows,
};
use crate::{
    dataplane::{
        certificates::Certificates,
        config::DataPlaneConfig,
        pod::{
            PodId,
            conns::{PodConns, TunnelInfo},
            network::{Network, PodNetwork},
        },
        stream::AppStream,
    },
    protocols::{
        handover::record::Kind,
        hbone::{
            client::{self, Opener},
            frames::Role,
            io::{Coalesced, Flush, coalesced_within},
        },
        identity::Identity,
        labels::Reporter,
        peer_text::Clipped,
        tls::{ALPN_H2, WorkloadCert, handshake, stream::TlsStream},
    },
    runtime::{
        conns::Conn,
        fair_queue::FlushDelay,
        shard::Shard,
        turns::{Source, SourceTurns},
    },
    sys::pacing::PathScope,
    telemetry::{
        events::EventKind,
        metrics::Metrics,
        setup::SetupStep,
        trace::span::{self, SpanKind, Step},
    },
};

/// The time after which an unanswered PING makes a tunnel unhealthy, well before the tunnel is given up.
/// Limit: PING of a tunnel without an answer: 1 s; past it: new streams prefer other tunnels.
const UNHEALTHY_AFTER: Duration = Duration::from_secs(1);

/// How long a new tunnel is kept for the streams that it was dialled for.
/// No limit: a lower bound of POOL_UNUSED_RELEASE_TIMEOUT before the first stream.
const KEPT_FOR_FIRST_STREAM: Duration = Duration::from_secs(1);
/// How long a tunnel that is released may take to end. What its last stream had to say is sent meanwhile.
/// Limit: end of a tunnel that nobody uses: 60 s; past it: the connection is closed.
const FAREWELL: Duration = Duration::from_secs(60);

/// The release timeout from which on a tunnel looks now and then whether it has a stream.
/// No limit: a way to wait.
const LOOK_INSTEAD: Duration = Duration::from_secs(1);
/// Why a tunnel ended that nobody used.
const UNUSED: &str = "unused";

/// The context of a pod's dials.
pub(crate) struct DialContext<N: Network = PodNetwork> {
    /// The pod that dials.
    pub(crate) id: Arc<PodId>,
    /// The network in which connections are made.
    pub(crate) network: Arc<N>,
    /// The pod's live connections, tunnels among them.
    pub(crate) conns: Arc<PodConns>,
    /// Certificates of this node's workloads.
    pub(crate) certs: Arc<dyn Certificates>,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Settings.
    pub(crate) config: Arc<DataPlaneConfig>,
}

/// The callback that gets the outcome of a dial once.
pub(crate) type Ready = Box<dyn FnOnce(Result<(), Arc<DialError>>) + Send>;

/// An HTTP/2 connection, boxed to keep the futures that hold the connection small.
type Http2<S> = Box<Connection<Coalesced<TlsStream<S>>, Bytes>>;

/// The start of HTTP/2: the handle for streams, the connection, and what flushes the connection.
type Begun<S> = (Opener, Http2<S>, Flush<TlsStream<S>>);

/// A tunnel that is established and not driven yet.
struct Established<S> {
    opener: Opener,
    connection: Http2<S>,
    flush: Flush<TlsStream<S>>,
    /// The identity of the peer, by mutual TLS.
    identity: Option<Identity>,
}

/// Dials `key` and, if the dial succeeds, drives the tunnel until the tunnel ends. Returns whether the dial succeeded.
pub(crate) async fn run<N: Network>(
    shard: Shard,
    ctx: Arc<DialContext<N>>,
    key: TunnelKey,
    step: Step,
    ready: Ready,
) -> bool {
    // A pod that ends waits for the sockets of its dials to close.
    let Ok(member) = ctx.conns.dialled.admit(shard.index(), TunnelInfo::new(key.to)) else {
        // `dialled` never closes admission.
        ready(Err(Arc::new(DialError::Refused("the pod dials no more".into()))));
        return false;
    };
    // The future is boxed, as the outer futures would hold the inner future several times.
    Box::pin(carry(&shard, &ctx, (&key, &member), step, ready)).await
}

async fn carry<N: Network>(
    shard: &Shard,
    ctx: &Arc<DialContext<N>>,
    (key, member): (&TunnelKey, &Conn<TunnelInfo>),
    step: Step,
    ready: Ready,
) -> bool {
    let pool = PodPool::of(shard, ctx.id.serial);
    // The handshakes are boxed so that a long-lived tunnel does not keep room for handshakes.
    let dialled = step.within(Box::pin(establish(shard, ctx, key, member))).await;
    step.describe(|span| _ = span.result("dial", &dialled));
    drop(step);
    let Established { opener, mut connection, mut flush, identity } = match dialled {
        Ok(established) => established,
        Err(error) => {
            tracing::debug!(target: "tunnel", to = %key.to, error = %Clipped::<_>(&error), "dial failed");
            tell(ctx, || format!("no tunnel to {}: {}", key.to, Clipped::<_>(&error)));
            ready(Err(Arc::new(error)));
            return false;
        }
    };
    let _counted = (shard.count_tunnel(), ctx.metrics.pods.tunnel());
    member.info().set_up(identity);
    tell(ctx, || format!("tunnel to {} is set up", key.to));
    let tunnel = pool.peer(key).add(opener, ctx.config.tunnel.pool.max_streams);
    let delay = pool.backlog().flush_delay();
    let listed = Listed { pool, key, tunnel };
    ready(Ok(()));
    let ended = {
        let below = flush.below();
        let driving = pin!(drive(&ctx.config, (&mut connection, &mut flush), &listed.tunnel, delay));
        // New connections go to the next process already.
        let driver = OwnTunnel { driving, below, stops: || listed.tunnel.retire() };
        MovableTunnel::new(Kind::OutboundTunnel, member, listed.tunnel.streams(), driver).await
    };
    let Some(ended) = ended else {
        tell(ctx, || format!("tunnel to {} goes on in the next process", key.to));
        return true;
    };
    let ended = ended.unwrap_or_else(|_| {
        // The streams report why they end.
        listed.tunnel.revoke();
        "certificate revoked"
    });
    // A connection without handles says goodbye once its last stream has ended.
    drop(listed);
    if ended == UNUSED {
        let farewell = timeout(FAREWELL, flush.drive(now, &mut connection));
        // The box keeps the future of the live tunnel small.
        let _ = Box::pin(member.guard(farewell)).await;
    }
    tracing::debug!(target: "tunnel", to = %key.to, ended, "tunnel ended");
    tell(ctx, || format!("tunnel to {} has ended: {ended}", key.to));
    true
}

/// Tells of a tunnel of the pod in the events.
fn tell<N: Network>(ctx: &DialContext<N>, says: impl FnOnce() -> String) {
    ctx.metrics.events.tell(EventKind::Tunnel, Some(&ctx.id.name()), says);
}

/// Takes the tunnel out of the pool when its driver ends, also by a panic.
struct Listed<'a> {
    pool: Rc<PodPool>,
    key: &'a TunnelKey,
    tunnel: Rc<Tunnel>,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.pool.peer(self.key).remove(&self.tunnel);
        self.pool.tidy(self.key);
    }
}

async fn establish<N: Network>(
    shard: &Shard,
    ctx: &DialContext<N>,
    key: &TunnelKey,
    member: &Conn<TunnelInfo>,
) -> Result<Established<N::Stream>, DialError> {
    let cert = certificate(shard, ctx, key).await?;
    let connecting = ctx.network.connect(key.to, None, PathScope::Network);
    let stream = Step::run("tcp connect", SpanKind::Client, connecting)
        .describe(|span, connected| _ = span.result("connect", connected))
        .await?;
    let (secured, certs) =
        Step::run("tls handshake", SpanKind::Client, secure(shard, ctx, key, &cert, stream))
            .describe(|span, secured| _ = span.result("tls", secured))
            .await?;
    let identity = WorkloadCert::server_identity(&certs, &key.sans.to_vec());
    let chain = cert.server_chain(certs, UnixTime::now());
    if !member.info().keep(chain, &ctx.metrics.crl, Reporter::Source) {
        let error = rustls::Error::from(rustls::CertificateError::Revoked).into();
        return Err(DialError::Tls { to: key.to, error });
    }
    let (opener, connection, flush) =
        Step::run("http2 handshake", SpanKind::Client, begin(shard, &ctx.config, key, secured))
            .describe(|span, begun| _ = span.result("http2", begun))
            .await?;
    Ok(Established { opener, connection, flush, identity })
}

/// The pod's certificate, which is awaited if no certificate is held yet.
async fn certificate<N: Network>(
    shard: &Shard,
    ctx: &DialContext<N>,
    key: &TunnelKey,
) -> Result<Arc<WorkloadCert>, DialError> {
    if let Some(cert) = ctx.certs.current(&key.identity) {
        return Ok(cert);
    }
    let began = Instant::now();
    let holding = ctx.certs.hold(&key.identity, ctx.config.timeouts.certificate);
    let held = Step::run("wait for certificate", SpanKind::Internal, holding)
        .describe(|span, held| _ = span.result("certificate", held))
        .await;
    ctx.metrics.setup.observe(shard.index(), SetupStep::Certificate, began.elapsed(), span::current_trace());
    held.map_err(|error| DialError::Certificate(error.to_string()))
}

async fn secure<N: Network>(
    shard: &Shard,
    ctx: &DialContext<N>,
    key: &TunnelKey,
    cert: &WorkloadCert,
    stream: N::Stream,
) -> Result<(TlsStream<N::Stream>, Vec<CertificateDer<'static>>), DialError> {
    let after = ctx.config.timeouts.client_handshake();
    // The verifier checks the server's SPIFFE id. The address given as server name is never compared nor sent.
    let name = key.to.ip().into();
    let turns = SourceTurns::of(shard, Source::Pod(ctx.id.serial));
    let (config, buffers) = (cert.client_config(&key.sans.to_vec()), shard.buffers.clone());
    let shake = handshake::connect_in_turn(config, name, stream, buffers, &turns);
    let (stream, peer) = match timeout(after, shake).await {
        Ok(shaken) => shaken.map_err(|error| {
            if error.is_revocation() {
                ctx.metrics.crl.rejected(Reporter::Source);
            }
            DialError::Tls { to: key.to, error }
        })?,
        Err(_) => return Err(DialError::TlsTimedOut { to: key.to, after }),
    };
    ctx.metrics.handshake(Reporter::Source, peer.group, peer.cipher);
    if peer.alpn.as_deref() != Some(ALPN_H2) {
        return Err(DialError::Alpn { to: key.to });
    }
    Ok((stream, peer.certificates))
}

async fn begin<S: AppStream>(
    shard: &Shard,
    config: &DataPlaneConfig,
    key: &TunnelKey,
    stream: TlsStream<S>,
) -> Result<Begun<S>, DialError> {
    let failed =
        |error: &dyn Display| DialError::Http2 { to: key.to, error: Clipped::<_>(error).to_string() };
    let windows = windows(config, shard);
    let (io, mut flush) = coalesced_within(stream, Role::Client, &windows);
    let streams = config.tunnel.pool.max_streams;
    let shake = client::handshake_within(io, &config.tunnel.http2, streams, Some(&windows));
    let shake = flush.drive(now, shake);
    match timeout(config.timeouts.h2_settings, shake).await {
        Ok(Ok(Ok((send, connection)))) => Ok((Opener::new(send, windows), Box::new(connection), flush)),
        Ok(Ok(Err(error))) => Err(failed(&error)),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"timed out")),
    }
}

/// Drives an established tunnel until the peer ends the tunnel, the peer stops answering, or the tunnel is unused.
/// Returns why the tunnel ended.
async fn drive<S: AppStream>(
    config: &DataPlaneConfig,
    (connection, flush): (&mut Http2<S>, &mut Flush<TlsStream<S>>),
    tunnel: &Rc<Tunnel>,
    mut delay: FlushDelay,
) -> &'static str {
    let (pings, below) = (connection.ping_pong(), flush.below());
    let worn = || below.look(TlsStream::is_worn);
    let serving = poll_fn(|cx| {
        while let Poll::Ready(window) = tunnel.opener().poll_window_changed(cx) {
            connection.set_target_window_size(window);
        }
        Pin::new(&mut *connection).poll(cx)
    });
    let work = async {
        tokio::select! {
            biased;
            ended = serving => if ended.is_ok() { "closed" } else { "failed" },
            () = keepalive(config, pings, tunnel, worn) => "no answer to a PING",
            () = unused(config.tunnel.pool.unused_release, tunnel) => UNUSED,
        }
    };
    let driven = flush.drive_behind(now, || delay.waits(), work).await;
    driven.unwrap_or_else(|error| {
        tracing::info!(target: "tunnel", error = %Clipped::<_>(&error), "tunnel broke");
        "connection broke"
    })
}

/// Ends when the peer has not answered a PING in time. The first PING is sent at once, with the timeout of the HTTP/2
/// settings. A peer that is mute in HTTP/2 is thus detected early. A tunnel whose keys are worn is retired.
async fn keepalive(
    config: &DataPlaneConfig,
    pings: Option<PingPong>,
    tunnel: &Tunnel,
    worn: impl Fn() -> bool,
) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    let mut within = config.timeouts.h2_settings;
    loop {
        if pings.send_ping(Ping::opaque()).is_err() {
            return std::future::pending().await;
        }
        let answered = async {
            let mut pong = std::pin::pin!(std::future::poll_fn(|cx| pings.poll_pong(cx)));
            match timeout(UNHEALTHY_AFTER.min(within), &mut pong).await {
                Ok(answer) => answer.is_ok(),
                Err(_) => {
                    tunnel.set_unhealthy(true);
                    timeout(within.saturating_sub(UNHEALTHY_AFTER), pong)
                        .await
                        .is_ok_and(|answer| answer.is_ok())
                }
            }
        };
        if !answered.await {
            return;
        }
        tunnel.set_unhealthy(false);
        if worn() {
            tunnel.retire();
        }
        within = config.timeouts.ping;
        sleep(config.timeouts.ping_interval).await;
    }
}

/// Ends when the tunnel has had no stream for `release`. A tunnel that was not used yet waits for its first stream.
async fn unused(release: Duration, tunnel: &Tunnel) {
    loop {
        let keep = if tunnel.was_used() { release } else { release.max(KEPT_FOR_FIRST_STREAM) };
        let idle = tunnel.idle();
        let left = match idle {
            Some(idle) if idle >= keep || tunnel.is_released() => return,
            Some(idle) => keep.saturating_sub(idle),
            None => keep.max(LOOK_INSTEAD),
        };
        // The end of each stream would wake the tunnel, so a long release is looked at now and then instead.
        let told = tunnel.released(idle.is_none() && release < LOOK_INSTEAD);
        let _ = timeout(left, told).await;
    }
}

#[cfg(test)]
mod tests;

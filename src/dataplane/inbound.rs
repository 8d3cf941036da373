//! HBONE from peers: tunnels accepted on 15008, and the streams on them (docs/spec/dataplane.md 4.1).

use std::{cell::Cell, future::Future, net::SocketAddr, pin::pin, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, Request, StatusCode};
use rustls_pki_types::UnixTime;
use tokio::time::{Instant, timeout};

use super::{
    accepted::Accepted,
    application::{self, Refused},
    handshakes::Handshake,
    inbound_context::InboundContext,
    pod::{
        conns::{Carried, ConnInfo, PeerTunnel, cut},
        departure::Departure,
        network::Network,
        panics,
    },
    report::{ConnMeta, ConnReport},
    stream::{AppStream, tunnel_addrs},
    timed_relay::timed,
    tunnel::{
        keepalive,
        movable::{MovableTunnel, OwnTunnel},
        now,
        streams::{self, Streams},
        windows,
    },
};
use crate::{
    protocols::{
        addr::ClientAddr,
        handover::record::Kind,
        hbone::{
            frames::Role,
            headers::{Baggage, TraceParent},
            io::{Coalesced, Flush, coalesced_within},
            server::{self, BadRequest, Connect},
            side::{Received, StreamSide},
            windows::Windows,
        },
        identity::Identity,
        labels::Reporter,
        mesh::Workload,
        outcome::{Cause, Cut, Failure, Outcome, Unroutable},
        peer_text::Clipped,
        relay::relay,
        route::{Inbound, InboundHbone, inbound_hbone, inbound_service, missing_inbound, missing_labels},
        tls::{ALPN_H2, WorkloadCert, handshake, stream::TlsStream},
    },
    runtime::{
        balancer::LoadGuard,
        conns::Conn,
        fair_queue::Backlog,
        shard::Shard,
        spawner::ConnSpawner,
        turns::{Source, SourceTurns},
    },
    telemetry::{
        access,
        events::EventKind,
        trace::span::{self, Spans},
    },
};

/// The number of tunnels that peers may have open to a pod, tunnels in a handshake included.
/// Limit: tunnels from peers to a pod, handshakes included: 16,384; past it: the peer's connection is closed, with a
/// log line.
const MAX_TUNNELS: usize = 16_384;
/// The number of streams of a tunnel, with those that the peer has reset and whose application has not let go yet.
/// HTTP/2 does not count the latter.
/// Limit: streams of a tunnel, reset streams included until they have ended: 400; past it: REFUSED_STREAM.
const MAX_STREAMS: usize = 400;

/// The time in which the GOAWAY to a revoked peer must be written.
/// Limit: writing the GOAWAY to a revoked peer: 1 s; past it: the connection is closed all the same.
const FAREWELL_WITHIN: Duration = Duration::from_secs(1);

/// The peer of a tunnel, and the address of the pod on which the tunnel was accepted.
#[derive(Debug)]
struct Tunnel {
    client: ClientAddr,
    dst: SocketAddr,
    identity: Option<Identity>,
    /// The tunnel's place in the pod's set.
    member: Conn<PeerTunnel>,
    /// The windows of the tunnel's streams.
    windows: Windows,
    /// Whether the tunnel ends because a certificate of the peer was revoked.
    revoked: Cell<bool>,
    streams: Rc<Streams>,
}

/// A tunnel that is set up.
struct Established<S> {
    connection: Connection<S>,
    flush: Flush<TlsStream<S>>,
    tunnel: Rc<Tunnel>,
}

/// Serves a connection accepted on 15008 until the peer closes the connection or the pod is gone.
pub(crate) async fn serve<N: Network>(
    Accepted { ctx, arriving, shard, stream, peer }: Accepted<InboundContext<N>, N::Stream>,
) {
    let Ok((client, dst)) = tunnel_addrs(&stream, peer) else { return };
    let _counted = (shard.count_tunnel(), ctx.metrics.socket(Reporter::Destination));
    let open = ctx.conns.peers.len();
    ctx.conns.make_room(open);
    if open >= MAX_TUNNELS {
        let outcome =
            Failure::Io(format!("the pod has {MAX_TUNNELS} tunnels from peers already").into()).into();
        return access::refused(&ctx.metrics.refusals, Reporter::Destination, (client.addr(), dst), &outcome);
    }
    let tunnel = ctx.conns.peer_tunnel(client.addr());
    let Ok(member) = ctx.conns.peers.admit(shard.index(), tunnel) else { return };
    drop(arriving);
    // The set-up is boxed so that a long-lived tunnel does not keep room for it.
    let established = Box::pin(member.guard(set_up(&ctx, &shard, &member, stream, (client, dst)))).await;
    match established {
        Ok(Ok(established)) => streams(&ctx, &shard, established).await,
        Ok(Err(outcome)) => {
            access::refused(&ctx.metrics.refusals, Reporter::Destination, (client.addr(), dst), &outcome);
        }
        Err(_) => {}
    }
}

/// Makes the handshakes of TLS and HTTP/2 with a peer.
async fn set_up<N: Network>(
    ctx: &Arc<InboundContext<N>>,
    shard: &Shard,
    member: &Conn<PeerTunnel>,
    stream: N::Stream,
    (client, dst): (ClientAddr, SocketAddr),
) -> Result<Established<N::Stream>, Outcome> {
    let timeouts = &ctx.config.timeouts;
    let many = || Failure::Tls("too many handshakes of this source are under way".into());
    let _under_way = Handshake::begin(shard, client.ip()).ok_or_else(many)?;
    let cert = certificate(ctx).await?;
    let turns = SourceTurns::of(shard, Source::Peer(client.ip()));
    let shake = handshake::accept_in_turn(cert.server_config(), stream, shard.buffers.clone(), &turns);
    let (stream, peer) = match timeout(timeouts.tls_handshake, shake).await {
        Ok(shaken) => shaken.map_err(|error| {
            if error.is_revocation() {
                ctx.metrics.crl.rejected(Reporter::Destination);
            }
            Failure::Tls(Cause::of(error))
        })?,
        Err(_) => return Err(Failure::Tls("handshake timed out".into()).into()),
    };
    ctx.metrics.handshake(Reporter::Destination, peer.group, peer.cipher);
    // A client that offers no protocol at all is let through by the handshake.
    if peer.alpn.as_deref() != Some(ALPN_H2) {
        return Err(Failure::Tls("peer does not speak h2".into()).into());
    }
    // The verifier refuses a peer without an identity. Streams of such a peer would pass for plaintext.
    let Some(identity) = cert.client_identity(&peer.certificates) else {
        return Err(Failure::Tls("peer has no identity".into()).into());
    };
    let chain = cert.client_chain(peer.certificates, UnixTime::now());
    if !member.info().of.keep(chain, &ctx.metrics.crl, Reporter::Destination) {
        return Err(Cut::Revoked.into());
    }
    member.info().of.set_up(Some(identity.clone()));
    ctx.metrics.events.tell(EventKind::Tunnel, Some(&ctx.pod.id.name()), || {
        format!("tunnel of {identity} from {client} is set up")
    });
    let tunnel = Tunnel {
        client,
        dst,
        identity: Some(identity),
        member: member.clone(),
        windows: windows(&ctx.config, shard),
        revoked: Cell::new(false),
        streams: Rc::default(),
    };
    let (io, mut flush) = coalesced_within(stream, Role::Server, &tunnel.windows);
    let shake = server::handshake_within(io, &ctx.config.tunnel.http2, Some(&tunnel.windows));
    let shake = flush.drive(now, shake);
    let connection = match timeout(timeouts.h2_settings, shake).await {
        Ok(Ok(Ok(connection))) => Box::new(connection),
        Ok(Ok(Err(error))) => return Err(Failure::H2Handshake(Cause::of(error)).into()),
        Ok(Err(error)) => return Err(Failure::Io(Cause::of(error)).into()),
        Err(_) => return Err(Failure::H2Handshake("timed out".into()).into()),
    };
    Ok(Established { connection, flush, tunnel: Rc::new(tunnel) })
}

/// The pod's certificate. The peer waits in its handshake meanwhile, so one bound covers the wait for the workload and
/// for the certificate.
async fn certificate<N: Network>(ctx: &InboundContext<N>) -> Result<Arc<WorkloadCert>, Outcome> {
    let deadline = Instant::now() + ctx.config.timeouts.server_ready();
    let workload = ctx.pod.wait().await?;
    let own = ctx.pod.identity(&workload).map_err(|e| Failure::Identity(Cause::of(e)))?;
    let left = deadline.saturating_duration_since(Instant::now());
    let cert = ctx.certs.hold(&own, left).await;
    cert.map_err(|error| Failure::Identity(Cause::of(error)).into())
}

/// An HTTP/2 connection, boxed to keep the futures that hold the connection small.
type Connection<S> = Box<h2::server::Connection<Coalesced<TlsStream<S>>, Bytes>>;

/// Accepts streams until the tunnel ends. A drain refuses further streams, and the tunnel ends with its last stream. A
/// revoked peer is told by a GOAWAY, and all its streams end.
async fn streams<N: Network>(
    ctx: &Arc<InboundContext<N>>,
    shard: &Shard,
    Established { mut connection, mut flush, tunnel }: Established<N::Stream>,
) {
    let (pings, below) = (connection.ping_pong(), flush.below());
    let mut draining = ctx.conns.draining();
    let backlog = Backlog::default();
    let (of, index) = (ctx.clone(), shard.index());
    let on_panic = move |kind, message: &str| panics::report(&of.metrics, &of.pod.id, kind, index, message);
    let spawner = ConnSpawner::new(shard, backlog.clone(), on_panic);
    let work = async {
        let mut alive = std::pin::pin!(keepalive::answer(&ctx.config, pings));
        let mut told = false;
        loop {
            tokio::select! {
                biased;
                accepted = connection.accept() => match accepted {
                    Some(Ok((_, mut respond))) if Rc::strong_count(&tunnel) > MAX_STREAMS => {
                        respond.send_reset(Reason::REFUSED_STREAM);
                    }
                    Some(Ok((request, respond))) => {
                        ctx.conns.uses(tunnel.member.info());
                        let place = StreamPlace::new(&tunnel);
                        let work = stream(ctx.clone(), shard.clone(), place, request, respond);
                        spawner.begin("inbound", work);
                    }
                    Some(Err(error)) => {
                        let client = tunnel.client.addr();
                        return tracing::debug!(target: "tunnel", %client, error = %Clipped::<_>(error), "inbound tunnel failed");
                    }
                    None => return,
                },
                answered = &mut alive => {
                    let Some(pings) = answered else { return };
                    alive.set(keepalive::answer(&ctx.config, Some(pings)));
                    // The peer opens its next streams on another tunnel, with new keys.
                    if !told && below.look(TlsStream::is_worn) {
                        told = true;
                        connection.graceful_shutdown();
                    }
                }
                window = tunnel.windows.changed() => connection.set_target_window_size(window),
                changed = draining.wait_for(|draining| *draining), if !told => {
                    drop(changed);
                    told = true;
                    connection.graceful_shutdown();
                }
                () = tunnel.member.info().leaves.notified(), if !told => {
                    told = true;
                    connection.graceful_shutdown();
                }
            }
        }
    };
    // A broken connection ends its streams, and the streams report the end.
    let mut delay = backlog.flush_delay();
    let ended = {
        let below = flush.below();
        let driving = pin!(flush.drive_behind(now, || delay.waits(), work));
        let driver = OwnTunnel { driving, below, stops: || {} };
        MovableTunnel::new(Kind::InboundTunnel, &tunnel.member, &tunnel.streams, driver).await
    };
    match ended {
        // Another process has the tunnel, or it has ended.
        None | Some(Ok(Ok(()))) => {}
        Some(Ok(Err(error))) => {
            tracing::info!(target: "tunnel", client = %tunnel.client.addr(), error = %Clipped::<_>(&error), "inbound tunnel broke");
        }
        Some(Err(cut::REVOKED)) => {
            // The streams report why they end.
            tunnel.revoked.set(true);
            // The box keeps the future of the live tunnel small.
            Box::pin(farewell::<N>(connection, flush)).await;
        }
        Some(Err(_)) => {}
    }
}

/// Tells a revoked peer by a GOAWAY that the tunnel ends.
async fn farewell<N: Network>(mut connection: Connection<N::Stream>, mut flush: Flush<TlsStream<N::Stream>>) {
    connection.abrupt_shutdown(Reason::NO_ERROR);
    let closed = std::future::poll_fn(|cx| connection.poll_closed(cx));
    let _ = timeout(FAREWELL_WITHIN, flush.drive(now, closed)).await;
}

/// One stream of a tunnel.
struct InboundStream<'a, N: Network> {
    ctx: &'a InboundContext<N>,
    tunnel: &'a Tunnel,
    connect: Connect,
    headers: &'a HeaderMap,
}

/// A stream whose application is reached.
struct Open<S> {
    conn: Conn<ConnInfo>,
    counted: LoadGuard,
    report: Box<ConnReport>,
    peer: StreamSide,
    app: S,
    /// Held as long as the stream is, because the streams of a tunnel are counted by it.
    place: StreamPlace,
}

/// The place of a stream on its tunnel.
struct StreamPlace(Rc<Tunnel>);

// === impl StreamPlace ===

impl StreamPlace {
    fn new(tunnel: &Rc<Tunnel>) -> Self {
        tunnel.streams.begin();
        Self(tunnel.clone())
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.0.streams.end();
    }
}

fn stream<N: Network>(
    ctx: Arc<InboundContext<N>>,
    shard: Shard,
    place: StreamPlace,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> impl Future<Output = ()> {
    let spans = spans(&ctx, &place.0, &request);
    // The opening is boxed as for outbound connections. The box is made outside the async block so that the task's
    // future does not hold the arguments as well.
    let opening = Box::pin(spans.around(open(ctx, shard.clone(), place, request, respond)));
    async move {
        let Some(Open { conn: _conn, counted: _counted, report, peer, app, place }) = opening.await else {
            return;
        };
        report.relaying();
        let relay = timed(relay(peer, app.into_side(), &*report, &shard.buffers));
        match streams::inbound(&place.0.streams, relay).await {
            Some(Ok(_)) if place.0.revoked.get() => report.end(Cut::Revoked),
            Some(Ok(relayed)) => report.relayed(relayed),
            Some(Err(_)) => {}
            None => return report.handed_over(),
        }
        shard.relayed();
    }
}

/// The spans of a stream: the span of the log, and the exported span, which is part of the peer's trace.
fn spans<N: Network>(ctx: &InboundContext<N>, tunnel: &Tunnel, request: &Request<RecvStream>) -> Spans {
    let from = if span::is_on() { TraceParent::parse(request.headers()) } else { None };
    let logged =
        tracing::debug_span!(target: "conn", "inbound", peer = %tunnel.client, pod = &*ctx.pod.id.uid);
    Spans::new(logged, "inbound", from)
}

async fn open<N: Network>(
    ctx: Arc<InboundContext<N>>,
    shard: Shard,
    place: StreamPlace,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Option<Open<N::Stream>> {
    let tunnel = &place.0;
    let refuse = |respond: &mut SendResponse<Bytes>, Refused { status, outcome }: Refused| {
        server::refuse(respond, status);
        span::refused(&outcome);
        let ends = (tunnel.client.addr(), tunnel.dst);
        access::refused(&ctx.metrics.refusals, Reporter::Destination, ends, &outcome);
    };
    span::describe(|span| {
        let span = span.set("network.transport", "tcp").set("warren.pod.uid", ctx.pod.id.uid.to_string());
        span.addr(span::CLIENT, tunnel.client.addr()).addr(span::SERVER, tunnel.dst);
    });
    let connect = match server::parse(&request) {
        Ok(connect) => connect,
        Err(error) => {
            refuse(&mut respond, bad_request(error));
            return None;
        }
    };
    let (head, body) = request.into_parts();
    let mut received = Received::within(body, &tunnel.windows);
    let this = InboundStream { ctx: &ctx, tunnel, connect, headers: &head.headers };
    let (workload, inbound) = match received.beside(this.route()).await {
        Ok(routed) => routed,
        Err(refused) => {
            refuse(&mut respond, refused);
            return None;
        }
    };
    let info = ConnInfo {
        reporter: Reporter::Destination,
        src: tunnel.client.addr(),
        identity: tunnel.identity.clone(),
        dst: inbound.target,
        waits: false.into(),
        host: this.connect.host.as_deref().map(Box::from),
        next_hop: None.into(),
        departure: Departure::default(),
        carried: Carried::default(),
    };
    // The connection is registered before policies are asked, so that a policy change in between is not missed.
    let Ok(conn) = ctx.conns.live.admit(shard.index(), info) else {
        server::refuse(&mut respond, StatusCode::UNAUTHORIZED);
        return None;
    };
    let counted = shard.count_conn();
    // The report tells why a connection was cut.
    let reached = conn.guard(this.reach(&conn, workload, inbound, &mut respond));
    let (report, app, send) = received.beside(reached).await.ok()??;
    let peer = StreamSide::new(send, received);
    Some(Open { conn, counted, report, peer, app, place })
}

fn bad_request(error: BadRequest) -> Refused {
    let outcome = match error {
        BadRequest::PeerMethod(method) => Unroutable::NotConnect(method.to_string().into()).into(),
        BadRequest::PeerAuthority(error) => Failure::Dial(Cause::of(error)).into(),
    };
    Refused { status: StatusCode::BAD_REQUEST, outcome }
}

// === impl InboundStream ===

impl<N: Network> InboundStream<'_, N> {
    /// The pod's workload, and the address and port of the application that the stream asks for.
    async fn route(&self) -> Result<(Arc<Workload>, Inbound), Refused> {
        let unavailable =
            |why: Unroutable| Refused { status: StatusCode::SERVICE_UNAVAILABLE, outcome: why.into() };
        let (pod, authority) = (&self.ctx.pod, &self.connect.authority);
        let local = pod.wait().await.map_err(unavailable)?;
        let at = self.tunnel.dst.ip().to_canonical();
        pod.discover(|mesh| missing_inbound(mesh, &local, at, authority)).await.map_err(unavailable)?;
        pod.discover_later(|mesh| missing_labels(mesh, &local, self.tunnel.client));
        let config = &self.ctx.config;
        let request = InboundHbone {
            local: &local,
            dst: self.tunnel.dst,
            authority,
            localhost_app_tunnel: config.listen.localhost_app_tunnel,
        };
        match inbound_hbone(pod.mesh.tables(), &request, &config.listen.ports) {
            Ok(inbound) => Ok((local, inbound)),
            Err(error) => Err(Refused {
                status: StatusCode::from_u16(error.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
                outcome: Failure::Dial(Cause::of(error)).into(),
            }),
        }
    }

    /// Connects to the application, if policies allow, and answers 200 to the peer. Returns the report, the
    /// application's connection and the stream's sending half.
    async fn reach(
        &self,
        conn: &Conn<ConnInfo>,
        workload: Arc<Workload>,
        inbound: Inbound,
        respond: &mut SendResponse<Bytes>,
    ) -> Option<(Box<ConnReport>, N::Stream, SendStream<Bytes>)> {
        let answer = self.ctx.pod.answer_baggage(&workload);
        let meta = self.meta(workload, &inbound);
        let report = ConnReport::open(&self.ctx.metrics, conn, self.tunnel.dst, meta);
        let failed = |outcome: Outcome| {
            report.end(outcome);
            None
        };
        let mut app = match application::connect(self.ctx, &report, &inbound).await {
            Ok(app) => app,
            Err(Refused { status, outcome }) => {
                server::refuse(respond, status);
                return failed(outcome);
            }
        };
        let send = match server::accept(respond, answer) {
            Ok(send) => send,
            Err(error) => return failed(Failure::H2(Cause::of(error)).into()),
        };
        if let Err(refused) = application::announce(&mut app, conn.info(), &inbound).await {
            return failed(refused.outcome);
        }
        Some((report, app, send))
    }

    /// The client's workload as the client's proxy describes it in the baggage header.
    fn source_baggage(&self) -> Option<Box<Baggage>> {
        let read = self.ctx.config.listen.baggage;
        if read { Baggage::parse(self.headers).map(Box::new) } else { None }
    }

    fn meta(&self, workload: Arc<Workload>, inbound: &Inbound) -> ConnMeta {
        let mesh = self.ctx.pod.mesh.tables();
        let own = &self.ctx.config.network;
        let elsewhere =
            self.connect.network.as_deref().is_some_and(|network| !network.eq_ignore_ascii_case(own));
        let source = if elsewhere { None } else { mesh.workload_by_ip(own, self.tunnel.client.ip()) };
        let named = self.connect.host.as_deref();
        let service = inbound.service.clone();
        ConnMeta {
            source_baggage: if source.is_none() { self.source_baggage() } else { None },
            source,
            source_identity: self.tunnel.identity.clone(),
            service: service.or_else(|| inbound_service(mesh, &workload, named, inbound.target.port())),
            destination_identity: Some(workload.identity().clone()),
            destination: Some(workload),
            destination_baggage: None,
            authority: Some(self.connect.authority.clone()),
            mtls: true,
        }
    }
}

/// Size of a stream's future in bytes.
#[cfg(test)]
pub(super) fn stream_size() -> usize {
    fn size<A, B, C, D, E, F: Future>(_: fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }
    size(stream::<super::pod::network::PodNetwork>)
}

#[cfg(test)]
mod tests;

//! HBONE from peers: tunnels accepted on 15008, and the streams on them (docs/spec/dataplane.md 4.1).

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use h2::{Ping, PingPong, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, Request, StatusCode};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    Course,
    report::{Facts, Report},
};
use crate::{
    actors::{
        lane::Crowd,
        load::Counted,
        node::PoolSettings,
        pods::pod::{Arriving, ConnInfo, Pod},
        shard::Shard,
        sys::socket::AppSide,
        telemetry::{
            access,
            trace::span::{self, Spans},
        },
    },
    protocols::{
        addr::ClientAddr,
        hbone::{
            headers::{Baggage, TraceParent},
            io::{Coalesced, Flush, coalesced},
            server::{self, BadRequest, Connect},
            side::StreamSide,
        },
        identity::Identity,
        labels::Reporter,
        mesh::Workload,
        outcome::{Denial, Failure, Outcome, Unroutable},
        proxy_protocol,
        relay::relay,
        route::{Inbound, InboundHbone, inbound_hbone, inbound_service},
        tls::{handshake, peer_identity, stream::TlsStream},
    },
    supervisor::Conn,
};

/// Tunnels that peers may have open to a pod, those in the middle of a handshake included.
/// Limit: tunnels from peers to a pod, handshakes included: 8192; past it: the peer's connection is closed, with a log
/// line.
const MAX_TUNNELS: usize = 8192;

/// Who is at the other end of a tunnel, and which address of the pod it came to.
#[derive(Debug)]
struct Tunnel {
    client: ClientAddr,
    dst: SocketAddr,
    identity: Option<Identity>,
}

/// Serves a connection accepted on 15008 until its peer closes it or the pod is gone.
pub async fn serve(arriving: Arriving, shard: Shard, stream: TcpStream, peer: SocketAddr) {
    let pod = &*arriving;
    let Ok((client, dst)) = super::ends(&stream, peer) else { return };
    let _counted = (shard.count_tunnel(), pod.node.metrics.socket(Reporter::Destination));
    if pod.peers.len() >= MAX_TUNNELS {
        let outcome =
            Failure::Io(format!("the pod has {MAX_TUNNELS} tunnels from peers already").into()).into();
        return access::refused(client.addr(), dst, Reporter::Destination, &outcome);
    }
    let Ok(member) = pod.peers.admit(shard.index(), client.addr()) else { return };
    let pod = arriving.arrived();
    let served = member.guard(run(&pod, &shard, stream, client, dst)).await;
    if let Ok(Err(outcome)) = served {
        access::refused(client.addr(), dst, Reporter::Destination, &outcome);
    }
}

async fn run(
    pod: &Arc<Pod>,
    shard: &Shard,
    stream: TcpStream,
    client: ClientAddr,
    dst: SocketAddr,
) -> Result<(), Outcome> {
    let settings = &pod.node.settings;
    let workload = pod.workload().await?;
    let own = pod.identity(&workload).map_err(|e| Failure::Identity(e.to_string().into()))?;
    let cert = pod.node.certs.hold(&own, settings.timeouts.certificate).await;
    let cert = cert.map_err(|error| Failure::Identity(error.to_string().into()))?;
    // Boxed, as is all that comes before the streams: a tunnel lives for long.
    let shake = Box::pin(handshake::accept(cert.server_config(), stream, shard.buffers.clone()));
    let (stream, peer) = match timeout(settings.timeouts.tls, shake).await {
        Ok(shaken) => shaken.map_err(|error| Failure::Tls(error.to_string().into()))?,
        Err(_) => return Err(Failure::Tls("handshake timed out".into()).into()),
    };
    // The verifier lets nobody in who has none; without one the streams would pass for plaintext.
    let Some(identity) = peer_identity(&peer.certificates) else {
        return Err(Failure::Tls("peer has no identity".into()).into());
    };
    let tunnel = Arc::new(Tunnel { client, dst, identity: Some(identity) });
    let (io, mut flush) = coalesced(stream);
    let shake = Box::pin(flush.drive(server::handshake(io, &settings.http2)));
    let connection = match timeout(settings.timeouts.http2, shake).await {
        Ok(Ok(Ok(connection))) => Box::new(connection),
        Ok(Ok(Err(error))) => return Err(Failure::H2Handshake(error.to_string().into()).into()),
        Ok(Err(error)) => return Err(Failure::Io(error.to_string().into()).into()),
        Err(_) => return Err(Failure::H2Handshake("timed out".into()).into()),
    };
    streams(pod, shard, connection, &mut flush, tunnel).await;
    Ok(())
}

/// Boxed: each future it is handed through would keep room for it.
type Connection = Box<h2::server::Connection<Coalesced<TlsStream<TcpStream>>, Bytes>>;

/// Takes streams until the tunnel ends. On drain no more are taken and the tunnel ends with the last.
async fn streams(
    pod: &Arc<Pod>,
    shard: &Shard,
    mut connection: Connection,
    flush: &mut Flush<TlsStream<TcpStream>>,
    tunnel: Arc<Tunnel>,
) {
    let pings = connection.ping_pong();
    let mut draining = pod.draining.subscribe();
    let crowd = Crowd::default();
    let course = Course::new(shard, pod, crowd.clone());
    let work = async {
        let mut alive = std::pin::pin!(answers(&pod.node.settings.pool, pings));
        let mut told = false;
        loop {
            tokio::select! {
                biased;
                accepted = connection.accept() => match accepted {
                    Some(Ok((request, respond))) => {
                        let work = stream(pod.clone(), shard.clone(), tunnel.clone(), request, respond);
                        course.begin("inbound", work);
                    }
                    Some(Err(error)) => {
                        let client = tunnel.client.addr();
                        return tracing::debug!(target: "tunnel", %client, %error, "inbound tunnel failed");
                    }
                    None => return,
                },
                () = &mut alive => return,
                changed = draining.wait_for(|draining| *draining), if !told => {
                    drop(changed);
                    told = true;
                    connection.graceful_shutdown();
                }
            }
        }
    };
    // A broken connection ends its streams, which say so.
    let mut patience = crowd.patience();
    let _ = flush.drive_behind(|| patience.waits(), work).await;
}

/// Ends when the peer has not answered a PING in time.
async fn answers(pool: &PoolSettings, pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(pool.ping_interval).await;
        if pings.send_ping(Ping::opaque()).is_err() {
            return std::future::pending().await;
        }
        let pong = std::future::poll_fn(|cx| pings.poll_pong(cx));
        if !timeout(pool.ping_timeout, pong).await.is_ok_and(|answer| answer.is_ok()) {
            return;
        }
    }
}

/// One stream of a tunnel.
struct Inbounds<'a> {
    pod: &'a Arc<Pod>,
    tunnel: &'a Tunnel,
    connect: Connect,
    headers: &'a HeaderMap,
}

/// A stream whose application is reached.
struct Open {
    conn: Conn<ConnInfo>,
    counted: Counted,
    report: Box<Report>,
    peer: StreamSide,
    app: TcpStream,
}

fn stream(
    pod: Arc<Pod>,
    shard: Shard,
    tunnel: Arc<Tunnel>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> impl Future<Output = ()> {
    let spans = spans(&pod, &tunnel, &request);
    // Boxed, as for outbound connections, and here, so that the task's future does not hold the arguments as well.
    let opening = Box::pin(spans.around(open(pod, shard.clone(), tunnel, request, respond)));
    async move {
        let Some(Open { conn, counted: _counted, report, peer, app }) = opening.await else { return };
        report.relaying();
        if let Ok(relayed) = conn.guard(relay(peer, AppSide::of(app), &*report, &shard.buffers)).await {
            report.relayed(&relayed);
        }
        shard.relayed();
    }
}

/// The spans of a stream: the log's and, as part of the peer's trace, the exported one.
fn spans(pod: &Pod, tunnel: &Tunnel, request: &Request<RecvStream>) -> Spans {
    let from = if span::is_on() { TraceParent::parse(request.headers()) } else { None };
    let logged = tracing::debug_span!(target: "conn", "inbound", peer = %tunnel.client, pod = &*pod.uid);
    Spans::new(logged, "inbound", from)
}

async fn open(
    pod: Arc<Pod>,
    shard: Shard,
    tunnel: Arc<Tunnel>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Option<Open> {
    let refuse = |respond: &mut SendResponse<Bytes>, status: StatusCode, outcome: &Outcome| {
        server::refuse(respond, status);
        span::refused(outcome);
        access::refused(tunnel.client.addr(), tunnel.dst, Reporter::Destination, outcome);
    };
    span::describe(|span| {
        let span = span.set("network.transport", "tcp").set("warren.pod.uid", pod.uid.to_string());
        span.addr(span::CLIENT, tunnel.client.addr()).addr(span::SERVER, tunnel.dst);
    });
    let connect = match server::parse(&request) {
        Ok(connect) => connect,
        Err(error) => {
            let outcome = match error {
                BadRequest::PeerMethod(method) => Unroutable::NotConnect(method.to_string().into()).into(),
                BadRequest::PeerAuthority(error) => Failure::Dial(error.to_string().into()).into(),
            };
            refuse(&mut respond, StatusCode::BAD_REQUEST, &outcome);
            return None;
        }
    };
    let this = Inbounds { pod: &pod, tunnel: &tunnel, connect, headers: request.headers() };
    let (workload, inbound) = match this.route().await {
        Ok(routed) => routed,
        Err((status, outcome)) => {
            refuse(&mut respond, status, &outcome);
            return None;
        }
    };
    let info = ConnInfo {
        reporter: Reporter::Destination,
        tunnelled: true,
        src: tunnel.client.addr(),
        identity: tunnel.identity.clone(),
        dst: inbound.target,
        waits: false.into(),
    };
    // Registered before policies are asked, so that a change in between is not missed.
    let Ok(conn) = pod.conns.admit(shard.index(), info) else {
        server::refuse(&mut respond, StatusCode::UNAUTHORIZED);
        return None;
    };
    let counted = shard.count_conn();
    // What a cut connection says is said by its report.
    let reached = conn.guard(this.reach(&conn, workload, inbound, &mut respond)).await.ok()??;
    let (report, app, send) = reached;
    let peer = StreamSide::new(send, request.into_body());
    Some(Open { conn, counted, report, peer, app })
}

// === impl Inbounds ===

impl Inbounds<'_> {
    async fn route(&self) -> Result<(Arc<Workload>, Inbound), (StatusCode, Outcome)> {
        let unavailable = |why: Unroutable| (StatusCode::SERVICE_UNAVAILABLE, why.into());
        let local = self.pod.workload().await.map_err(unavailable)?;
        let settings = &self.pod.node.settings;
        let request = InboundHbone {
            local: &local,
            dst: self.tunnel.dst,
            authority: &self.connect.authority,
            localhost_app_tunnel: settings.options.localhost_app_tunnel,
        };
        match inbound_hbone(&self.pod.node.mesh, &request, &settings.illegal_ports) {
            Ok(inbound) => Ok((local, inbound)),
            Err(error) => {
                let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                Err((status, Failure::Dial(error.to_string().into()).into()))
            }
        }
    }

    /// The application, if policies allow, and the stream's sending half once the peer has its 200.
    async fn reach(
        &self,
        conn: &Conn<ConnInfo>,
        workload: Arc<Workload>,
        inbound: Inbound,
        respond: &mut SendResponse<Bytes>,
    ) -> Option<(Box<Report>, TcpStream, SendStream<Bytes>)> {
        let answer = self.pod.baggage(&workload);
        let report = Report::open(self.pod, conn, self.tunnel.dst, self.facts(workload, &inbound));
        let failed = |outcome: Outcome| {
            report.end(outcome);
            None
        };
        let mut app = match application(self.pod, conn.info(), &inbound).await {
            Ok(app) => app,
            Err((status, outcome)) => {
                server::refuse(respond, status);
                return failed(outcome);
            }
        };
        let send = match server::accept(respond, answer) {
            Ok(send) => send,
            Err(error) => return failed(Failure::H2(error.to_string().into()).into()),
        };
        if let Err((_, outcome)) = announce(&mut app, conn.info(), &inbound).await {
            return failed(outcome);
        }
        Some((report, app, send))
    }

    /// The client's workload as its own proxy describes it.
    fn source_baggage(&self) -> Option<Box<Baggage>> {
        let read = self.pod.node.settings.options.baggage;
        if read { Baggage::parse(self.headers).map(Box::new) } else { None }
    }

    fn facts(&self, workload: Arc<Workload>, inbound: &Inbound) -> Facts {
        let mesh = &self.pod.node.mesh;
        let own = &self.pod.node.settings.network;
        let elsewhere =
            self.connect.network.as_deref().is_some_and(|network| !network.eq_ignore_ascii_case(own));
        let source = if elsewhere { None } else { mesh.workload_by_ip(own, self.tunnel.client.ip()) };
        let named = self.connect.host.as_deref();
        let service = inbound.service.clone();
        Facts {
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

/// The application, if policies allow.
///
/// # Errors
/// The status for the peer, and what is said of the connection.
pub(super) async fn application(
    pod: &Pod,
    info: &ConnInfo,
    inbound: &Inbound,
) -> Result<TcpStream, (StatusCode, Outcome)> {
    let denied = |denial: Denial| (StatusCode::UNAUTHORIZED, denial.into());
    super::authorize(pod, info).await.map_err(denied)?;
    let source = pod.source_towards(info.src.ip(), inbound.dial.ip());
    super::connect_app(pod, inbound.dial, source)
        .await
        .map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, Failure::Dial(error.to_string().into()).into()))
}

/// Tells the application who its client is, if it wants to hear it.
///
/// # Errors
/// As [`application`].
pub(super) async fn announce(
    app: &mut TcpStream,
    info: &ConnInfo,
    inbound: &Inbound,
) -> Result<(), (StatusCode, Outcome)> {
    let Some(dst) = inbound.proxy_header_dst else { return Ok(()) };
    let header = proxy_protocol::encode(info.src, dst, info.identity.as_ref());
    let written = tokio::io::AsyncWriteExt::write_all(app, &header).await;
    written.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, Failure::Send(error.to_string().into()).into()))
}

/// Size of a stream's future in bytes.
#[cfg(test)]
pub(super) fn stream_size() -> usize {
    fn size<A, B, C, D, E, F: Future>(_: fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }
    size(stream)
}

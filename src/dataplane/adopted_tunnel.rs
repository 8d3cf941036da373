//! Tunnels that another process of the node has handed over, with their streams.
//!
//! The other process still has the tunnel while this one makes everything ready. Only once `go` is heard is the tunnel
//! this process's. Then revocation lists and policies are asked before a byte moves.

use std::{
    cell::Cell,
    future::Future,
    net::{SocketAddr, TcpStream as StdStream},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use h2::Reason;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    accept::Acceptor,
    arrival::{Gate, info, is_let_in, report},
    config::DataPlaneConfig,
    inbound_context::InboundContext,
    movable::now_us,
    outbound_context::OutboundContext,
    pod::{
        PodId,
        conns::{ConnInfo, PodConns, TunnelInfo, cut},
        departure::Stays,
        panics,
        workload::PodWorkload,
    },
    report::ConnReport,
    stream::AppStream,
    timed_relay::timed,
    tunnel::{
        movable::{MovableTunnel, StillTunnel, TunnelDriver, duplicate},
        now,
        streams::{self, OpenStream, Streams},
        windows,
    },
};
use crate::{
    protocols::{
        handover::{
            record::{Kind, Side},
            tunnel::{StreamRecord, TunnelRecord},
        },
        hbone::{
            adopted::{
                driver::{Driver, Place, adopt},
                side::AdoptedSide,
                tunnel::{AdoptedTunnel, Ended},
            },
            frozen::FrozenStream,
        },
        labels::Reporter,
        outcome::Cut,
        peer_text::Clipped,
        relay::{frozen::Frozen, relay},
        tls::stream::TlsStream,
    },
    runtime::{conns::Conn, shard::Shard},
    telemetry::{
        events::EventKind,
        metrics::Metrics,
        trace::span::{self, Spans},
    },
};

/// The time in which the end of a tunnel must be told to the peer.
/// Limit: telling a peer of the end of a tunnel that was taken over: 1 s; past it: the connection is closed all the same.
const FAREWELL_WITHIN: Duration = Duration::from_secs(1);

/// The pod whose end of a tunnel it is.
#[derive(Clone)]
pub(crate) enum TunnelPod {
    /// A pod that has opened the tunnel.
    Outbound(Arc<OutboundContext>),
    /// A pod to which a peer has opened the tunnel.
    Inbound(Arc<InboundContext>),
}

/// A tunnel that another process offers.
pub(crate) struct TunnelArrival {
    /// The pod.
    pub(crate) to: TunnelPod,
    /// The tunnel as a value.
    pub(crate) record: TunnelRecord,
    /// The tunnel's socket.
    pub(crate) socket: StdStream,
    /// The sockets of the streams' applications.
    pub(crate) apps: Vec<StdStream>,
}

/// What the streams of a tunnel share.
struct Shared {
    shard: Shard,
    to: TunnelPod,
    streams: Rc<Streams>,
    revoked: Cell<bool>,
}

/// A tunnel that is ready to go on.
struct Made<T> {
    member: Conn<T>,
    tunnel: AdoptedTunnel,
    driver: Driver<TlsStream<TcpStream>>,
    streams: Vec<MadeStream>,
    facts: TunnelFacts,
}

/// What is left of a record.
struct TunnelFacts {
    kind: Kind,
    certificates: Option<(Vec<Vec<u8>>, u64)>,
    frozen_at_us: u64,
}

/// A stream that is ready to go on.
struct MadeStream {
    conn: Conn<ConnInfo>,
    side: Side,
    relay: Frozen,
    stream: AdoptedSide,
    app: TcpStream,
    open: OpenStream,
}

/// Why a tunnel does not go on although this process has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Barred {
    /// A certificate of the peer is revoked.
    Revoked,
    /// Nobody can tell whether one is.
    Unknown,
}

/// The driver of an adopted tunnel. It sends PINGs, and ends a tunnel whose peer does not answer.
struct AdoptedDriver<'a, K> {
    tunnel: AdoptedTunnel,
    driver: &'a mut Driver<TlsStream<TcpStream>>,
    silent: Pin<&'a mut K>,
}

// === impl TunnelPod ===

impl TunnelPod {
    fn acceptor(&self) -> Acceptor {
        match self {
            Self::Outbound(ctx) => Acceptor::Outbound(ctx.clone()),
            Self::Inbound(ctx) => Acceptor::Inbound(ctx.clone()),
        }
    }

    fn reporter(&self) -> Reporter {
        match self {
            Self::Outbound(_) => Reporter::Source,
            Self::Inbound(_) => Reporter::Destination,
        }
    }

    fn workload(&self) -> &Arc<PodWorkload> {
        match self {
            Self::Outbound(ctx) => &ctx.pod,
            Self::Inbound(ctx) => &ctx.pod,
        }
    }

    fn id(&self) -> &Arc<PodId> {
        &self.workload().id
    }

    fn conns(&self) -> &Arc<PodConns> {
        match self {
            Self::Outbound(ctx) => &ctx.conns,
            Self::Inbound(ctx) => &ctx.conns,
        }
    }

    fn metrics(&self) -> &Arc<Metrics> {
        match self {
            Self::Outbound(ctx) => &ctx.metrics,
            Self::Inbound(ctx) => &ctx.metrics,
        }
    }

    fn config(&self) -> &Arc<DataPlaneConfig> {
        match self {
            Self::Outbound(ctx) => &ctx.config,
            Self::Inbound(ctx) => &ctx.config,
        }
    }

    /// Whether a certificate of the peer is revoked, as the lists of this process have it. Without lists none is.
    async fn check(&self, info: &TunnelInfo, facts: &mut TunnelFacts) -> Result<(), Barred> {
        let Some((certs, at)) = facts.certificates.take() else { return Ok(()) };
        let (hops, within) = (self.certificates(), self.config().timeouts.certificate);
        let workload = self.workload().wait().await.map_err(|_| Barred::Unknown)?;
        let own = self.workload().identity(&workload).map_err(|_| Barred::Unknown)?;
        let cert = hops.hold(&own, within).await.map_err(|_| Barred::Unknown)?;
        let certs = certs.into_iter().map(CertificateDer::from).collect();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        let chain = match self {
            Self::Outbound(_) => cert.server_chain(certs, at),
            Self::Inbound(_) => cert.client_chain(certs, at),
        };
        let kept = info.keep(chain, &self.metrics().crl, self.reporter());
        if kept { Ok(()) } else { Err(Barred::Revoked) }
    }

    fn certificates(&self) -> &Arc<dyn super::certificates::Certificates> {
        match self {
            Self::Outbound(ctx) => &ctx.hops.certs,
            Self::Inbound(ctx) => &ctx.certs,
        }
    }

    fn tell(&self, says: impl FnOnce() -> String) {
        self.metrics().events.tell(EventKind::Tunnel, Some(&self.id().name()), says);
    }
}

// === impl TunnelArrival ===

impl TunnelArrival {
    /// Begins the tunnel on `shard`.
    pub(crate) fn begin(self, shard: &Shard, gate: Gate) {
        let (metrics, id, index) = (self.to.metrics().clone(), self.to.id().clone(), shard.index());
        let work = serve(shard.clone(), self, gate);
        shard.spawn_watched("tunnel", work, move |message| {
            panics::report(&metrics, &id, "tunnel", index, &message);
        });
    }
}

async fn serve(shard: Shard, arrival: TunnelArrival, gate: Gate) {
    let to = arrival.to.clone();
    let shared = Shared { shard, to, streams: Rc::default(), revoked: Cell::new(false) };
    let (index, peer) = (shared.shard.index(), arrival.record.peer);
    let full = || "the pod takes no connections".to_owned();
    match &arrival.to {
        TunnelPod::Outbound(ctx) => {
            let member = ctx.conns.dialled.admit(index, TunnelInfo::new(peer)).map_err(|_| full());
            serve_as(shared.into(), member, arrival, gate).await;
        }
        TunnelPod::Inbound(ctx) => {
            let member = ctx.conns.peers.admit(index, ctx.conns.peer_tunnel(peer)).map_err(|_| full());
            serve_as(shared.into(), member, arrival, gate).await;
        }
    }
}

async fn serve_as<T: AsRef<TunnelInfo> + Send + Sync + 'static>(
    shared: Rc<Shared>,
    member: Result<Conn<T>, String>,
    arrival: TunnelArrival,
    Gate { ready, go }: Gate,
) {
    let made = match member.and_then(|member| make_ready(&shared, member, arrival)) {
        Ok(made) => made,
        // Whoever waits no more has given the tunnel up.
        Err(why) => return drop(ready.send(Err(why))),
    };
    if ready.send(Ok(())).is_err() || go.await.is_err() {
        return;
    }
    Box::pin(go_on(shared, made)).await;
}

/// Makes everything that can fail without touching the sockets' bytes.
fn make_ready<T: AsRef<TunnelInfo> + Send + Sync + 'static>(
    shared: &Shared,
    member: Conn<T>,
    TunnelArrival { to, record, socket, apps }: TunnelArrival,
) -> Result<Made<T>, String> {
    let TunnelRecord { kind, peer_identity, certificates, tls, http2, streams, frozen_at_us, .. } = record;
    let (config, shard) = (to.config(), &shared.shard);
    member.info().as_ref().set_up(peer_identity);
    let tls = TlsStream::resume(watch(socket)?, tls, shard.buffers.clone());
    let place = Place { windows: windows(config, shard), max_frame: config.tunnel.http2.frame_size, now };
    let tls = tls.map_err(|error| error.to_string())?;
    let (tunnel, driver) = adopt(tls, http2, place).map_err(|error| error.to_string())?;
    let stream = |(StreamRecord { stream, side, relay }, app): (StreamRecord, StdStream)| {
        let in_relay = match kind {
            Kind::InboundTunnel => relay.forth.pending.len(),
            _ => relay.back.pending.len(),
        };
        let stream = tunnel.side(stream, in_relay).map_err(|error| error.to_string())?;
        let admitted = to.conns().live.admit(shard.index(), info(&side, to.reporter()));
        let conn = admitted.map_err(|_| "the pod takes no connections".to_owned())?;
        Ok::<_, String>(MadeStream {
            conn,
            side,
            relay,
            stream,
            app: watch(app)?,
            open: shared.streams.stream(),
        })
    };
    let streams = streams.into_iter().zip(apps).map(stream).collect::<Result<_, _>>()?;
    let facts = TunnelFacts { kind, certificates, frozen_at_us };
    Ok(Made { member, tunnel, driver, streams, facts })
}

fn watch(stream: StdStream) -> Result<TcpStream, String> {
    let watched = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
    watched.map_err(|error| format!("a socket cannot be watched: {error}"))
}

/// Goes on with a tunnel that is this process's.
async fn go_on<T: AsRef<TunnelInfo> + Send + Sync + 'static>(shared: Rc<Shared>, made: Made<T>) {
    let Made { member, tunnel, mut driver, streams, mut facts } = made;
    let (to, shard, info) = (&shared.to, &shared.shard, member.info().as_ref());
    let metrics = to.metrics();
    let _counted = match to {
        TunnelPod::Outbound(_) => (shard.count_tunnel(), metrics.pods.tunnel()),
        TunnelPod::Inbound(_) => (shard.count_tunnel(), metrics.socket(Reporter::Destination)),
    };
    to.tell(|| format!("tunnel with {} goes on in this process", info.peer));
    let barred = to.check(info, &mut facts).await.err();
    if barred == Some(Barred::Revoked) {
        shared.revoked.set(true);
    }
    metrics.handover.stalled(facts.kind, Duration::from_micros(now_us().saturating_sub(facts.frozen_at_us)));
    let spawner = to.acceptor().spawner(shard);
    for mut made in streams {
        made.side.grow_older(now_us().saturating_sub(facts.frozen_at_us));
        spawner.begin(to.acceptor().kind().name(), stream(shared.clone(), made, barred));
    }
    let ended = match barred {
        Some(_) => Some(Err(cut::REVOKED)),
        None => {
            let silent = std::pin::pin!(silent(to.config().clone(), tunnel.clone()));
            let driver = AdoptedDriver { tunnel: tunnel.clone(), driver: &mut driver, silent };
            MovableTunnel::new(facts.kind, &member, &shared.streams, driver).await
        }
    };
    // Another process has the tunnel.
    let Some(ended) = ended else { return };
    if ended == Err(cut::REVOKED) {
        shared.revoked.set(true);
    }
    // The streams end, if they have not.
    tunnel.leave(Reason::NO_ERROR);
    if ended.is_err() {
        let _ = timeout(FAREWELL_WITHIN, &mut driver).await;
    }
    tell_end(to, info.peer, ended.ok());
}

fn tell_end(to: &TunnelPod, peer: SocketAddr, ended: Option<Result<(), Ended>>) {
    match ended {
        Some(Err(error)) => {
            tracing::debug!(target: "tunnel", %peer, error = %Clipped::<_>(&error), "tunnel that was taken over ended");
            to.tell(|| format!("tunnel with {peer} has ended: {}", Clipped::<_>(&error)));
        }
        Some(Ok(())) => to.tell(|| format!("tunnel with {peer} has ended after its last stream")),
        None => to.tell(|| format!("tunnel with {peer} was cut")),
    }
}

/// Ends when the peer has not answered a PING in time.
async fn silent(config: Arc<DataPlaneConfig>, tunnel: AdoptedTunnel) {
    loop {
        sleep(config.timeouts.ping_interval).await;
        if timeout(config.timeouts.ping, tunnel.ping()).await.is_err() {
            return;
        }
    }
}

/// Goes on with a stream of a tunnel.
async fn stream(shared: Rc<Shared>, made: MadeStream, barred: Option<Barred>) {
    let MadeStream { conn, side, relay: frozen, stream, app, open } = made;
    let (shard, to) = (&shared.shard, &shared.to);
    let _counted = match to {
        TunnelPod::Outbound(ctx) => (shard.count_conn(), Some(ctx.metrics.socket(Reporter::Source))),
        TunnelPod::Inbound(_) => (shard.count_conn(), None),
    };
    let logged = tracing::debug_span!(target: "conn", "handover", stream = true, client = %side.client);
    let spans = Spans::new(logged, "hand-over", side.trace);
    let opening = spans.around(open_report(to, &conn, &side));
    let Some(report) = Box::pin(opening).await else { return };
    match barred {
        Some(Barred::Revoked) => return report.end(Cut::Revoked),
        // Whether a certificate is revoked is not known, so it is taken for one that is.
        Some(Barred::Unknown) => return report.end(Cut::Revoked),
        None => {}
    }
    report.relaying();
    let app = app.into_side();
    let ended = match to {
        TunnelPod::Outbound(_) => {
            let relay = timed(relay(app, stream, &*report, &shard.buffers)).resume(frozen);
            streams::outbound(open.streams(), relay).await
        }
        TunnelPod::Inbound(_) => {
            let relay = timed(relay(stream, app, &*report, &shard.buffers)).resume(frozen);
            streams::inbound(open.streams(), relay).await
        }
    };
    match ended {
        Some(Ok(_)) if shared.revoked.get() => report.end(Cut::Revoked),
        Some(Ok(relayed)) => report.relayed(relayed),
        // The report itself tells why a connection was cut.
        Some(Err(_)) => {}
        None => return report.handed_over(),
    }
    shard.relayed();
}

/// Opens the report of a stream, and asks whether the connection may go on. If it may not, the report tells why.
async fn open_report(to: &TunnelPod, conn: &Conn<ConnInfo>, side: &Side) -> Option<Box<ConnReport>> {
    span::describe(|span| _ = span.set("network.transport", "tcp").addr(span::CLIENT, side.client));
    let report = report(to.workload().mesh.tables(), to.metrics(), conn, side);
    let let_in = match to {
        TunnelPod::Outbound(_) => true,
        TunnelPod::Inbound(ctx) => is_let_in(ctx, conn).await,
    };
    if let_in {
        report.authorized();
    }
    let_in.then_some(report)
}

// === impl AdoptedDriver ===

impl<K: Future<Output = ()>> TunnelDriver for AdoptedDriver<'_, K> {
    type Ended = Result<(), Ended>;

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Self::Ended> {
        if let Poll::Ready(ended) = Pin::new(&mut *self.driver).poll(cx) {
            return Poll::Ready(ended);
        }
        self.silent.as_mut().poll(cx).map(|()| Err(Ended::Closed))
    }

    fn has_said_goodbye(&self) -> bool {
        // No stream is opened on it.
        true
    }

    fn stop(&mut self) {
        self.tunnel.stop();
    }

    fn poll_still(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.tunnel.poll_still(cx)
    }

    fn freeze(&mut self, streams: &[FrozenStream]) -> Result<StillTunnel, Stays> {
        let socket = duplicate(self.driver.io().io()).map_err(|_| Stays::Descriptors)?;
        let http2 = self.tunnel.freeze(streams)?;
        let tls = self.driver.io().session().ok_or(Stays::Ends)?;
        Ok(StillTunnel { tls, http2, socket })
    }

    fn go_on(&mut self) {
        self.tunnel.go_on();
    }
}

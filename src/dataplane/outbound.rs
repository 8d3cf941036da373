//! Captured outbound connections (docs/spec/dataplane.md 3).

mod reach;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::time::{error::Elapsed, timeout};

use super::{
    accepted::Accepted,
    early_data::EarlyData,
    local_hop::{BothReports, LocalHop, LocalPeer},
    outbound_context::OutboundContext,
    pod::{
        conns::{ConnInfo, NextHop, cut},
        network::Network,
    },
    report::{ConnMeta, ConnReport, endpoint},
    resolver,
    stream::{self, AppStream},
    timed_relay::timed,
    tunnel::{
        dialer::TunnelKey,
        pool::{Lease, PodPool},
    },
};
use crate::{
    protocols::{
        addr::{ClientAddr, HboneAddr, OrigDst},
        hbone::{
            client::{self, ConnectError, ConnectRequest},
            headers::{self, TraceParent},
            side::StreamSide,
        },
        identity::Identity,
        labels::{Endpoint, Reporter},
        mesh::{Service, Workload},
        outcome::{Cut, Failure, Unroutable},
        relay::{ClientBytes, RelayError, relay},
        route::{
            Hop, Route, Upstream,
            failover::{Attempt, AttemptError, TunnelAge, TunnelHealth, WaitingFor},
        },
    },
    runtime::{
        balancer::LoadGuard,
        conns::{Conn, CutReason},
        shard::Shard,
    },
    sys::pacing::PathScope,
    telemetry::{
        metrics::GaugeGuard,
        trace::span::{self, SpanKind, Spans, Step},
    },
};

/// Serves a connection accepted on 15001.
pub(crate) fn serve<N: Network>(
    accepted: Accepted<OutboundContext<N>, N::Stream>,
) -> impl Future<Output = ()> + 'static {
    serve_any(accepted, None)
}

/// Serves a connection whose client has named its destination, instead of having been redirected.
pub(crate) fn serve_to<N: Network>(
    accepted: Accepted<OutboundContext<N>, N::Stream>,
    dst: OrigDst,
) -> impl Future<Output = ()> + 'static {
    serve_any(accepted, Some(dst))
}

fn serve_any<N: Network>(
    accepted: Accepted<OutboundContext<N>, N::Stream>,
    named: Option<OrigDst>,
) -> impl Future<Output = ()> + 'static {
    let (peer, shard, id) = (accepted.peer, accepted.shard.clone(), &accepted.ctx.pod.id);
    let logged = tracing::debug_span!(target: "conn", "outbound", %peer, pod = &*id.uid);
    let spans = Spans::new(logged, "outbound", None);
    // The opening is boxed so that the future of an idle connection is not as large as the largest opening step.
    // The box is made outside the async block so that the task's future does not hold the arguments as well.
    let opening = Box::pin(spans.around(open(accepted, named)));
    async move {
        // `Open` is taken apart at once so that the future does not hold both `Open` and its parts.
        let Some(Open { client, conn, counted: _counted, report, reached }) = opening.await else { return };
        report.relaying();
        let failure = |relayed: Result<(), RelayError>| relayed.map_err(Failure::from);
        let relayed = match reached {
            Reached::Tcp(server) => {
                let relay = stream::relay_plain(&shard, client.side, server.into_side(), &*report);
                conn.guard(relay.after(client.said)).await.map(failure)
            }
            Reached::Stream(server, lease, _) => {
                let relay = timed(relay(client.side, server, &*report, &shard.buffers));
                match conn.guard(relay.after(client.said)).await.map(failure) {
                    Ok(_) if lease.is_revoked() => {
                        report.end(Cut::Revoked);
                        Err(cut::REVOKED)
                    }
                    relayed => relayed,
                }
            }
            // The local relay is boxed, as its future is the largest.
            Reached::Local(peer) => {
                Box::pin(relay_local::<N::Stream>(&shard, &conn, &report, client, *peer)).await
            }
        };
        // The report itself tells why a connection was cut.
        if let Ok(relayed) = relayed {
            report.relayed(relayed);
        }
        shard.relayed();
    }
}

/// Relays to a pod that this process serves as well.
async fn relay_local<S: AppStream>(
    shard: &Shard,
    here: &Conn<ConnInfo>,
    report: &ConnReport,
    client: Client<S>,
    LocalPeer { conn: there, report: theirs, app, tracked: _tracked }: LocalPeer<S>,
) -> Result<Result<(), Failure>, CutReason> {
    theirs.relaying();
    let both = BothReports(report, &theirs);
    let relay = stream::relay_plain(shard, client.side, app.into_side(), &both);
    let relaying = there.guard(relay.after(client.said));
    let relayed = here.guard(relaying).await.flatten()?.map_err(Failure::from);
    theirs.relayed(relayed.clone());
    Ok(relayed)
}

/// The client's side of a connection, and the bytes that the client has sent so far.
struct Client<S: AppStream> {
    side: S::Side,
    said: ClientBytes,
}

/// A connection whose next hop is reached.
struct Open<S: AppStream> {
    client: Client<S>,
    conn: Conn<ConnInfo>,
    counted: (LoadGuard, GaugeGuard),
    report: Box<ConnReport>,
    reached: Reached<S>,
}

async fn open<N: Network>(
    Accepted { ctx, arriving, shard, stream, peer }: Accepted<OutboundContext<N>, N::Stream>,
    named: Option<OrigDst>,
) -> Option<Open<N::Stream>> {
    let capture = Step::new("capture", SpanKind::Internal);
    let (client, dst) = match named {
        Some(dst) => (ClientAddr::new(peer), dst),
        None => stream::captured_addrs(&stream, peer).ok()?,
    };
    if named.is_none() && ctx.canaries.recognizes(client.addr(), dst.addr()) {
        stream.reset_on_drop();
        return None;
    }
    span::describe(|span| {
        let span = span.set("network.transport", "tcp").set("warren.pod.uid", ctx.pod.id.uid.to_string());
        span.addr(span::CLIENT, client.addr()).addr(span::SERVER, dst.addr());
    });
    let info = ConnInfo {
        reporter: Reporter::Source,
        src: client.addr(),
        identity: None,
        dst: dst.addr(),
        waits: false.into(),
        host: None,
        next_hop: None.into(),
    };
    let conn = ctx.conns.live.admit(shard.index(), info).ok()?;
    drop((arriving, capture));
    let counted = (shard.count_conn(), ctx.metrics.socket(Reporter::Source));
    let early = EarlyData::new(stream);
    let started = Instant::now();
    let outbound = Outbound { ctx: &ctx, shard: &shard, conn: &conn, early: &early, started, client, dst };
    let (report, reached) = conn.guard(outbound.reach()).await.ok()??;
    let (side, said) = early.through(matches!(reached, Reached::Stream(_, _, true)))?;
    let client = Client { side, said };
    Some(Open { client, conn, counted, report, reached })
}

/// One outbound connection.
struct Outbound<'a, N: Network> {
    ctx: &'a OutboundContext<N>,
    shard: &'a Shard,
    conn: &'a Conn<ConnInfo>,
    early: &'a EarlyData<N::Stream>,
    started: Instant,
    client: ClientAddr,
    dst: OrigDst,
}

/// An attempt, and the function that decides whether a slow attempt is given up.
#[derive(Clone, Copy)]
struct Trying<'a> {
    attempt: Attempt,
    /// Whether another endpoint is tried in the place of the given endpoint. A tunnel dial goes on for later
    /// connections when the attempt is given up.
    replaces_slow: &'a dyn Fn(SocketAddr, WaitingFor) -> bool,
}

/// The pod's workload and identity.
struct Own {
    workload: Arc<Workload>,
    identity: Identity,
}

/// A next hop that was reached.
enum Reached<S: AppStream> {
    Tcp(S),
    /// A stream of a tunnel. The flag says whether the CONNECT carried the client's early data.
    Stream(StreamSide, Lease, bool),
    /// The destination's half of the connection, which this process serves as well.
    Local(Box<LocalPeer<S>>),
}

// === impl Outbound ===

impl<N: Network> Outbound<'_, N> {
    /// Makes one attempt to reach the next hop.
    async fn attempt(
        &self,
        Own { workload, identity }: &Own,
        route: Route,
        trying: Trying<'_>,
    ) -> (Box<ConnReport>, Result<Reached<N::Stream>, AttemptError>) {
        let resolved = self.resolve(&route, workload, identity).await;
        let to = resolved.as_ref().map_or(self.dst.addr(), |to| *to);
        let hop = route.hop.resolved(to.ip());
        let tunnelled = matches!(hop, Hop::Hbone { .. } | Hop::DoubleHbone { .. });
        let protocol = match hop {
            Hop::Tcp { .. } => "TCP",
            Hop::Hbone { .. } => "HBONE",
            Hop::DoubleHbone { .. } => "DOUBLEHBONE",
        };
        *self.conn.info().next_hop.lock() = Some(NextHop { addr: to, protocol });
        let meta = ConnMeta {
            source: Some(workload.clone()),
            source_identity: tunnelled.then(|| identity.clone()),
            destination_identity: route.destination.as_deref().map(|w| w.identity().clone()),
            destination: route.destination,
            service: route.service,
            authority: match &hop {
                Hop::Hbone { authority, .. } | Hop::DoubleHbone { authority, .. } => Some(authority.clone()),
                Hop::Tcp { .. } => None,
            },
            mtls: tunnelled,
            ..ConnMeta::default()
        };
        let mut report = ConnReport::begin(&self.ctx.metrics, self.conn, to, meta, self.started);
        if trying.attempt.is_last {
            report.opened();
        }
        if let Err(error) = resolved {
            return (report, Err(AttemptError::Unresolved(error)));
        }
        let reached = match hop {
            Hop::Tcp { .. } => self.direct(to, trying).await,
            Hop::Hbone { authority, sans, .. } => {
                let key = TunnelKey { to, identity: identity.clone(), sans };
                match LocalHop::find(self.ctx, self.shard, self.client, &key, report.meta()) {
                    Some(hop) => {
                        let peer = hop.reach(self.shard, self.conn).await;
                        peer.inspect(|peer| report.beside(&peer.conn)).map(Reached::Local)
                    }
                    None => {
                        let request = self.request(workload, authority, report.meta().service.as_deref());
                        self.stream(&key, request, trying).await
                    }
                }
            }
            Hop::DoubleHbone { .. } => Err(AttemptError::DoubleHbone),
        };
        (report, reached)
    }

    /// Connects without a tunnel.
    async fn direct(&self, to: SocketAddr, trying: Trying<'_>) -> Result<Reached<N::Stream>, AttemptError> {
        let after = trying.attempt.slow_after;
        let connecting = self.ctx.network.connect(to, None, PathScope::Network);
        let replaced = || (trying.replaces_slow)(to, WaitingFor::Endpoint);
        let connecting = unless_replaced(connecting, after, replaced);
        let connected = Step::run("tcp connect", SpanKind::Client, connecting)
            .describe(|span, connected| _ = span.addr(span::PEER, to).timed_result("connect", connected))
            .await;
        match connected {
            Some(Ok(stream)) => Ok(Reached::Tcp(stream)),
            Some(Err(error)) => Err(error.of_attempt()),
            None => Err(AttemptError::SlowConnect { to, after }),
        }
    }

    /// Leases a place for a stream on a tunnel to `key`.
    async fn lease(&self, key: &TunnelKey, trying: Trying<'_>) -> Result<(Lease, TunnelAge), AttemptError> {
        let pool = PodPool::of(self.shard, self.ctx.pod.id.serial);
        if let Some(lease) = pool.ready(key) {
            return Ok((lease, TunnelAge::Kept));
        }
        let after = trying.attempt.slow_after;
        let certs = &self.ctx.hops.certs;
        let waiting = || match certs.current(&key.identity) {
            Some(_) => WaitingFor::Endpoint,
            None => WaitingFor::Certificate,
        };
        let replaced = || (trying.replaces_slow)(key.to, waiting());
        let leasing = pool.lease(&self.ctx.peers.dialer, self.shard, key);
        let leasing = unless_replaced(leasing, after, replaced);
        let leased = Step::run("wait for tunnel", SpanKind::Internal, leasing)
            .describe(|span, leased| _ = span.addr(span::PEER, key.to).timed_result("dial", leased))
            .await;
        match leased {
            Some(leased) => leased.map(|lease| (lease, TunnelAge::New)).map_err(|error| error.of_attempt()),
            None => Err(AttemptError::SlowTunnel { to: key.to, after }),
        }
    }

    /// Opens a stream through a tunnel to `key`.
    async fn stream(
        &self,
        key: &TunnelKey,
        request: ConnectRequest,
        trying: Trying<'_>,
    ) -> Result<Reached<N::Stream>, AttemptError> {
        let mut attempt = trying.attempt;
        loop {
            let (lease, age) = self.lease(key, trying).await?;
            let along = self.early_data(&attempt, key, &request.authority);
            let sent_along = !along.is_empty();
            let error = match self.connect(&lease, key, request.clone(), along).await {
                Ok(side) => return Ok(Reached::Stream(side, lease, sent_along)),
                Err(error) => error,
            };
            match error.tunnel_health() {
                TunnelHealth::Sound => {}
                TunnelHealth::Doubtful => lease.mark_unhealthy(),
                TunnelHealth::Ending => lease.retire(),
            }
            if !attempt.takes_another_tunnel(&error, age) {
                return Err(error);
            }
        }
    }

    /// Sends a CONNECT and the early data `along` on the tunnel of `lease`, and waits for the answer.
    async fn connect(
        &self,
        lease: &Lease,
        key: &TunnelKey,
        mut request: ConnectRequest,
        along: Bytes,
    ) -> Result<StreamSide, AttemptError> {
        let sent_along = !along.is_empty();
        let after = self.ctx.config.timeouts.connect_response;
        let step = Step::new("CONNECT", SpanKind::Client);
        // The peer's spans become children of this step's span.
        request.trace = step.trace_parent().unwrap_or(request.trace);
        let asking = client::connect(lease.send_request(), request, along);
        let answered = timeout(after, step.within(asking)).await;
        step.describe(|span| answer(span.addr(span::PEER, key.to), &answered));
        match answered {
            Ok(Ok((side, _))) => Ok(side),
            Ok(Err(error)) => Err(AttemptError::Request { error, sent_along }),
            Err(_) => Err(AttemptError::NoAnswer { to: key.to, after, sent_along }),
        }
    }

    /// The bytes that the client has sent so far, if the CONNECT may carry them; empty otherwise.
    fn early_data(&self, attempt: &Attempt, key: &TunnelKey, authority: &HboneAddr) -> Bytes {
        if self.ctx.config.tunnel.http2.early_data && attempt.sends_early_data(key.to, authority) {
            self.early.said()
        } else {
            Bytes::new()
        }
    }

    fn request(
        &self,
        workload: &Arc<Workload>,
        authority: HboneAddr,
        service: Option<&Service>,
    ) -> ConnectRequest {
        ConnectRequest {
            authority,
            baggage: self.ctx.pod.baggage(workload),
            forwarded: headers::forwarded(self.client.addr(), service.map(Service::hostname)),
            trace: TraceParent::random(&mut *self.shard.rng.borrow_mut()),
            network: None,
        }
    }

    /// The address of a next hop. A next hop that has only a name is looked up in DNS, and the lookup is counted.
    async fn resolve(
        &self,
        route: &Route,
        source: &Workload,
        identity: &Identity,
    ) -> Result<SocketAddr, Unroutable> {
        let (host, port, prefer_v6) = match route.hop.upstream() {
            Upstream::Ip(addr) => return Ok(*addr),
            Upstream::Host { host, port, prefer_v6 } => (host.clone(), *port, *prefer_v6),
        };
        let principal = identity.to_string();
        let endpoint = Endpoint { principal: Some(&principal), ..endpoint(Some(source), None) };
        self.ctx.metrics.on_demand_dns(&endpoint, &host);
        let within = self.ctx.config.timeouts.connect;
        let found = self.ctx.hops.resolver.find(&host, within).await;
        let ip = resolver::choose(&found, prefer_v6, &mut *self.shard.rng.borrow_mut());
        let unresolved = || Unroutable::NoAddresses(host.to_string().into());
        Ok(SocketAddr::new(ip.ok_or_else(unresolved)?, port))
    }
}

/// Describes the answer to a CONNECT in a trace.
fn answer<T>(span: span::Attributes<'_>, answered: &Result<Result<T, ConnectError>, Elapsed>) {
    let span = span.set("http.request.method", "CONNECT");
    let status = match answered {
        Ok(Ok(_)) => 200,
        Ok(Err(ConnectError::PeerStatus(status))) => status.as_u16(),
        Ok(Err(error)) => {
            span.failed("h2", error);
            return;
        }
        Err(_) => {
            span.failed("timeout", "no answer");
            return;
        }
    };
    let span = span.set("http.response.status_code", i64::from(status));
    if status != 200 {
        span.failed("status", status);
    }
}

/// Awaits `work`. After each period `after`, `is_replaced` tells whether another endpoint replaces `work`; the result
/// is then `None`.
async fn unless_replaced<T>(
    work: impl Future<Output = T>,
    after: Duration,
    is_replaced: impl Fn() -> bool,
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        match timeout(after, work.as_mut()).await {
            Ok(done) => return Some(done),
            Err(_) if is_replaced() => return None,
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;

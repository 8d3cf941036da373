//! Captured outbound connections (docs/spec/dataplane.md 3).

mod reach;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use tokio::time::timeout;

use super::{
    accepted::Accepted,
    early_data::EarlyData,
    gateway_hop::{GatewayHop, Nested},
    local_hop::{BothReports, LocalHop, LocalPeer},
    movable,
    outbound_context::OutboundContext,
    pod::{
        conns::{Carried, ConnInfo, NextHop, cut},
        departure::Departure,
        network::Network,
    },
    report::{ConnMeta, ConnReport, endpoint},
    resolver,
    stream::{self, AppStream},
    timed_relay::timed,
    trying::{self, Trying},
    tunnel::{dialer::TunnelKey, pool::Lease, streams},
};
use crate::{
    protocols::{
        addr::{ClientAddr, HboneAddr, OrigDst},
        hbone::{
            client::{self, ConnectRequest},
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
            failover::{Attempt, AttemptError, TunnelHealth, WaitingFor},
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
        setup::SetupStep,
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
        let Some(Open { client, conn, counted, report, reached }) = opening.await else { return };
        report.relaying();
        let failure = |relayed: Result<(), RelayError>| relayed.map_err(Failure::from);
        let (relayed, ending) = match reached {
            Reached::Tcp(server) => {
                let relay = stream::relay_plain(&shard, client.side, server.into_side(), &*report);
                let relay = movable::relay((&conn, &conn), relay.after(client.said));
                // The box keeps the future of a connection through a tunnel small.
                match Box::pin(relay).await {
                    Some(ended) => (ended.map(failure), None),
                    None => return report.handed_over(),
                }
            }
            Reached::Stream(server, lease, _) => {
                let relay = timed(relay(client.side, server, &*report, &shard.buffers)).after(client.said);
                let relayed = match streams::outbound(lease.streams(), relay).await {
                    Some(Ok(_)) if lease.is_revoked() => {
                        report.end(Cut::Revoked);
                        Err(cut::REVOKED)
                    }
                    Some(relayed) => relayed.map(failure),
                    None => return report.handed_over(),
                };
                (relayed, None)
            }
            // The local relay is boxed, as its future is the largest.
            Reached::Local(peer) => {
                match Box::pin(relay_local::<N::Stream>(&shard, &conn, &report, client, *peer)).await {
                    Some(ended) => (ended, None),
                    None => return report.handed_over(),
                }
            }
            Reached::Nested(nested) => {
                Box::pin(nested.relay(&shard, &conn, &report, (client.side, client.said))).await
            }
        };
        // The report itself tells why a connection was cut.
        if let Ok(relayed) = relayed {
            report.relayed(relayed);
        }
        shard.relayed();
        // An inner tunnel takes a while to end, and the connection has ended before.
        drop((report, counted));
        if let Some(ending) = ending {
            Box::pin(ending.end(&conn)).await;
        }
    }
}

/// Relays to a pod that this process serves as well. The result is that of [`movable::relay`].
async fn relay_local<S: AppStream>(
    shard: &Shard,
    here: &Conn<ConnInfo>,
    report: &ConnReport,
    client: Client<S>,
    LocalPeer { conn: there, report: theirs, app, uid, tracked: _tracked }: LocalPeer<S>,
) -> Option<Result<Result<(), Failure>, CutReason>> {
    theirs.relaying();
    let both = BothReports(report, &theirs, &uid);
    let ended = {
        let relay = stream::relay_plain(shard, client.side, app.into_side(), &both).after(client.said);
        movable::relay((here, &there), relay).await
    };
    let Some(ended) = ended else {
        theirs.handed_over();
        return None;
    };
    Some(ended.map(|relayed| {
        let relayed = relayed.map_err(Failure::from);
        theirs.relayed(relayed.clone());
        relayed
    }))
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
        departure: Departure::default(),
        carried: Carried::default(),
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
    /// A stream of a tunnel inside a tunnel to a gateway.
    Nested(Box<Nested>),
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
        let is_known = !matches!(hop, Hop::DoubleHbone { .. });
        let mut report = ConnReport::begin(&self.ctx.metrics, self.conn, to, meta, self.started);
        // Only its answer tells the destination behind a gateway, and its labels.
        if trying.attempt.is_last && is_known {
            report.opened();
        }
        if let Err(error) = resolved {
            return (report, Err(AttemptError::Unresolved(error)));
        }
        let reached = match hop {
            Hop::Tcp { .. } => self.direct(to, trying).await,
            Hop::Hbone { authority, sans, .. } => {
                let key = TunnelKey { to, identity: identity.clone(), sans };
                match LocalHop::find(self.ctx, self.shard, self.client, &key, report.meta()).await {
                    Ok(Some(hop)) => {
                        self.conn.info().carried.is_joined();
                        let peer = hop.reach(self.shard, self.conn).await;
                        peer.inspect(|peer| report.beside(&peer.conn)).map(Reached::Local)
                    }
                    Ok(None) => {
                        let request = self.request(workload, authority, report.meta().service.as_deref());
                        self.stream(&key, request, trying).await
                    }
                    Err(error) => Err(error),
                }
            }
            Hop::DoubleHbone { authority, gateway_sans, sans, .. } => {
                let key = TunnelKey { to, identity: identity.clone(), sans: gateway_sans };
                let request = self.request(workload, authority, report.meta().service.as_deref());
                let hop = GatewayHop { ctx: self.ctx, shard: self.shard, outer: &key, sans: &sans };
                // The future is boxed, as few connections need the room for it.
                Box::pin(hop.reach(request, trying)).await.map(|(nested, peer)| {
                    report.answered_by(&self.ctx.metrics, peer);
                    Reached::Nested(Box::new(nested))
                })
            }
        };
        (report, reached)
    }

    /// Connects without a tunnel.
    async fn direct(&self, to: SocketAddr, trying: Trying<'_>) -> Result<Reached<N::Stream>, AttemptError> {
        let (after, began) = (trying.attempt.slow_after, Instant::now());
        let connecting = self.ctx.network.connect(to, None, PathScope::Network);
        let connecting = trying.unless_replaced(connecting, to, || WaitingFor::Endpoint);
        let connected = Step::run("tcp connect", SpanKind::Client, connecting)
            .describe(|span, connected| _ = span.addr(span::PEER, to).timed_result("connect", connected))
            .await;
        match connected {
            Some(Ok(stream)) => {
                self.took(SetupStep::Dial, began);
                Ok(Reached::Tcp(stream))
            }
            Some(Err(error)) => Err(error.of_attempt()),
            None => Err(AttemptError::SlowConnect { to, after }),
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
            let (lease, age) = trying.lease(self.ctx, self.shard, key).await?;
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
        let began = Instant::now();
        let asking = client::connect(lease.send_request(), request, along);
        let answered = timeout(after, step.within(asking)).await;
        step.describe(|span| trying::describe(span.addr(span::PEER, key.to), &answered));
        match answered {
            Ok(Ok((side, _))) => {
                self.took(SetupStep::Connect, began);
                Ok(side)
            }
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

#[cfg(test)]
mod tests;

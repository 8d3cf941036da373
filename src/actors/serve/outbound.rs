//! Captured outbound connections (contract/dataplane.md section 3).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    net::TcpStream,
    time::{error::Elapsed, timeout},
};

use super::{
    early::Early,
    local::{Both, Join, Joined},
    report::{Facts, Report, endpoint},
};
use crate::{
    actors::{
        load::Counted,
        pods::{
            audit,
            pod::{Arriving, ConnInfo, Pod},
        },
        shard::Shard,
        sys::{pacing::Reach, probe, socket::AppSide},
        telemetry::{
            access,
            metrics::Held,
            trace::span::{self, Kind, Spans, Step},
        },
        tunnel::{
            TunnelKey, dial,
            pool::{Lease, PodPool},
        },
    },
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
        outcome::{Cause, Failure, Outcome, Unroutable},
        relay::{ClientBytes, RelayError, relay},
        route::{
            self, Hop, Pick, Route, RouteError, Source, Upstream,
            failover::{
                AfterFailure, Attempt, AttemptError, Failover, FailoverLimits, NoAttempt, TunnelHealth,
                WaitingFor,
            },
        },
    },
    supervisor::{Conn, CutReason},
};

/// Serves a connection accepted on 15001.
pub fn serve(
    pod: Arriving,
    shard: Shard,
    stream: TcpStream,
    peer: SocketAddr,
) -> impl Future<Output = ()> + 'static {
    let logged = tracing::debug_span!(target: "conn", "outbound", %peer, pod = &*pod.uid);
    let spans = Spans::new(logged, "outbound", None);
    // Boxed: its many steps would make the future of every idle connection as large as the largest of them. And here,
    // so that the task's future does not hold the arguments as well.
    let opening = Box::pin(spans.around(open(pod, shard.clone(), stream, peer)));
    async move {
        // Taken apart at once: later, the whole would be held beside its parts.
        let Some(Open { client: (client, said), conn, counted: _counted, report, reached }) = opening.await
        else {
            return;
        };
        report.relaying();
        let failure = |relayed: Result<(), RelayError>| relayed.map_err(Failure::from);
        let relayed = match reached {
            Reached::Tcp(server) => {
                conn.guard(super::plainly(&shard, (client, server), &*report).after(said)).await.map(failure)
            }
            Reached::Stream(server, _lease, _) => {
                conn.guard(relay(client, server, &*report, &shard.buffers).after(said)).await.map(failure)
            }
            // Boxed, as it is the largest.
            Reached::Local(joined) => Box::pin(join(&shard, (&conn, &report), (client, said), *joined)).await,
        };
        // A connection that was cut is reported as such.
        if let Ok(relayed) = relayed {
            report.relayed(relayed);
        }
        shard.relayed();
    }
}

/// Relays to a pod that is served here, too.
async fn join(
    shard: &Shard,
    (here, report): (&Conn<ConnInfo>, &Report),
    (client, said): (AppSide, ClientBytes),
    Joined { conn: there, report: theirs, app }: Joined,
) -> Result<Result<(), Failure>, CutReason> {
    theirs.relaying();
    let both = Both(report, &theirs);
    let relaying = there.guard(super::plainly(shard, (client, AppSide::of(app)), &both).after(said));
    let relayed = here.guard(relaying).await.flatten()?.map_err(Failure::from);
    theirs.relayed(relayed.clone());
    Ok(relayed)
}

/// A connection whose next hop is reached.
struct Open {
    client: (AppSide, ClientBytes),
    conn: Conn<ConnInfo>,
    counted: (Counted, Held),
    report: Box<Report>,
    reached: Reached,
}

async fn open(arriving: Arriving, shard: Shard, stream: TcpStream, peer: SocketAddr) -> Option<Open> {
    let pod = &*arriving;
    let capture = Step::new("capture", Kind::Internal);
    let (client, dst) = super::captured(&stream, peer).ok()?;
    if audit::is_canary(pod, client.addr(), dst.addr()) {
        probe::drop_at_once(&stream);
        return None;
    }
    span::describe(|span| {
        let span = span.set("network.transport", "tcp").set("warren.pod.uid", pod.uid.to_string());
        span.addr(span::CLIENT, client.addr()).addr(span::SERVER, dst.addr());
    });
    let info = ConnInfo {
        reporter: Reporter::Source,
        tunnelled: false,
        src: client.addr(),
        identity: None,
        dst: dst.addr(),
        waits: false.into(),
    };
    let conn = pod.conns.admit(shard.index(), info).ok()?;
    let pod = arriving.arrived();
    drop(capture);
    let counted = (shard.count_conn(), pod.node.metrics.socket(Reporter::Source));
    let early = Early::new(stream);
    let outbound = Outbound { pod: &pod, shard: &shard, conn: &conn, early: &early, client, dst };
    let (report, reached) = conn.guard(outbound.reach()).await.ok()??;
    let client = early.through(matches!(reached, Reached::Stream(_, _, true)))?;
    Some(Open { client, conn, counted, report, reached })
}

/// One outbound connection.
struct Outbound<'a> {
    pod: &'a Arc<Pod>,
    shard: &'a Shard,
    conn: &'a Conn<ConnInfo>,
    early: &'a Early,
    client: ClientAddr,
    dst: OrigDst,
}

/// An attempt, and what decides whether it is given up for being slow.
#[derive(Clone, Copy)]
struct Trying<'a> {
    attempt: Attempt,
    /// Whether another endpoint is tried in the place of the given one. A dial that is given up goes on for later
    /// connections.
    replaces_slow: &'a dyn Fn(SocketAddr, WaitingFor) -> bool,
}

/// A next hop that was reached.
enum Reached {
    Tcp(AppSide),
    /// Whether what the client had said went along.
    Stream(StreamSide, Lease, bool),
    /// The destination's own side, served here too.
    Local(Box<Joined>),
}

// === impl Outbound ===

impl Outbound<'_> {
    /// Reaches the next hop of the connection, or that of another endpoint if the first one fails. What fails is
    /// reported. [`Failover`] decides what is tried.
    async fn reach(&self) -> Option<(Box<Report>, Reached)> {
        let step = Step::new("wait for identity", Kind::Internal);
        let source = step.within(self.source()).await;
        step.describe(|span| _ = span.result("identity", &source));
        drop(step);
        let source = source.map_err(|outcome| self.refuse(&outcome)).ok()?;
        let mut failover = Failover::new(FailoverLimits::STANDARD, self.pod.node.suspects.now());
        loop {
            let next = self.next(&mut failover, &source.0);
            let (attempt, route) = next.map_err(|none| self.no_attempt(none)).ok()?;
            let replaces_slow = |to: SocketAddr, waiting: WaitingFor| {
                let route = |excluded: &[SocketAddr]| self.route(&source.0, excluded);
                failover.replaces_slow(&attempt, (to, waiting), route)
            };
            let trying = Trying { attempt, replaces_slow: &replaces_slow };
            let (mut report, reached) = self.attempt(&source, route, trying).await;
            let to = report.dialled();
            let error = match reached {
                Ok(reached) => return Some((report, reached)),
                Err(error) => error,
            };
            match failover.failed(&attempt, to, &error) {
                AfterFailure::TryNext => {
                    report.tries_again(error.into());
                    self.pod.node.suspects.add(to);
                }
                AfterFailure::GiveUp => {
                    report.end(error);
                    return None;
                }
            }
        }
    }

    /// The next attempt and its route.
    fn next(&self, failover: &mut Failover, source: &Workload) -> Result<(Attempt, Route), NoAttempt> {
        let step = Step::new("route", Kind::Internal);
        let next = failover.next(|excluded| self.route(source, excluded));
        step.describe(|span| describe(span, failover.attempts(), &next));
        next
    }

    /// Says that nothing is tried any more, unless the report of the last attempt has said so.
    fn no_attempt(&self, none: NoAttempt) {
        match none {
            NoAttempt::AllFailed(_) => span::refused(&none.into()),
            NoAttempt::Unroutable(_) => self.refuse(&none.into()),
        }
    }

    fn refuse(&self, outcome: &Outcome) {
        span::refused(outcome);
        access::refused(self.client.addr(), self.dst.addr(), Reporter::Source, outcome);
    }

    async fn source(&self) -> Result<(Arc<Workload>, Identity), Outcome> {
        let workload = self.pod.workload().await?;
        let identity = self.pod.identity(&workload).map_err(|e| Failure::Identity(Cause::of(e)))?;
        let source = Source { workload: &workload, client: self.client.ip() };
        route::check_outbound(&self.pod.node.settings.illegal_ports, &source, self.dst)
            .map_err(Unroutable::from)?;
        Ok((workload, identity))
    }

    fn route(&self, workload: &Workload, excluded: &[SocketAddr]) -> Result<Route, RouteError> {
        let source = Source { workload, client: self.client.ip() };
        let mut rng = self.shard.rng.borrow_mut();
        route::outbound(&self.pod.node.mesh, &source, self.dst, &mut Pick { rng: &mut *rng, excluded })
    }

    /// Makes one attempt to reach the next hop.
    async fn attempt(
        &self,
        (workload, identity): &(Arc<Workload>, Identity),
        route: Route,
        trying: Trying<'_>,
    ) -> (Box<Report>, Result<Reached, AttemptError>) {
        let resolved = self.resolve(&route, workload, identity).await;
        let to = resolved.as_ref().map_or(self.dst.addr(), |to| *to);
        let hop = route.hop.resolved(to.ip());
        let tunnelled = matches!(hop, Hop::Hbone { .. } | Hop::DoubleHbone { .. });
        let facts = Facts {
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
            ..Facts::default()
        };
        let mut report = Report::open(self.pod, self.conn, to, facts);
        if let Err(error) = resolved {
            return (report, Err(AttemptError::Unresolved(error)));
        }
        let reached = match hop {
            Hop::Tcp { .. } => self.direct(to, trying).await,
            Hop::Hbone { authority, sans, .. } => {
                let key = TunnelKey { to, identity: identity.clone(), sans };
                match Join::find(self.pod, self.shard, self.client, &key, report.facts()) {
                    Some(join) => {
                        let joined = join.reach(self.shard, self.conn).await;
                        joined.inspect(|joined| report.beside(&joined.conn)).map(Reached::Local)
                    }
                    None => {
                        let request = self.request(workload, authority, report.facts().service.as_deref());
                        self.stream(&key, request, trying).await
                    }
                }
            }
            Hop::DoubleHbone { .. } => Err(AttemptError::DoubleHbone),
        };
        (report, reached)
    }

    /// Connects without a tunnel.
    async fn direct(&self, to: SocketAddr, trying: Trying<'_>) -> Result<Reached, AttemptError> {
        let after = trying.attempt.slow_after;
        let step = Step::new("tcp connect", Kind::Client);
        let connecting = dial::connect(self.pod, to, None, Reach::Network);
        let replaced = || (trying.replaces_slow)(to, WaitingFor::Endpoint);
        let connected = step.within(unless_replaced(connecting, after, replaced)).await;
        step.describe(|span| _ = span.addr(span::PEER, to).patient("connect", &connected));
        drop(step);
        match connected {
            Some(Ok(stream)) => Ok(Reached::Tcp(AppSide::of(stream))),
            Some(Err(error)) => Err(AttemptError::Connect(Failure::Dial(Cause::of(error)))),
            None => Err(AttemptError::SlowConnect { to, after }),
        }
    }

    /// A place on a tunnel to `key`.
    async fn lease(&self, key: &TunnelKey, trying: Trying<'_>) -> Result<Lease, AttemptError> {
        let pool = PodPool::of(self.pod, self.shard);
        if let Some(lease) = pool.ready(key) {
            return Ok(lease);
        }
        let after = trying.attempt.slow_after;
        let step = Step::new("wait for tunnel", Kind::Internal);
        let certs = &self.pod.node.certs;
        let waiting = || match certs.current(&key.identity) {
            Some(_) => WaitingFor::Endpoint,
            None => WaitingFor::Certificate,
        };
        let replaced = || (trying.replaces_slow)(key.to, waiting());
        let leasing = pool.lease(self.pod, self.shard, key);
        let leased = step.within(unless_replaced(leasing, after, replaced)).await;
        step.describe(|span| _ = span.addr(span::PEER, key.to).patient("dial", &leased));
        drop(step);
        match leased {
            Some(leased) => leased.map_err(|error| error.of_attempt()),
            None => Err(AttemptError::SlowTunnel { to: key.to, after }),
        }
    }

    /// Opens a stream through a tunnel to `key`.
    async fn stream(
        &self,
        key: &TunnelKey,
        request: ConnectRequest,
        trying: Trying<'_>,
    ) -> Result<Reached, AttemptError> {
        let mut attempt = trying.attempt;
        loop {
            let lease = self.lease(key, trying).await?;
            let along = self.early_data(&attempt, key, &request.authority);
            let sent_along = !along.is_empty();
            let error = match self.connect(&lease, key, (request.clone(), along)).await {
                Ok(side) => return Ok(Reached::Stream(side, lease, sent_along)),
                Err(error) => error,
            };
            match error.tunnel_health() {
                TunnelHealth::Sound => {}
                TunnelHealth::Doubtful => lease.distrust(),
                TunnelHealth::Ending => lease.retire(),
            }
            if !attempt.takes_another_tunnel(&error) {
                return Err(error);
            }
        }
    }

    /// Sends a CONNECT on the tunnel of `lease`, and what goes along with it, and waits for the answer.
    async fn connect(
        &self,
        lease: &Lease,
        key: &TunnelKey,
        (mut request, along): (ConnectRequest, Bytes),
    ) -> Result<StreamSide, AttemptError> {
        let sent_along = !along.is_empty();
        let after = self.pod.node.settings.timeouts.response;
        let step = Step::new("CONNECT", Kind::Client);
        // The peer's spans are inside this one.
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

    /// What the client has said so far, if it may go along with the CONNECT.
    fn early_data(&self, attempt: &Attempt, key: &TunnelKey, authority: &HboneAddr) -> Bytes {
        if self.pod.node.settings.options.early_data && attempt.sends_early_data(key.to, authority) {
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
            baggage: self.pod.baggage(workload),
            forwarded: headers::forwarded(self.client.addr(), service.map(Service::hostname)),
            trace: TraceParent::random(&mut *self.shard.rng.borrow_mut()),
            network: None,
        }
    }

    /// The address of a next hop, asking DNS if it has only a name, which is counted.
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
        self.pod.node.metrics.on_demand_dns(&endpoint, &host);
        let unresolved = || Unroutable::NoAddresses(host.to_string().into());
        let asked = host.clone();
        // The resolver's threads inherit the namespace of the thread that makes them: the proxy's own.
        #[allow(clippy::disallowed_methods, reason = "awaited right here, and the resolver bounds itself")]
        let looking = self.pod.node.home.enter_sticky(move || {
            tokio::task::spawn_blocking(move || {
                std::net::ToSocketAddrs::to_socket_addrs(&(&*asked, port)).map(Vec::from_iter)
            })
        });
        let looking = looking.map_err(|_| unresolved())?;
        let found = timeout(self.pod.node.settings.timeouts.connect, looking).await;
        let Ok(Ok(Ok(addrs))) = found else { return Err(unresolved()) };
        let mut addrs: Vec<SocketAddr> = addrs.into_iter().map(crate::protocols::addr::canonical).collect();
        if addrs.iter().any(|a| a.is_ipv6() == prefer_v6) {
            addrs.retain(|a| a.is_ipv6() == prefer_v6);
        }
        use rand::seq::IndexedRandom;
        addrs.choose(&mut *self.shard.rng.borrow_mut()).copied().ok_or_else(unresolved)
    }
}

/// Describes a route in a trace.
fn describe(span: span::Attributes<'_>, attempt: usize, next: &Result<(Attempt, Route), NoAttempt>) {
    let span = span.set("warren.attempt", i64::try_from(attempt).unwrap_or_default());
    let route = match next {
        Ok((_, route)) => route,
        Err(none) => {
            span.failed("route", none);
            return;
        }
    };
    let hop = match route.hop {
        Hop::Tcp { .. } => "tcp",
        Hop::Hbone { .. } => "hbone",
        Hop::DoubleHbone { .. } => "double hbone",
    };
    span.set("warren.route", hop)
        .maybe("warren.destination.workload", route.destination.as_ref().map(|w| w.name().to_owned()))
        .maybe("warren.destination.service", route.service.as_ref().map(|s| s.hostname().to_owned()));
}

/// What a trace says of the answer to a CONNECT.
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

/// Awaits `work`. Whenever it has taken `after`, asks whether something else is tried in its place; `None`: it is.
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

//! Captured outbound connections (docs/spec/dataplane.md 3).

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
        outcome::{Failure, Outcome, Unroutable},
        relay::{Fault, Said, relay},
        route::{self, Hop, Pick, Route, RouteError, Source, Upstream},
    },
    supervisor::{Conn, CutReason},
};

/// Endpoints tried for one connection.
/// Limit: endpoints that are tried for a connection: 3; past it: the last failure is the connection's.
const ATTEMPTS: usize = 3;
/// How long an endpoint may take to be reached while there may be another one. Its dial goes on for later connections.
/// Limit: reaching an endpoint while another can be had: 1 s; past it: the next endpoint is tried, and the dial goes
/// on.
const IMPATIENCE: Duration = Duration::from_secs(1);

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
        let relayed = match reached {
            Reached::Tcp(server) => {
                conn.guard(super::plainly(&shard, (client, server), &*report).after(said)).await
            }
            Reached::Stream(server, _lease, _) => {
                conn.guard(relay(client, server, &*report, &shard.buffers).after(said)).await
            }
            // Boxed, as it is the largest.
            Reached::Local(joined) => Box::pin(join(&shard, (&conn, &report), (client, said), *joined)).await,
        };
        // A connection that was cut is reported as such.
        if let Ok(relayed) = relayed {
            report.relayed(&relayed);
        }
        shard.relayed();
    }
}

/// Relays to a pod that is served here, too.
async fn join(
    shard: &Shard,
    (here, report): (&Conn<ConnInfo>, &Report),
    (client, said): (AppSide, Said),
    Joined { conn: there, report: theirs, app }: Joined,
) -> Result<Result<(), Fault>, CutReason> {
    theirs.relaying();
    let both = Both(report, &theirs);
    let relaying = there.guard(super::plainly(shard, (client, AppSide::of(app)), &both).after(said));
    let relayed = here.guard(relaying).await.flatten();
    relayed.inspect(|relayed| theirs.relayed(relayed))
}

/// A connection whose next hop is reached.
struct Open {
    client: (AppSide, Said),
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
    /// The next hop of the connection, or of another endpoint if the first does not answer. What fails is reported.
    async fn reach(&self) -> Option<(Box<Report>, Reached)> {
        let step = Step::new("wait for identity", Kind::Internal);
        let source = step.within(self.source()).await;
        step.describe(|span| _ = span.result("identity", &source));
        drop(step);
        let source = source.map_err(|outcome| self.refuse(&outcome)).ok()?;
        // Suspects are passed over while anything else is left; what failed for this connection is not tried again.
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut avoid = self.pod.node.suspects.now();
        for attempt in 1..=ATTEMPTS {
            let step = Step::new("route", Kind::Internal);
            let routed = match self.route(&source.0, &avoid) {
                Err(RouteError::NoHealthyUpstream(_)) if avoid.len() > tried.len() => {
                    avoid.clone_from(&tried);
                    self.route(&source.0, &avoid)
                }
                routed => routed,
            };
            step.describe(|span| describe(span, attempt, &routed));
            drop(step);
            let route = match routed {
                Ok(route) => route,
                // Every endpoint has failed: the report of the last one has said so.
                Err(error @ RouteError::NoHealthyUpstream(_)) if !tried.is_empty() => {
                    span::refused(&unroutable(error).into());
                    return None;
                }
                Err(error) => {
                    self.refuse(&unroutable(error).into());
                    return None;
                }
            };
            let another = attempt < ATTEMPTS && route.service.is_some();
            // Asked only of an endpoint that is slow: the last one is waited for as long as it may take.
            let elsewhere = |to: SocketAddr| {
                let avoid: Vec<SocketAddr> = tried.iter().copied().chain([to]).collect();
                another && self.route(&source.0, &avoid).is_ok()
            };
            let (mut report, reached) = self.attempt(&source, route, &elsewhere).await;
            let to = report.dialled();
            match reached {
                Ok(reached) => return Some((report, reached)),
                Err((outcome, retry)) if !(retry && another) => {
                    report.end(outcome);
                    return None;
                }
                Err((outcome, _)) => {
                    report.tries_again(outcome);
                    self.pod.node.suspects.add(to);
                    tried.push(to);
                    avoid.push(to);
                }
            }
        }
        None
    }

    fn refuse(&self, outcome: &Outcome) {
        span::refused(outcome);
        access::refused(self.client.addr(), self.dst.addr(), Reporter::Source, outcome);
    }

    async fn source(&self) -> Result<(Arc<Workload>, Identity), Outcome> {
        let workload = self.pod.workload().await?;
        let identity = self.pod.identity(&workload).map_err(|e| Failure::Identity(e.to_string().into()))?;
        let source = Source { workload: &workload, client: self.client.ip() };
        self.pod.node.settings.illegal_ports.check_outbound(&source, self.dst).map_err(unroutable)?;
        Ok((workload, identity))
    }

    fn route(&self, workload: &Workload, avoid: &[SocketAddr]) -> Result<Route, RouteError> {
        let source = Source { workload, client: self.client.ip() };
        let mut rng = self.shard.rng.borrow_mut();
        route::outbound(&self.pod.node.mesh, &source, self.dst, &mut Pick { rng: &mut *rng, avoid })
    }

    /// Reaches the next hop, or says why not and whether another endpoint may be tried: only while nothing has been
    /// sent to the application.
    async fn attempt(
        &self,
        (workload, identity): &(Arc<Workload>, Identity),
        route: Route,
        elsewhere: &dyn Fn(SocketAddr) -> bool,
    ) -> (Box<Report>, Result<Reached, (Outcome, bool)>) {
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
            return (report, Err((error.into(), false)));
        }
        let reached = match hop {
            Hop::Tcp { .. } => self.direct(to, elsewhere).await,
            Hop::Hbone { authority, sans, .. } => {
                let key = TunnelKey { to, identity: identity.clone(), sans };
                match Join::find(self.pod, self.shard, self.client, &key, report.facts()) {
                    Some(join) => {
                        let joined = join.reach(self.shard, self.conn).await;
                        joined.inspect(|joined| report.beside(&joined.conn)).map(Reached::Local)
                    }
                    None => {
                        let request = self.request(workload, authority, report.facts().service.as_deref());
                        self.stream(&key, request, elsewhere).await
                    }
                }
            }
            Hop::DoubleHbone { .. } => {
                let why = "destinations on another network are not served by this version";
                Err((Failure::Dial(why.into()).into(), false))
            }
        };
        (report, reached)
    }

    /// Connects without a tunnel.
    async fn direct(
        &self,
        to: SocketAddr,
        elsewhere: &dyn Fn(SocketAddr) -> bool,
    ) -> Result<Reached, (Outcome, bool)> {
        let failed = |why: String| Err((Failure::Dial(why.into()).into(), true));
        let step = Step::new("tcp connect", Kind::Client);
        let connecting = dial::connect(self.pod, to, None, Reach::Network);
        let connected = step.within(patiently(connecting, || elsewhere(to))).await;
        step.describe(|span| _ = span.addr(span::PEER, to).patient("connect", &connected));
        drop(step);
        match connected {
            Some(Ok(stream)) => Ok(Reached::Tcp(AppSide::of(stream))),
            Some(Err(error)) => failed(error.to_string()),
            None => failed(format!("{to}: no answer within {IMPATIENCE:?}")),
        }
    }

    /// A place on a tunnel to `key`.
    async fn lease(
        &self,
        key: &TunnelKey,
        elsewhere: &dyn Fn(SocketAddr) -> bool,
    ) -> Result<Lease, (Outcome, bool)> {
        let pool = PodPool::of(self.pod, self.shard);
        if let Some(lease) = pool.ready(key) {
            return Ok(lease);
        }
        let step = Step::new("wait for tunnel", Kind::Internal);
        // While the certificate is not there yet, no endpoint is to blame and none would be faster.
        let certs = &self.pod.node.certs;
        let another = || certs.current(&key.identity).is_some() && elsewhere(key.to);
        let leased = step.within(patiently(pool.lease(self.pod, self.shard, key), another)).await;
        step.describe(|span| _ = span.addr(span::PEER, key.to).patient("dial", &leased));
        drop(step);
        match leased {
            Some(leased) => leased.map_err(|error| (error.failure().into(), !error.is_local())),
            None => {
                let why = format!("{}: no tunnel within {IMPATIENCE:?}", key.to);
                Err((Failure::Dial(why.into()).into(), true))
            }
        }
    }

    /// Opens a stream through a tunnel to `key`.
    async fn stream(
        &self,
        key: &TunnelKey,
        request: ConnectRequest,
        elsewhere: &dyn Fn(SocketAddr) -> bool,
    ) -> Result<Reached, (Outcome, bool)> {
        let mut last = None;
        // A tunnel that went away between being picked and being used has carried nothing: another is taken.
        for _ in 0..2 {
            let lease = self.lease(key, elsewhere).await?;
            let said = self.ahead(key, &request.authority);
            let told = !said.is_empty();
            let patience = self.pod.node.settings.timeouts.response;
            let step = Step::new("CONNECT", Kind::Client);
            let mut request = request.clone();
            // The peer's spans are inside this one.
            request.trace = step.trace_parent().unwrap_or(request.trace);
            let asking = client::connect(lease.send_request(), request, said);
            let answered = timeout(patience, step.within(asking)).await;
            step.describe(|span| answer(span.addr(span::PEER, key.to), &answered));
            drop(step);
            match answered {
                Ok(Ok((side, _))) => return Ok(Reached::Stream(side, lease, told)),
                Ok(Err(ConnectError::PeerStatus(status))) => {
                    // 503: the peer could not reach the application, so another endpoint may.
                    return Err((Failure::Status(status.as_u16()).into(), status.as_u16() == 503));
                }
                Ok(Err(error @ ConnectError::LocalAuthority(_))) => {
                    return Err((Failure::H2(error.to_string().into()).into(), false));
                }
                Ok(Err(ConnectError::Tunnel { error, unheard })) => {
                    // Picked again, a tunnel on its way out would fail every connection until its last stream ends.
                    if error.is_go_away() || error.is_io() {
                        lease.retire();
                    } else {
                        lease.distrust();
                    }
                    let failure = Failure::H2(error.to_string().into());
                    // Told twice, what was said could be done twice.
                    if !unheard && told {
                        return Err((failure.into(), false));
                    }
                    last = Some(failure);
                }
                Err(_) => {
                    lease.distrust();
                    let text = format!("{}: no answer to CONNECT within {patience:?}", key.to);
                    return Err((Failure::H2(text.into()).into(), !told));
                }
            }
        }
        Err((last.unwrap_or(Failure::H2("tunnel failed".into())).into(), true))
    }

    /// What the client has said so far, if it may go along with the CONNECT: to the proxy of the destination itself, as
    /// others may be set to refuse it.
    fn ahead(&self, key: &TunnelKey, authority: &HboneAddr) -> Bytes {
        if self.pod.node.settings.options.early_data && route::is_at_destination(key.to, authority) {
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

/// What a trace says of a route.
fn describe(span: span::Attributes<'_>, attempt: usize, routed: &Result<Route, RouteError>) {
    let span = span.set("warren.attempt", i64::try_from(attempt).unwrap_or_default());
    let route = match routed {
        Ok(route) => route,
        Err(error) => {
            span.failed("route", error);
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

/// Awaits `work`; gives up, with `None`, when it takes long and `another` says that there is a better way by now.
async fn patiently<T>(work: impl Future<Output = T>, another: impl Fn() -> bool) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        match timeout(IMPATIENCE, work.as_mut()).await {
            Ok(done) => return Some(done),
            Err(_) if another() => return None,
            Err(_) => {}
        }
    }
}

fn unroutable(error: RouteError) -> Unroutable {
    match error {
        RouteError::Recursive => Unroutable::Recursive,
        RouteError::UnknownWaypoint(what) => Unroutable::UnknownWaypoint(what.into()),
        RouteError::NoHealthyUpstream(dst) => Unroutable::NoHealthyUpstream(dst.to_string().into()),
        RouteError::NoAddress(what) => Unroutable::NoAddresses(what.into()),
        error @ (RouteError::UnknownGateway(_) | RouteError::NoGateway(_) | RouteError::OtherNetwork(_)) => {
            Unroutable::NoHealthyUpstream(error.to_string().into())
        }
    }
}

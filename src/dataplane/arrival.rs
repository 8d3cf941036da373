//! Connections that another process of the node has handed over.
//!
//! The other process still has the connection while this one makes everything ready. Only once `go` is heard is the
//! connection this process's. Then policies are asked before a byte moves.

use std::{net::TcpStream as StdStream, sync::Arc, time::Duration};

use tokio::{net::TcpStream, sync::oneshot};

use super::{
    accept::Acceptor,
    authorize::authorize,
    inbound_context::InboundContext,
    local_hop::{BothReports, verify_again},
    movable::{self, now_us},
    outbound_context::OutboundContext,
    pod::{
        conns::{Carried, ConnInfo, NextHop, cut},
        departure::Departure,
    },
    report::{ConnMeta, ConnReport, Past},
    stream::{AppStream, relay_plain},
    tracked_hop::TrackedHop,
};
use crate::{
    protocols::{
        handover::record::{Record, SOCKETS, Side},
        labels::Reporter,
        mesh::Mesh,
        outcome::Failure,
        relay::frozen::Frozen,
    },
    runtime::{conns::Conn, shard::Shard},
    telemetry::{
        metrics::Metrics,
        trace::span::{self, Spans},
    },
};

/// A connection that another process offers.
pub(crate) struct Arrival {
    /// The pods that the connection belongs to.
    pub(crate) to: ArrivalPods,
    /// The connection as a value.
    pub(crate) record: Record,
    /// The sockets of the client and of the server.
    pub(crate) sockets: [StdStream; SOCKETS],
}

/// The pods that a connection belongs to.
#[derive(Clone)]
pub(crate) enum ArrivalPods {
    /// The client's.
    Outbound(Arc<OutboundContext>),
    /// The server's.
    Plaintext(Arc<InboundContext>),
    /// The client's and the server's.
    Local(Arc<OutboundContext>, Arc<InboundContext>),
}

/// The steps at which an arrival waits for the other process.
pub(crate) struct Gate {
    /// Told once everything is ready, or why that cannot be.
    pub(crate) ready: oneshot::Sender<Result<(), String>>,
    /// Told once the connection is this process's. If dropped, the connection stays where it was.
    pub(crate) go: oneshot::Receiver<()>,
}

/// The places of a connection in the sets of its pods.
struct Admitted {
    here: Conn<ConnInfo>,
    there: Option<Conn<ConnInfo>>,
}

/// The reports of a connection that policies have let in.
struct Open {
    report: Box<ConnReport>,
    theirs: Option<Box<ConnReport>>,
    tracked: Option<Conn<TrackedHop>>,
}

// === impl ArrivalPods ===

impl ArrivalPods {
    /// The acceptor whose fair queue the connection joins.
    fn acceptor(&self) -> Acceptor {
        match self {
            Self::Outbound(ctx) | Self::Local(ctx, _) => Acceptor::Outbound(ctx.clone()),
            Self::Plaintext(ctx) => Acceptor::Plaintext(ctx.clone()),
        }
    }

    fn metrics(&self) -> &Arc<Metrics> {
        match self {
            Self::Outbound(ctx) | Self::Local(ctx, _) => &ctx.metrics,
            Self::Plaintext(ctx) => &ctx.metrics,
        }
    }

    /// Puts the connection into the sets of its pods.
    fn admit(&self, record: &Record, shard: usize) -> Option<Admitted> {
        let (here, reporter) = match self {
            Self::Outbound(ctx) | Self::Local(ctx, _) => (&ctx.conns, Reporter::Source),
            Self::Plaintext(ctx) => (&ctx.conns, Reporter::Destination),
        };
        let here = here.live.admit(shard, info(&record.side, reporter)).ok()?;
        let there = match (self, &record.beside) {
            (Self::Local(_, ctx), Some(side)) => {
                Some(ctx.conns.live.admit(shard, info(side, Reporter::Destination)).ok()?)
            }
            _ => None,
        };
        if let Some(there) = &there {
            [&here, there].into_iter().for_each(|side| side.info().carried.is_joined());
        }
        Some(Admitted { here, there })
    }
}

/// The description of one side of a connection that was handed over.
pub(super) fn info(side: &Side, reporter: Reporter) -> ConnInfo {
    let hop = NextHop { addr: side.dialled, protocol: if side.mtls { "HBONE" } else { "TCP" } };
    ConnInfo {
        reporter,
        src: side.client,
        identity: side.identity.clone(),
        dst: side.destination,
        waits: false.into(),
        host: side.host.clone(),
        next_hop: (reporter == Reporter::Source).then_some(hop).into(),
        departure: Departure::default(),
        carried: Carried::default(),
    }
}

// === impl Arrival ===

impl Arrival {
    /// Begins the connection on `shard`, as if the shard had accepted it.
    pub(crate) fn begin(self, shard: &Shard, gate: Gate) {
        let acceptor = self.to.acceptor();
        acceptor.spawner(shard).begin(acceptor.kind().name(), serve(shard.clone(), self, gate));
    }
}

async fn serve(shard: Shard, Arrival { to, record, sockets }: Arrival, Gate { ready, go }: Gate) {
    let made = make_ready(&to, &record, &shard, sockets);
    let made = match made {
        Ok(made) => made,
        // Whoever waits no more has given the connection up.
        Err(why) => return drop(ready.send(Err(why))),
    };
    if ready.send(Ok(())).is_err() || go.await.is_err() {
        return;
    }
    Box::pin(go_on(shard, to, record, made)).await;
}

/// Makes everything that can fail without touching the sockets' bytes.
fn make_ready(
    to: &ArrivalPods,
    record: &Record,
    shard: &Shard,
    [client, server]: [StdStream; SOCKETS],
) -> Result<(Admitted, TcpStream, TcpStream), String> {
    let admitted = to.admit(record, shard.index()).ok_or("the pod takes no connections")?;
    let watched = |stream: StdStream| {
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    };
    let watch = |stream| watched(stream).map_err(|error| format!("a socket cannot be watched: {error}"));
    Ok((admitted, watch(client)?, watch(server)?))
}

/// Goes on with a connection that is this process's.
async fn go_on(
    shard: Shard,
    to: ArrivalPods,
    record: Record,
    (Admitted { here, there }, client, server): (Admitted, TcpStream, TcpStream),
) {
    let Record { kind, mut side, mut beside, relay, frozen_at_us } = record;
    let stood = now_us().saturating_sub(frozen_at_us);
    [Some(&mut side), beside.as_mut()].into_iter().flatten().for_each(|side| side.grow_older(stood));
    let _counted = (shard.count_conn(), to.metrics().socket(here.info().reporter));
    let logged =
        tracing::debug_span!(target: "conn", "handover", kind = kind.as_str(), client = %side.client);
    let spans = Spans::new(logged, "hand-over", side.trace);
    let conns = (&here, there.as_ref());
    let opening = spans.around(open(&shard, &to, (&side, beside.as_ref()), conns));
    let Some(Open { report, theirs, tracked: _tracked }) = Box::pin(opening).await else { return };
    let metrics = to.metrics().clone();
    metrics.handover.stalled(kind, Duration::from_micros(now_us().saturating_sub(frozen_at_us)));
    relay_on(&shard, conns, (report, theirs, server_pod(&to)), (client, server, relay)).await;
    shard.relayed();
}

/// The uid of the server's pod of a local connection.
fn server_pod(to: &ArrivalPods) -> &str {
    match to {
        ArrivalPods::Local(_, ctx) => &ctx.pod.id.uid,
        ArrivalPods::Outbound(_) | ArrivalPods::Plaintext(_) => "",
    }
}

async fn relay_on(
    shard: &Shard,
    (here, there): (&Conn<ConnInfo>, Option<&Conn<ConnInfo>>),
    (report, theirs, server_pod): (Box<ConnReport>, Option<Box<ConnReport>>, &str),
    (client, server, frozen): (TcpStream, TcpStream, Frozen),
) {
    report.relaying();
    let (client, server) = (client.into_side(), server.into_side());
    let (Some(theirs), Some(there)) = (theirs, there) else {
        let ended = {
            movable::relay((here, here), relay_plain(shard, client, server, &*report).resume(frozen)).await
        };
        return match ended {
            Some(Ok(relayed)) => report.relayed(relayed),
            // The report itself tells why a connection was cut.
            Some(Err(_)) => {}
            None => report.handed_over(),
        };
    };
    theirs.relaying();
    let ended = {
        let both = BothReports(&report, &theirs, server_pod);
        movable::relay((here, there), relay_plain(shard, client, server, &both).resume(frozen)).await
    };
    match ended {
        Some(Ok(relayed)) => {
            let relayed = relayed.map_err(Failure::from);
            report.relayed(relayed.clone());
            theirs.relayed(relayed);
        }
        Some(Err(_)) => {}
        None => {
            report.handed_over();
            theirs.handed_over();
        }
    }
}

/// Opens the reports, and asks whether the connection may go on. If it may not, the reports tell why.
async fn open(
    shard: &Shard,
    to: &ArrivalPods,
    (side, beside): (&Side, Option<&Side>),
    (here, there): (&Conn<ConnInfo>, Option<&Conn<ConnInfo>>),
) -> Option<Open> {
    span::describe(|span| _ = span.set("network.transport", "tcp").addr(span::CLIENT, side.client));
    match to {
        ArrivalPods::Outbound(ctx) => {
            let report = report(ctx.pod.mesh.tables(), &ctx.metrics, here, side);
            Some(Open { report, theirs: None, tracked: None })
        }
        ArrivalPods::Plaintext(ctx) => {
            let report = report(ctx.pod.mesh.tables(), &ctx.metrics, here, side);
            is_let_in(ctx, here).await.then_some(Open { report, theirs: None, tracked: None })
        }
        ArrivalPods::Local(from, ctx) => {
            let (there, beside) = (there?, beside?);
            let mut report = report(from.pod.mesh.tables(), &from.metrics, here, side);
            let mut theirs = self::report(ctx.pod.mesh.tables(), &ctx.metrics, there, beside);
            report.beside(there);
            theirs.beside(here);
            let within = ctx.config.timeouts.certificate;
            let chains = match verify_again(shard, from, ctx, (side, beside), within).await {
                Ok(chains) => chains,
                Err(failure) => {
                    report.end(failure.clone());
                    theirs.end(failure);
                    return None;
                }
            };
            let tracked = chains.map(|chains| TrackedHop::new(chains, there));
            let tracked = tracked.map(|hop| from.hops.joined.admit(shard.index(), hop)).transpose().ok()?;
            if let Some(hop) = tracked.as_ref().filter(|hop| hop.info().is_revoked()) {
                hop.info().cut();
                return None;
            }
            is_let_in(ctx, there).await.then_some(Open { report, theirs: Some(theirs), tracked })
        }
    }
}

/// Whether policies let the connection go on, as they stand now. If not, the connection is cut.
pub(super) async fn is_let_in(ctx: &InboundContext, conn: &Conn<ConnInfo>) -> bool {
    let asked = async { ctx.pod.wait().await.is_ok() && authorize(ctx, conn.info()).await.is_ok() };
    let let_in = conn.guard(asked).await == Ok(true);
    if !let_in {
        // A connection that was cut for another reason keeps the reason.
        conn.cut(cut::POLICY);
    }
    let_in
}

/// Opens the report of one side of a connection that was handed over.
pub(super) fn report(
    mesh: &Mesh,
    metrics: &Arc<Metrics>,
    conn: &Conn<ConnInfo>,
    side: &Side,
) -> Box<ConnReport> {
    let workload = |uid: &Option<String>| mesh.workload(uid.as_deref()?);
    let service = side.service.as_ref();
    let meta = ConnMeta {
        source: workload(&side.source_uid),
        source_identity: side.source_identity.clone(),
        destination: workload(&side.destination_uid),
        destination_identity: side.destination_identity.clone(),
        service: service.and_then(|(namespace, host)| mesh.service(namespace, host)),
        authority: side.authority.clone(),
        mtls: side.mtls,
        source_baggage: side.baggage.clone(),
        ..ConnMeta::default()
    };
    let past = Past { age: Duration::from_micros(side.age_us), bytes: side.bytes };
    ConnReport::adopt(metrics, conn, side.dialled, meta, past)
}

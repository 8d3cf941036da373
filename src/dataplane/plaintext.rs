//! Captured inbound plaintext (docs/spec/dataplane.md 4.3).

use super::{
    accepted::Accepted,
    application::{self, Refused},
    inbound_context::InboundContext,
    movable,
    pod::{
        conns::{Carried, ConnInfo},
        departure::Departure,
        network::Network,
    },
    report::{ConnMeta, ConnReport},
    stream::{self, AppStream},
};
use crate::{
    protocols::{
        addr::ClientAddr,
        labels::Reporter,
        outcome::{Outcome, Unroutable},
        route::{Inbound, inbound_plaintext, inbound_service, missing_labels},
    },
    runtime::{balancer::LoadGuard, conns::Conn},
    telemetry::{
        access,
        metrics::GaugeGuard,
        trace::span::{self, SpanKind, Spans, Step},
    },
};

/// Serves a connection accepted on 15006.
pub(crate) fn serve<N: Network>(
    accepted: Accepted<InboundContext<N>, N::Stream>,
) -> impl Future<Output = ()> + 'static {
    let (peer, shard, id) = (accepted.peer, accepted.shard.clone(), &accepted.ctx.pod.id);
    let logged = tracing::debug_span!(target: "conn", "plaintext", %peer, pod = &*id.uid);
    let spans = Spans::new(logged, "plaintext", None);
    // The opening is boxed, and `Open` is taken apart, for the same reasons as in `outbound`.
    let opening = Box::pin(spans.around(open(accepted)));
    async move {
        let Some(Open { sides: (client, app), conn, counted: _counted, report }) = opening.await else {
            return;
        };
        report.relaying();
        let ended = {
            let relay = stream::relay_plain(&shard, client.into_side(), app.into_side(), &*report);
            movable::relay((&conn, &conn), relay).await
        };
        match ended {
            Some(Ok(relayed)) => report.relayed(relayed),
            // The report itself tells why a connection was cut.
            Some(Err(_)) => {}
            None => return report.handed_over(),
        }
        shard.relayed();
    }
}

/// A connection whose application is reached.
struct Open<S> {
    sides: (S, S),
    conn: Conn<ConnInfo>,
    counted: (LoadGuard, GaugeGuard),
    report: Box<ConnReport>,
}

async fn open<N: Network>(
    Accepted { ctx, arriving, shard, stream, peer }: Accepted<InboundContext<N>, N::Stream>,
) -> Option<Open<N::Stream>> {
    let capture = Step::new("capture", SpanKind::Internal);
    let (client, dst) = stream::captured_addrs(&stream, peer).ok()?;
    span::describe(|span| {
        let span = span.set("network.transport", "tcp").set("warren.pod.uid", ctx.pod.id.uid.to_string());
        span.addr(span::CLIENT, client.addr()).addr(span::SERVER, dst.addr());
    });
    let refuse = |outcome: &Outcome| {
        span::refused(outcome);
        let ends = (client.addr(), dst.addr());
        access::refused(&ctx.metrics.refusals, Reporter::Destination, ends, outcome);
    };
    let Ok(inbound) = inbound_plaintext(dst, &ctx.config.listen.ports) else {
        refuse(&Unroutable::Recursive.into());
        return None;
    };
    let info = ConnInfo {
        reporter: Reporter::Destination,
        src: client.addr(),
        identity: None,
        dst: inbound.target,
        waits: false.into(),
        host: None,
        next_hop: None.into(),
        departure: Departure::default(),
        carried: Carried::default(),
    };
    // The connection is registered before policies are asked, so that a policy change in between is not missed.
    let conn = ctx.conns.live.admit(shard.index(), info).ok()?;
    drop((arriving, capture));
    let counted = (shard.count_conn(), ctx.metrics.socket(Reporter::Destination));
    let reached = conn.guard(reach(&ctx, &conn, inbound)).await.ok()?;
    let (report, app) = reached.map_err(|outcome| refuse(&outcome)).ok()??;
    Some(Open { sides: (stream, app), conn, counted, report })
}

/// Connects to the application, if policies allow. The report tells of a failure once the report is open, and the
/// result is then `Ok(None)`.
async fn reach<N: Network>(
    ctx: &InboundContext<N>,
    conn: &Conn<ConnInfo>,
    inbound: Inbound,
) -> Result<Option<(Box<ConnReport>, N::Stream)>, Outcome> {
    let workload = ctx.pod.wait().await?;
    ctx.pod.discover_later(|mesh| missing_labels(mesh, &workload, ClientAddr::new(conn.info().src)));
    let mesh = ctx.pod.mesh.tables();
    let meta = ConnMeta {
        source: mesh.workload_by_ip(&ctx.config.network, conn.info().src.ip()),
        service: inbound_service(mesh, &workload, None, inbound.target.port()),
        destination: Some(workload),
        ..ConnMeta::default()
    };
    let report = ConnReport::open(&ctx.metrics, conn, inbound.target, meta);
    match application::connect(ctx, &report, &inbound).await {
        Ok(app) => Ok(Some((report, app))),
        Err(Refused { outcome, .. }) => {
            report.end(outcome);
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests;

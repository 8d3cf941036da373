//! Captured inbound plaintext (docs/spec/dataplane.md 4.3).

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use super::report::{Facts, Report};
use crate::{
    actors::{
        load::Counted,
        pods::pod::{Arriving, ConnInfo, Pod},
        shard::Shard,
        sys::socket::AppSide,
        telemetry::{
            access,
            metrics::Held,
            trace::span::{self, Kind, Spans, Step},
        },
    },
    protocols::{
        labels::Reporter,
        outcome::{Failure, Outcome, Unroutable},
        route::{Inbound, inbound_plaintext, inbound_service},
    },
    supervisor::Conn,
};

/// Serves a connection accepted on 15006.
pub fn serve(
    pod: Arriving,
    shard: Shard,
    stream: TcpStream,
    peer: SocketAddr,
) -> impl Future<Output = ()> + 'static {
    let logged = tracing::debug_span!(target: "conn", "plaintext", %peer, pod = &*pod.uid);
    let spans = Spans::new(logged, "plaintext", None);
    // Boxed and taken apart as for outbound connections.
    let opening = Box::pin(spans.around(open(pod, shard.clone(), stream, peer)));
    async move {
        let Some(Open { sides, conn, counted: _counted, report }) = opening.await else { return };
        report.relaying();
        if let Ok(relayed) = conn.guard(super::plainly(&shard, sides, &*report)).await {
            report.relayed(&relayed);
        }
        shard.relayed();
    }
}

/// A connection whose application is reached.
struct Open {
    sides: (AppSide, AppSide),
    conn: Conn<ConnInfo>,
    counted: (Counted, Held),
    report: Box<Report>,
}

async fn open(arriving: Arriving, shard: Shard, stream: TcpStream, peer: SocketAddr) -> Option<Open> {
    let pod = &*arriving;
    let capture = Step::new("capture", Kind::Internal);
    let (client, dst) = super::captured(&stream, peer).ok()?;
    span::describe(|span| {
        let span = span.set("network.transport", "tcp").set("warren.pod.uid", pod.uid.to_string());
        span.addr(span::CLIENT, client.addr()).addr(span::SERVER, dst.addr());
    });
    let refuse = |outcome: &Outcome| {
        span::refused(outcome);
        access::refused(client.addr(), dst.addr(), Reporter::Destination, outcome);
    };
    let Ok(inbound) = inbound_plaintext(dst, &pod.node.settings.illegal_ports) else {
        refuse(&Unroutable::Recursive.into());
        return None;
    };
    let info = ConnInfo {
        reporter: Reporter::Destination,
        tunnelled: false,
        src: client.addr(),
        identity: None,
        dst: inbound.target,
        waits: false.into(),
    };
    // Registered before policies are asked, so that a change in between is not missed.
    let conn = pod.conns.admit(shard.index(), info).ok()?;
    let pod = arriving.arrived();
    drop(capture);
    let counted = (shard.count_conn(), pod.node.metrics.socket(Reporter::Destination));
    let reached = conn.guard(reach(&pod, &conn, inbound)).await.ok()?;
    let (report, app) = reached.map_err(|outcome| refuse(&outcome)).ok()??;
    Some(Open { sides: (AppSide::of(stream), AppSide::of(app)), conn, counted, report })
}

/// The application, if policies allow. What fails once the connection is open is reported there.
async fn reach(
    pod: &Arc<Pod>,
    conn: &Conn<ConnInfo>,
    inbound: Inbound,
) -> Result<Option<(Box<Report>, TcpStream)>, Outcome> {
    let workload = pod.workload().await?;
    let mesh = &pod.node.mesh;
    let src = conn.info().src;
    let facts = Facts {
        source: mesh.workload_by_ip(&pod.node.settings.network, src.ip()),
        service: inbound_service(mesh, &workload, None, inbound.target.port()),
        destination: Some(workload),
        ..Facts::default()
    };
    let report = Report::open(pod, conn, inbound.target, facts);
    if let Err(denial) = super::authorize(pod, conn.info()).await {
        report.end(denial);
        return Ok(None);
    }
    match super::connect_app(pod, inbound.dial, pod.source_towards(src.ip(), inbound.dial.ip())).await {
        Ok(app) => Ok(Some((report, app))),
        Err(error) => {
            report.end(Failure::Dial(error.to_string().into()));
            Ok(None)
        }
    }
}

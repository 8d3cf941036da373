//! The connection to a pod's application, on behalf of a client that policies let in.

use std::time::Instant;

use http::StatusCode;
use tokio::{io::AsyncWriteExt as _, time::timeout};

use super::{
    authorize::authorize,
    inbound_context::InboundContext,
    pod::{conns::ConnInfo, network::Network},
    report::ConnReport,
    stream::AppStream,
};
use crate::{
    protocols::{
        outcome::{Cause, Denial, Failure, Outcome},
        proxy_protocol,
        route::Inbound,
    },
    sys::pacing::PathScope,
    telemetry::{
        events::EventKind,
        setup::SetupStep,
        trace::span::{self, SpanKind, Step},
    },
};

/// The reason why the application is not reached.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The status that answers a CONNECT.
    pub(crate) status: StatusCode,
    /// The outcome that the access log reports.
    pub(crate) outcome: Outcome,
}

/// Connects to the application from inside the pod, if policies allow. Tells `report` of the connection that they do.
///
/// # Errors
/// 401 if policies deny, 503 if the application is not reached.
pub(crate) async fn connect<N: Network>(
    ctx: &InboundContext<N>,
    report: &ConnReport,
    inbound: &Inbound,
) -> Result<N::Stream, Refused> {
    let info = report.info();
    let denied = |denial| {
        report.denied(&ctx.metrics);
        tell(ctx, info, &denial);
        Refused { status: StatusCode::UNAUTHORIZED, outcome: Outcome::from(denial) }
    };
    authorize(ctx, info).await.map_err(denied)?;
    report.authorized();
    let after = ctx.config.timeouts.connect;
    if timeout(after, ctx.conns.may_connect(&ctx.pod.id)).await.is_err() {
        return Err(unavailable(Failure::Dial("the pod's share of descriptors is used up".into())));
    }
    let (to, source) = (inbound.dial, ctx.network.source_towards(info.src.ip(), inbound.dial.ip()));
    let began = Instant::now();
    let connecting = ctx.network.connect(to, source, PathScope::Host);
    let connected = Step::run("application connect", SpanKind::Client, connecting)
        .describe(|span, connected| _ = span.addr(span::PEER, to).result("connect", connected))
        .await;
    if connected.is_ok() {
        ctx.metrics.setup.observe(
            report.shard(),
            SetupStep::Application,
            began.elapsed(),
            span::current_trace(),
        );
    }
    connected.map_err(|error| unavailable(Failure::Dial(Cause::of(error))))
}

/// Tells of a denial in the events.
fn tell<N: Network>(ctx: &InboundContext<N>, info: &ConnInfo, denial: &Denial) {
    ctx.metrics.events.tell(EventKind::Denial, Some(&ctx.pod.id.name()), || {
        let client = info.identity.as_ref().map_or_else(|| info.src.ip().to_string(), ToString::to_string);
        format!("{client} to {}: {denial}", info.dst)
    });
}

/// Sends a PROXY protocol header with the client's address to the application, if `inbound` asks for the header.
///
/// # Errors
/// 503 if the header cannot be written.
pub(crate) async fn announce(
    app: &mut impl AppStream,
    info: &ConnInfo,
    inbound: &Inbound,
) -> Result<(), Refused> {
    let Some(dst) = inbound.proxy_header_dst else { return Ok(()) };
    let header = proxy_protocol::encode(info.src, dst, info.identity.as_ref());
    let written = app.write_all(&header).await;
    written.map_err(|error| unavailable(Failure::Send(Cause::of(error))))
}

fn unavailable(failure: Failure) -> Refused {
    Refused { status: StatusCode::SERVICE_UNAVAILABLE, outcome: failure.into() }
}

//! The application of a pod, reached on behalf of a client that policies let in.

use http::StatusCode;
use tokio::io::AsyncWriteExt as _;

use super::{
    authorize::authorize,
    inbound_context::InboundContext,
    pod::{conns::ConnInfo, network::Network},
    stream::AppStream,
};
use crate::{
    protocols::{
        outcome::{Cause, Failure, Outcome},
        proxy_protocol,
        route::Inbound,
    },
    sys::pacing::PathScope,
    telemetry::trace::span::{self, SpanKind, Step},
};

/// Why the application is not reached.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The answer to a CONNECT.
    pub(crate) status: StatusCode,
    /// What is said of the connection.
    pub(crate) outcome: Outcome,
}

/// Connects to the application from inside the pod, if policies allow.
///
/// # Errors
/// 401 if policies deny, 503 if the application is not reached.
pub(crate) async fn connect<N: Network>(
    ctx: &InboundContext<N>,
    info: &ConnInfo,
    inbound: &Inbound,
) -> Result<N::Stream, Refused> {
    let denied = |denial| Refused { status: StatusCode::UNAUTHORIZED, outcome: Outcome::from(denial) };
    authorize(ctx, info).await.map_err(denied)?;
    let (to, source) = (inbound.dial, ctx.network.source_towards(info.src.ip(), inbound.dial.ip()));
    let connecting = ctx.network.connect(to, source, PathScope::Host);
    let connected = Step::run("application connect", SpanKind::Client, connecting)
        .describe(|span, connected| _ = span.addr(span::PEER, to).result("connect", connected))
        .await;
    connected.map_err(|error| unavailable(Failure::Dial(Cause::of(error))))
}

/// Tells the application who its client is, if the application wants to hear it.
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

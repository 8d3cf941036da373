//! One attempt to reach an endpoint, which another endpoint may replace while it is slow.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::time::{error::Elapsed, timeout};

use super::{
    outbound_context::OutboundContext,
    pod::network::Network,
    tunnel::{
        dialer::TunnelKey,
        pool::{Lease, PodPool},
    },
};
use crate::{
    protocols::{
        hbone::client::ConnectError,
        route::failover::{Attempt, AttemptError, TunnelAge, WaitingFor},
    },
    runtime::shard::Shard,
    telemetry::{
        setup::SetupStep,
        trace::span::{self, SpanKind, Step},
    },
};

/// An attempt, and the function that decides whether a slow attempt is given up.
#[derive(Clone, Copy)]
pub(super) struct Trying<'a> {
    pub(super) attempt: Attempt,
    /// Whether another endpoint is tried in the place of the given endpoint. A tunnel dial goes on for later
    /// connections when the attempt is given up.
    pub(super) replaces_slow: &'a dyn Fn(SocketAddr, WaitingFor) -> bool,
}

// === impl Trying ===

impl Trying<'_> {
    /// Awaits `work`, which waits for the endpoint `to`. After each period [`Attempt::slow_after`], another endpoint may
    /// replace `to`; the result is then `None`.
    pub(super) async fn unless_replaced<T>(
        &self,
        work: impl Future<Output = T>,
        to: SocketAddr,
        waiting: impl Fn() -> WaitingFor,
    ) -> Option<T> {
        unless_replaced(work, self.attempt.slow_after, || (self.replaces_slow)(to, waiting())).await
    }

    /// Leases a place for a stream on a tunnel to `key`.
    pub(super) async fn lease<N: Network>(
        &self,
        ctx: &OutboundContext<N>,
        shard: &Shard,
        key: &TunnelKey,
    ) -> Result<(Lease, TunnelAge), AttemptError> {
        let pool = PodPool::of(shard, ctx.pod.id.serial);
        if let Some(lease) = pool.ready(key) {
            return Ok((lease, TunnelAge::Kept));
        }
        let certs = &ctx.hops.certs;
        let waiting = || match certs.current(&key.identity) {
            Some(_) => WaitingFor::Endpoint,
            None => WaitingFor::Certificate,
        };
        let began = Instant::now();
        let leasing = self.unless_replaced(pool.lease(&ctx.peers.dialer, shard, key), key.to, waiting);
        let leased = Step::run("wait for tunnel", SpanKind::Internal, leasing)
            .describe(|span, leased| _ = span.addr(span::PEER, key.to).timed_result("dial", leased))
            .await;
        if matches!(leased, Some(Ok(_))) {
            ctx.metrics.setup.observe(shard.index(), SetupStep::Dial, began.elapsed(), span::current_trace());
        }
        match leased {
            Some(leased) => leased.map(|lease| (lease, TunnelAge::New)).map_err(|error| error.of_attempt()),
            None => Err(AttemptError::SlowTunnel { to: key.to, after: self.attempt.slow_after }),
        }
    }
}

/// Describes the answer to a CONNECT in a trace.
pub(super) fn describe<T>(span: span::Attributes<'_>, answered: &Result<Result<T, ConnectError>, Elapsed>) {
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

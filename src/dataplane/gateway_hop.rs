//! Connections to other networks: a tunnel inside a tunnel to a gateway (docs/spec/dataplane.md 3.4).

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use tokio::time::timeout;

use super::{
    outbound_context::OutboundContext,
    pod::{
        conns::{ConnInfo, cut},
        network::Network,
    },
    report::{ConnReport, DestinationPeer},
    timed_relay::timed,
    trying::{self, Trying},
    tunnel::{
        dialer::TunnelKey,
        inner::{self, Inner, InnerDial, InnerError, InnerTunnel},
        pool::Lease,
    },
};
use crate::{
    protocols::{
        hbone::{
            client::{self, ConnectRequest, Opener},
            headers::Baggage,
            side::StreamSide,
        },
        outcome::{Cause, Cut, Failure},
        relay::{ClientBytes, Side, relay},
        route::{
            Sans,
            failover::{AttemptError, TunnelHealth, WaitingFor},
        },
        tls::WorkloadCert,
    },
    runtime::{
        conns::{Conn, CutReason},
        shard::Shard,
    },
    telemetry::trace::span::{self, SpanKind, Step},
};

/// A stream of an inner tunnel, and what carries the tunnel.
pub(super) struct Nested {
    side: StreamSide,
    tunnel: InnerTunnel,
    outer: Lease,
}

/// An inner tunnel whose stream has ended, and what carries the tunnel.
pub(super) struct Ending {
    tunnel: InnerTunnel,
    _outer: Lease,
}

/// A hop through a gateway.
pub(super) struct GatewayHop<'a, N: Network> {
    pub(super) ctx: &'a OutboundContext<N>,
    pub(super) shard: &'a Shard,
    /// The tunnel to the gateway.
    pub(super) outer: &'a TunnelKey,
    /// The identities that the other end of the inner tunnel may have.
    pub(super) sans: &'a Sans,
}

// === impl Nested ===

impl Nested {
    /// Relays between the client and the destination. The inner tunnel is left to be ended unless the connection was cut,
    /// which drops the relay and both tunnels.
    pub(super) async fn relay(
        self,
        shard: &Shard,
        conn: &Conn<ConnInfo>,
        report: &ConnReport,
        (client, said): (impl Side + Unpin, ClientBytes),
    ) -> (Result<Result<(), Failure>, CutReason>, Option<Box<Ending>>) {
        let Self { side, mut tunnel, outer } = self;
        let relay = timed(relay(client, side, report, &shard.buffers)).after(said);
        match conn.guard(tunnel.drive(relay)).await {
            Ok(Ok(relayed)) if !outer.is_revoked() => {
                (Ok(relayed.map_err(Failure::from)), Some(Box::new(Ending { tunnel, _outer: outer })))
            }
            Ok(_) => {
                report.end(Cut::Revoked);
                (Err(cut::REVOKED), None)
            }
            Err(why) => (Err(why), None),
        }
    }
}

// === impl Ending ===

impl Ending {
    /// Ends the inner tunnel, unless the connection is cut.
    pub(super) async fn end(self, conn: &Conn<ConnInfo>) {
        let _ = conn.guard(self.tunnel.end()).await;
    }
}

// === impl GatewayHop ===

impl<N: Network> GatewayHop<'_, N> {
    /// Opens a stream of an inner tunnel to the destination behind the gateway. The client's early data stays here: a
    /// gateway may be set to refuse it, and the destination is not known before the inner handshake.
    pub(super) async fn reach(
        &self,
        mut request: ConnectRequest,
        trying: Trying<'_>,
    ) -> Result<(Nested, DestinationPeer), AttemptError> {
        let cert = self.certificate().await?;
        let (inner, lease) = self.inner(&cert, &request, trying).await?;
        let Inner { mut tunnel, send, identity } = inner;
        request.network = HeaderValue::from_str(&self.ctx.config.network).ok();
        let after = self.ctx.config.timeouts.connect_response;
        let step = Step::new("inner CONNECT", SpanKind::Client);
        request.trace = step.trace_parent().unwrap_or(request.trace);
        let asking = tunnel.drive(client::connect(send, request, Bytes::new()));
        let answered = timeout(after, step.within(asking)).await;
        let answered = match answered {
            Ok(Err(_)) => return Err(InnerError::Revoked { gateway: self.outer.to }.into()),
            Ok(Ok(answered)) => Ok(answered),
            Err(late) => Err(late),
        };
        step.describe(|span| trying::describe(span, &answered));
        match answered {
            Ok(Ok((side, headers))) => {
                let baggage = Baggage::parse(&headers).map(Box::new);
                Ok((Nested { side, tunnel, outer: lease }, DestinationPeer { identity, baggage }))
            }
            Ok(Err(error)) => Err(AttemptError::Request { error, sent_along: false }),
            Err(_) => {
                lease.set_aside();
                Err(AttemptError::NoAnswer { to: self.outer.to, after, sent_along: false })
            }
        }
    }

    /// The certificate of the inner tunnel's client, which is that of the outer one.
    async fn certificate(&self) -> Result<Arc<WorkloadCert>, AttemptError> {
        let certs = &self.ctx.hops.certs;
        if let Some(cert) = certs.current(&self.outer.identity) {
            return Ok(cert);
        }
        let held = certs.hold(&self.outer.identity, self.ctx.config.timeouts.certificate).await;
        held.map_err(|error| AttemptError::NoTunnel(Failure::Identity(Cause::of(error))))
    }

    /// Sets up an inner tunnel by a new stream of a tunnel to the gateway. A gateway that is silent for long has its
    /// tunnel set aside, so that the next connection dials afresh.
    async fn inner(
        &self,
        cert: &WorkloadCert,
        request: &ConnectRequest,
        trying: Trying<'_>,
    ) -> Result<(Inner, Lease), AttemptError> {
        let mut attempt = trying.attempt;
        let to = self.outer.to;
        let dial = InnerDial {
            gateway: to,
            cert,
            sans: self.sans,
            shard: self.shard,
            id: &self.ctx.pod.id,
            conns: &self.ctx.conns,
            metrics: &self.ctx.metrics,
            config: &self.ctx.config,
        };
        loop {
            let (lease, age) = trying.lease(self.ctx, self.shard, self.outer).await?;
            let setting_up = async {
                let side = self.outer_stream(lease.send_request(), request.clone()).await?;
                let establishing = inner::establish(&dial, side);
                let established = Step::run("inner tunnel", SpanKind::Client, establishing)
                    .describe(|span, established| _ = span.result("inner", established))
                    .await;
                established.map_err(|error| {
                    if error.is_silence() {
                        lease.set_aside();
                    }
                    AttemptError::from(error)
                })
            };
            let error = match trying.unless_replaced(setting_up, to, || WaitingFor::Endpoint).await {
                Some(Ok(inner)) => return Ok((inner, lease)),
                Some(Err(error)) => error,
                None => {
                    lease.set_aside();
                    return Err(InnerError::Slow { gateway: to, after: attempt.slow_after }.into());
                }
            };
            match error.tunnel_health() {
                TunnelHealth::Sound => {}
                TunnelHealth::Doubtful => lease.set_aside(),
                TunnelHealth::Ending => lease.retire(),
            }
            if !attempt.takes_another_tunnel(&error, age) {
                return Err(error.of_gateway());
            }
        }
    }

    /// Asks the gateway for the way to the destination.
    async fn outer_stream(
        &self,
        send: Opener,
        mut request: ConnectRequest,
    ) -> Result<StreamSide, AttemptError> {
        // A gateway answers before the destination is reached, so it needs no longer than a handshake.
        let after = self.ctx.config.timeouts.tls_handshake;
        let step = Step::new("CONNECT", SpanKind::Client);
        request.trace = step.trace_parent().unwrap_or(request.trace);
        let asking = client::connect(send, request, Bytes::new());
        let answered = timeout(after, step.within(asking)).await;
        step.describe(|span| trying::describe(span.addr(span::PEER, self.outer.to), &answered));
        match answered {
            Ok(Ok((side, _))) => Ok(side),
            Ok(Err(error)) => Err(AttemptError::Request { error, sent_along: false }),
            Err(_) => Err(AttemptError::NoAnswer { to: self.outer.to, after, sent_along: false }),
        }
    }
}

//! Which attempts a connection makes until its next hop is reached, and what is reported of them.

use std::{net::SocketAddr, time::Instant};

use super::{Outbound, Own, Reached, Trying};
use crate::{
    dataplane::{
        pod::network::Network,
        report::{self, ConnMeta, ConnReport},
        suspicions::Trial,
    },
    protocols::{
        mesh::Workload,
        outcome::{Cause, Failure, Outcome, Unroutable},
        route::{
            self, Finding, Hop, Pick, Route, RouteError, Source, Suspicion,
            failover::{
                AfterFailure, Attempt, AttemptError, Failover, FailoverLimits, NoAttempt, WaitingFor,
            },
            suspects::Tried,
        },
    },
    telemetry::{
        setup::SetupStep,
        trace::span::{self, SpanKind, Step},
    },
};

/// A failed attempt. It becomes the connection's end if no other attempt follows.
struct FailedAttempt {
    report: Box<ConnReport>,
    error: AttemptError,
}

impl<N: Network> Outbound<'_, N> {
    /// Reaches the next hop of the connection, or the next hop of another endpoint if an attempt fails. The last attempt
    /// is the one that is reported. [`Failover`] decides which endpoints are tried.
    pub(super) async fn reach(&self) -> Option<(Box<ConnReport>, Reached<N::Stream>)> {
        let source = Step::run("wait for identity", SpanKind::Internal, self.source())
            .describe(|span, source| _ = span.result("identity", source))
            .await;
        let source = source.map_err(|outcome| self.refuse(&outcome)).ok()?;
        let mut failover = Failover::new(FailoverLimits::STANDARD);
        let mut failed = None;
        loop {
            // The trial of a suspect ends when the attempt is over.
            let (next, _trial) = self.next(&mut failover, &source.workload);
            let (attempt, route) = match next {
                Ok(next) => next,
                Err(none) => {
                    self.no_attempt(failed, none);
                    return None;
                }
            };
            if attempt.number == 1 {
                self.took(SetupStep::Route, self.started);
            }
            self.try_again(failed.take());
            let replaces_slow = |to: SocketAddr, waiting: WaitingFor| {
                let route = |excluded: &[SocketAddr]| self.route(&source.workload, excluded, None);
                failover.replaces_slow(&attempt, to, waiting, route)
            };
            let trying = Trying { attempt, replaces_slow: &replaces_slow };
            let (mut report, reached) = self.attempt(&source, route, trying).await;
            let to = report.dialled();
            let finding = reached.as_ref().err().map_or(Finding::Reached, AttemptError::finding);
            self.learn(&report, finding);
            let error = match reached {
                Ok(reached) => {
                    report.opened();
                    self.ctx.metrics.outbound.reached();
                    return Some((report, reached));
                }
                Err(error) => error,
            };
            let after = failover.failed(&attempt, to, &error);
            let last = FailedAttempt { report, error };
            match after {
                AfterFailure::TryNext => failed = Some(last),
                AfterFailure::GiveUp => {
                    self.give_up(last);
                    return None;
                }
            }
        }
    }

    /// Counts the time of a step that began at `since`.
    pub(super) fn took(&self, step: SetupStep, since: Instant) {
        self.ctx.metrics.setup.observe(self.shard.index(), step, since.elapsed(), span::current_trace());
    }

    /// Reports an attempt after which another one is made.
    fn try_again(&self, failed: Option<FailedAttempt>) {
        if let Some(FailedAttempt { report, error }) = failed {
            self.ctx.metrics.outbound.tried_again(error.reason());
            report.tries_again(&error.into());
        }
    }

    /// Reports the attempt whose failure is the connection's.
    fn give_up(&self, FailedAttempt { report, error }: FailedAttempt) {
        self.ctx.metrics.outbound.failed(error.reason());
        report.end(error);
    }

    /// The next attempt and its route.
    fn next(
        &self,
        failover: &mut Failover,
        source: &Workload,
    ) -> (Result<(Attempt, Route), NoAttempt>, Trial<'_>) {
        let step = Step::new("route", SpanKind::Internal);
        let (next, trial) =
            self.ctx.peers.suspicions.routed(self.dst, |suspicion| {
                failover.next(|excluded| self.route(source, excluded, suspicion))
            });
        step.describe(|span| describe(span, failover.attempts(), &next));
        (next, trial)
    }

    /// Remembers what an attempt has taught of its next hop.
    fn learn(&self, report: &ConnReport, finding: Finding) {
        if let Some(workload) = &report.meta().destination {
            let tried = Tried { workload, hop: report.dialled(), asked: self.dst };
            self.ctx.peers.suspicions.learn(&tried, finding);
        }
    }

    /// Reports that no attempt is left. The failure of the last attempt, if there was one, is the connection's.
    fn no_attempt(&self, failed: Option<FailedAttempt>, none: NoAttempt) {
        match failed {
            Some(failed) => self.give_up(failed),
            None => self.refuse(&none.into()),
        }
    }

    /// Reports that there is no next hop. A connection of an unknown pod, or to the proxy itself, is no traffic
    /// (docs/spec/controlplane.md 5.3).
    fn refuse(&self, outcome: &Outcome) {
        span::refused(outcome);
        self.ctx.metrics.outbound.unroutable(outcome.reason());
        let source = match outcome {
            Outcome::Unroutable(Unroutable::UnknownLocalWorkload(_) | Unroutable::Recursive) => None,
            _ => self.ctx.pod.now(),
        };
        let service = source.as_deref().and_then(|workload| {
            let source = Source { workload, client: self.client.ip() };
            route::asked_service(self.ctx.pod.mesh.tables(), &source, self.dst)
        });
        let meta = ConnMeta { source, service, ..ConnMeta::default() };
        report::unroutable(&self.ctx.metrics, self.conn, self.dst.addr(), &meta, outcome);
    }

    async fn source(&self) -> Result<Own, Outcome> {
        let workload = self.ctx.pod.wait().await?;
        let identity = self.ctx.pod.identity(&workload).map_err(|e| Failure::Identity(Cause::of(e)))?;
        let source = Source { workload: &workload, client: self.client.ip() };
        route::check_outbound(&self.ctx.config.listen.ports, &source, self.dst).map_err(Unroutable::from)?;
        self.ctx.pod.discover(|mesh| route::missing_outbound(mesh, &source, self.dst)).await?;
        Ok(Own { workload, identity })
    }

    fn route(
        &self,
        workload: &Workload,
        excluded: &[SocketAddr],
        suspicion: Option<Suspicion<'_>>,
    ) -> Result<Route, RouteError> {
        let source = Source { workload, client: self.client.ip() };
        let mut rng = self.shard.rng.borrow_mut();
        let mut pick = Pick { rng: &mut *rng, excluded, suspicion, recorder: () };
        route::outbound(self.ctx.pod.mesh.tables(), &source, self.dst, &mut pick)
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
        .set_option("warren.destination.workload", route.destination.as_ref().map(|w| w.name().to_owned()))
        .set_option("warren.destination.service", route.service.as_ref().map(|s| s.hostname().to_owned()));
}

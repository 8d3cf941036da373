//! Authorization: policies decide whether a connection is let in.

use std::{cell::Cell, sync::atomic::Ordering};

use tokio::time::{Instant, timeout_at};

use super::{
    inbound_context::InboundContext,
    missing_policies::Standing,
    pod::{conns::ConnInfo, network::Network, workload::PodWorkload},
};
use crate::{
    protocols::{
        mesh::Workload,
        outcome::Denial,
        rbac::{self, DenyReason, Destination, DryRun, Flow, UNDECODED, Verdict},
    },
    telemetry::trace::span::{SpanKind, Step},
};

/// What the policies that are known now say about a connection.
#[derive(Debug)]
pub(crate) enum Decision {
    /// The connection is let in, or denied.
    Made(Result<(), Denial>),
    /// A policy that matters may still come.
    Open {
        /// The moment at which a live connection has waited long enough for the policies.
        until: Instant,
    },
}

/// Who asks for a decision, which says what is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A new connection. Decisions and dry runs are logged; `info`: at info rather than at debug.
    Connection {
        /// Whether the level is info.
        info: bool,
    },
    /// The check of a live connection, whose dry runs were logged when the connection was new.
    Recheck {
        /// Whether the level of denials is info.
        info: bool,
    },
}

/// Decides whether policies let `info`'s connection in. Waits for a policy that the workload names and that may still
/// come.
///
/// # Errors
/// A policy denies the connection, the workload is unknown, or a policy may still come when the timeout ends.
pub(crate) async fn authorize<N: Network>(ctx: &InboundContext<N>, info: &ConnInfo) -> Result<(), Denial> {
    Step::run("policy", SpanKind::Internal, decide(ctx, info))
        .describe(|span, decided| _ = span.result("DENY", decided))
        .await
}

async fn decide<N: Network>(ctx: &InboundContext<N>, info: &ConnInfo) -> Result<(), Denial> {
    let asker = Asker::Connection { info: ctx.config.policy_log };
    let look = || match ctx.pod.now() {
        Some(workload) => decision(&ctx.pod, &workload, info, asker),
        None => Decision::Made(Err(Denial::WorkloadNotFound)),
    };
    if let Decision::Made(decided) = look() {
        return decided;
    }
    info.waits.store(true, Ordering::Relaxed);
    let decided = wait(ctx, look).await;
    info.waits.store(false, Ordering::Relaxed);
    decided
}

/// Waits until `look` decides, within the timeout for what the control plane has not sent.
async fn wait<N: Network>(ctx: &InboundContext<N>, look: impl Fn() -> Decision) -> Result<(), Denial> {
    let mut changes = ctx.pod.mesh.changes();
    let deadline = Instant::now() + ctx.config.timeouts.workload;
    loop {
        changes.borrow_and_update();
        let until = match look() {
            Decision::Made(decided) => return decided,
            Decision::Open { until } => until,
        };
        let now = Instant::now();
        if now >= deadline {
            return Err(Denial::Explicit(unknown_policies(&ctx.pod).into()));
        }
        // A time that is over was that of a policy for which other connections have waited in vain.
        let next = if until > now { until.min(deadline) } else { deadline };
        if let Ok(Err(_)) = timeout_at(next, changes.changed()).await {
            // The tables do not change any more.
            tokio::time::sleep_until(next).await;
        }
    }
}

/// The decision of the policies that are known now on a connection to `workload`, which is the pod's workload.
pub(crate) fn decision(pod: &PodWorkload, workload: &Workload, info: &ConnInfo, asker: Asker) -> Decision {
    let mesh = pod.mesh.tables();
    let policies = mesh.policies();
    let destination = Destination { namespace: workload.namespace(), policies: workload.policies() };
    let flow = Flow { src: info.src, identity: info.identity.as_ref(), dst: info.dst };
    let until = Cell::new(None);
    let absent = |key: &str| match pod.mesh.missing_policies().standing(mesh, key) {
        Standing::Absent => true,
        Standing::MayCome { until: next } => {
            until.set(until.get().max(Some(next)));
            false
        }
    };
    let mut log = |dry: DryRun<'_>| {
        if let Asker::Connection { info } = asker {
            log_dry_run(&dry, &flow, info);
        }
    };
    match rbac::evaluate(&policies, &destination, &flow, &absent, &mut log) {
        Verdict::Allow => Decision::Made(Ok(())),
        Verdict::Deny(reason) => {
            log_denial(&reason, &flow, asker);
            Decision::Made(Err(denial(reason)))
        }
        Verdict::Unknown { .. } => Decision::Open { until: until.get().unwrap_or_else(Instant::now) },
    }
}

fn denial(reason: DenyReason) -> Denial {
    match reason {
        DenyReason::Explicit { policy, certain: true, .. } => Denial::Explicit(policy.key().into()),
        DenyReason::Explicit { policy, .. } => {
            Denial::Explicit(format!("{}{UNDECODED}", policy.key()).into())
        }
        DenyReason::NoneAllowed => Denial::NotAllowed,
    }
}

fn unknown_policies(pod: &PodWorkload) -> String {
    let policies = pod.mesh.tables().policies();
    let workload = pod.now();
    let names = workload.iter().flat_map(|workload| workload.policies());
    let missing: Vec<&str> = names.map(AsRef::as_ref).filter(|name| policies.get(name).is_none()).collect();
    format!("{} (unknown policy)", missing.join(", "))
}

fn log_dry_run(dry: &DryRun<'_>, flow: &Flow<'_>, info: bool) {
    let (policy, matched) = (dry.policy.key(), dry.matched);
    if info {
        tracing::info!(target: "rbac", policy, matched, src = %flow.src, dst = %flow.dst, "dry-run policy");
    } else {
        tracing::debug!(target: "rbac", policy, matched, src = %flow.src, dst = %flow.dst, "dry-run policy");
    }
}

fn log_denial(reason: &DenyReason, flow: &Flow<'_>, asker: Asker) {
    let (Asker::Connection { info } | Asker::Recheck { info }) = asker;
    if info {
        tracing::info!(target: "rbac", %reason, src = %flow.src, dst = %flow.dst, "denied");
    } else {
        tracing::debug!(target: "rbac", %reason, src = %flow.src, dst = %flow.dst, "denied");
    }
}

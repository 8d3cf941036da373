//! Authorization: policies decide whether a connection is let in.

use std::sync::atomic::Ordering;

use super::{
    inbound_context::InboundContext,
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

/// Decides whether policies let `info`'s connection in. Waits for a policy that the workload names and that is not
/// known yet.
///
/// # Errors
/// A policy denies the connection, the workload is unknown, or a policy stays unknown until the timeout.
pub(crate) async fn authorize<N: Network>(ctx: &InboundContext<N>, info: &ConnInfo) -> Result<(), Denial> {
    Step::run("policy", SpanKind::Internal, decide(ctx, info))
        .describe(|span, decided| _ = span.result("DENY", decided))
        .await
}

async fn decide<N: Network>(ctx: &InboundContext<N>, info: &ConnInfo) -> Result<(), Denial> {
    let log = ctx.config.policy_log;
    let look = || match ctx.pod.now() {
        Some(workload) => verdict(&ctx.pod, &workload, info, log),
        None => Some(Err(Denial::WorkloadNotFound)),
    };
    if let Some(decided) = look() {
        return decided;
    }
    info.waits.store(true, Ordering::Relaxed);
    let decided = ctx.pod.mesh.wait_for(ctx.config.timeouts.workload, look).await;
    info.waits.store(false, Ordering::Relaxed);
    decided.unwrap_or_else(|| Err(Denial::Explicit(unknown_policy(&ctx.pod).into())))
}

/// The decision of the policies that are known now on a connection to `workload`, which is the pod's workload.
/// The result is `None` while a policy that matters is unknown. With `log`, decisions are logged at info.
pub(crate) fn verdict(
    pod: &PodWorkload,
    workload: &Workload,
    info: &ConnInfo,
    log: bool,
) -> Option<Result<(), Denial>> {
    let policies = pod.mesh.tables().policies();
    let destination = Destination { namespace: workload.namespace(), policies: workload.policies() };
    let flow = Flow { src: info.src, identity: info.identity.as_ref(), dst: info.dst };
    match rbac::evaluate(&policies, &destination, &flow, &mut |dry| log_dry_run(&dry, &flow, log)) {
        Verdict::Allow => Some(Ok(())),
        Verdict::Deny(reason) => {
            log_denial(&reason, &flow, log);
            Some(Err(denial(reason)))
        }
        Verdict::Unknown { .. } => None,
    }
}

fn denial(reason: DenyReason) -> Denial {
    match reason {
        DenyReason::Explicit { policy, certain: true, .. } => Denial::Explicit(policy.key().into()),
        DenyReason::Explicit { policy, .. } => {
            Denial::Explicit(format!("{}{UNDECODED}", policy.key()).into())
        }
        DenyReason::NoneAllowed => Denial::NotAllowed,
        DenyReason::Unknown(policy) => Denial::Explicit(format!("{policy} (unknown policy)").into()),
    }
}

fn unknown_policy(pod: &PodWorkload) -> String {
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

fn log_denial(reason: &DenyReason, flow: &Flow<'_>, info: bool) {
    if info {
        tracing::info!(target: "rbac", %reason, src = %flow.src, dst = %flow.dst, "denied");
    } else {
        tracing::debug!(target: "rbac", %reason, src = %flow.src, dst = %flow.dst, "denied");
    }
}

//! Connections, from accept to close, each on one shard.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
};

use tokio::net::TcpStream;

use super::{
    node::cut,
    pod::{ConnInfo, Pod},
    tunnel::{DialError, dial},
};
use crate::{
    protocols::{
        addr::{ClientAddr, OrigDst, canonical},
        mesh::Workload,
        outcome::{Cut, Denial, Outcome},
        rbac::{self, DenyReason, Destination, DryRun, Flow, Verdict},
        relay::{Meter, Relay, relay_by},
    },
    runtime::{
        fair_queue::{Backlog, FairQueue},
        shard::{Shard, watched},
    },
    sys::{
        pacing::PathScope,
        socket::{self, AppSide},
        splice::Splice,
    },
    telemetry::trace::span::{self, SpanKind, Step},
};

/// Where connections go on. A panic costs that connection only: it is counted and logged with its place.
pub struct ConnSpawner {
    fair_queue: FairQueue,
    pod: Arc<Pod>,
    shard: usize,
}

// === impl Course ===

impl ConnSpawner {
    /// A lane of `shard` for connections of `pod`, part of `backlog`.
    pub fn new(shard: &Shard, pod: &Arc<Pod>, backlog: Backlog) -> Self {
        Self { fair_queue: shard.fair_queue(backlog), pod: pod.clone(), shard: shard.index() }
    }

    /// Begins a connection.
    pub fn begin(&self, kind: &'static str, work: impl Future<Output = ()> + 'static) {
        let (pod, shard) = (self.pod.clone(), self.shard);
        self.fair_queue.put(watched(kind, work, move |message| pod.task_panicked(kind, shard, &message)));
    }
}

/// Spawns the task of a tunnel. A panic costs that tunnel only.
pub fn spawn(shard: &Shard, pod: &Arc<Pod>, kind: &'static str, work: impl Future<Output = ()> + 'static) {
    let (pod, index) = (pod.clone(), shard.index());
    shard.spawn_watched(kind, work, move |message| pod.task_panicked(kind, index, &message));
}

/// Relays between two connections that are carried as they are.
pub fn relay_plain<'a, M: Meter>(
    shard: &'a Shard,
    sides: (AppSide, AppSide),
    meter: &'a M,
) -> Relay<'a, AppSide, AppSide, M, Splice> {
    relay_by([shard.pipes.shortcut(), shard.pipes.shortcut()], sides, meter, &shard.buffers)
}

/// Whether policies let `info`'s connection in, waiting for a policy that is named but not known yet.
///
/// # Errors
/// The denial.
pub async fn authorize(pod: &Pod, info: &ConnInfo) -> Result<(), Denial> {
    let step = Step::new("policy", SpanKind::Internal);
    let decided = step.within(decide(pod, info)).await;
    step.describe(|span| _ = span.result("DENY", &decided));
    decided
}

async fn decide(pod: &Pod, info: &ConnInfo) -> Result<(), Denial> {
    let look = || match pod.workload_now() {
        Some(workload) => verdict(pod, &workload, info),
        None => Some(Err(Denial::WorkloadNotFound)),
    };
    if let Some(decided) = look() {
        return decided;
    }
    let patience = pod.node.settings.timeouts.workload;
    info.waits.store(true, Ordering::Relaxed);
    let decided = pod.node.wait_for(patience, look).await;
    info.waits.store(false, Ordering::Relaxed);
    decided.unwrap_or_else(|| Err(Denial::Explicit(unknown_policy(pod).into())))
}

/// Connects to the application from inside the pod.
///
/// # Errors
/// As [`dial::connect`].
pub async fn connect_app(pod: &Pod, to: SocketAddr, source: Option<IpAddr>) -> Result<TcpStream, DialError> {
    let step = Step::new("application connect", SpanKind::Client);
    let connected = step.within(dial::connect(pod, to, source, PathScope::Host)).await;
    step.describe(|span| _ = span.addr(span::PEER, to).result("connect", &connected));
    drop(step);
    if let Ok(stream) = &connected
        && source.is_some()
    {
        socket::settle(stream, pod.mark());
    }
    connected
}

/// What policies say now of a connection to `workload`, the pod's; `None` while one that matters is unknown.
pub fn verdict(pod: &Pod, workload: &Workload, info: &ConnInfo) -> Option<Result<(), Denial>> {
    let policies = pod.node.mesh.policies();
    let destination = Destination { namespace: workload.namespace(), policies: workload.policies() };
    let flow = Flow { src: info.src, identity: info.identity.as_ref(), dst: info.dst };
    let log = pod.node.settings.options.policy_log;
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
        DenyReason::Explicit { policy, .. } => Denial::Explicit(policy.key().into()),
        DenyReason::NoneAllowed => Denial::NotAllowed,
        DenyReason::Unknown(policy) => Denial::Explicit(format!("{policy} (unknown policy)").into()),
    }
}

fn unknown_policy(pod: &Pod) -> String {
    let policies = pod.node.mesh.policies();
    let workload = pod.workload_now();
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

/// How a connection that was cut ended.
pub fn cut_outcome(why: crate::runtime::conns::CutReason) -> Outcome {
    if why == cut::POLICY { Cut::PolicyChange.into() } else { Cut::Drain.into() }
}

/// The client of an accepted connection, and the address it was accepted on.
///
/// # Errors
/// The connection is reset already.
pub fn tunnel_addrs(stream: &TcpStream, peer: SocketAddr) -> io::Result<(ClientAddr, SocketAddr)> {
    Ok((ClientAddr::new(peer), canonical(stream.local_addr()?)))
}

/// The client of a captured connection, and where it was going.
///
/// # Errors
/// The connection is reset already.
pub fn capture_addrs(stream: &tokio::net::TcpStream, peer: SocketAddr) -> io::Result<(ClientAddr, OrigDst)> {
    let client = ClientAddr::new(peer);
    // Asked first: where there is an answer, the socket's own address is of no interest.
    let dst = match socket::original_dst(stream, client.ip().is_ipv4()) {
        Some(dst) => dst,
        None => canonical(stream.local_addr()?),
    };
    Ok((client, OrigDst::new(dst)))
}

#[cfg(test)]
mod tests {
    use std::{future::Future, net::SocketAddr};

    use super::*;
    use crate::dataplane::pod::Arriving;
    use crate::dataplane::{inbound, outbound, plaintext};

    type Serve<F> = fn(Arriving, Shard, TcpStream, SocketAddr) -> F;

    fn size<F: Future>(_: Serve<F>) -> usize {
        size_of::<F>()
    }

    /// A connection's task holds its future for as long as it lives, so its size is memory per idle connection.
    #[test]
    fn futures_of_connections_stay_small() {
        let sizes = [
            ("outbound", size(outbound::serve), 600),
            ("plaintext", size(plaintext::serve), 600),
            // One for many streams.
            ("tunnel", size(inbound::serve), 2600),
            ("stream", inbound::stream_size(), 520),
        ];
        for (name, size, most) in sizes {
            assert!(size <= most, "the future of an {name} connection has {size} bytes, more than {most}");
        }
    }
}

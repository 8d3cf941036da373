//! Panics of a pod's tasks on shards: each costs its own task, is counted, logged and kept as a crash report.

use super::PodId;
use crate::{runtime::shard::report_panic, telemetry::metrics::Metrics};

/// Says and counts that a task of a connection or tunnel of `pod` has panicked on a shard.
pub(crate) fn report(metrics: &Metrics, pod: &PodId, kind: &'static str, shard: usize, message: &str) {
    metrics.actors.task_panicked(kind);
    let path = format!("root/dataplane/pods/{}/conns/{kind}", pod.uid);
    let name = pod.name();
    tracing::error!(target: "supervisor", path, name = &*name, shard, message, "connection task panicked");
    report_panic(name, &path, kind, message);
}

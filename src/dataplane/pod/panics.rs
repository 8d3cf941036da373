//! Panics of a pod's tasks on shards. A panic ends only its own task, and is counted, logged and kept as a crash
//! report.

use super::PodId;
use crate::{runtime::shard::report_panic, telemetry::metrics::Metrics};

/// Logs and counts the panic of a task of a connection or tunnel of `pod` on a shard.
pub(crate) fn report(metrics: &Metrics, pod: &PodId, kind: &'static str, shard: usize, message: &str) {
    metrics.actors.task_panicked(kind);
    let path = format!("root/dataplane/pods/{}/conns/{kind}", pod.uid);
    let name = pod.name();
    tracing::error!(target: "supervisor", path, name = &*name, shard, message, "connection task panicked");
    report_panic(name, &path, kind, message);
}

//! The export to a collector by OTLP: docs/operations.md.
//!
//! The exporters come from `opentelemetry-otlp`. The queues before them and their connections belong to this crate.

mod collector;
mod delivery;
mod dialer;
mod http;
mod instruments;
pub(super) mod logs;
pub(super) mod metrics;
mod points;
pub(super) mod queue;
mod spans;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;

use crate::protocols::config::NodeConfig;

pub use self::dialer::{DialError, Dialing, TlsDialer};
#[cfg(any(test, fuzzing))]
pub(crate) use self::http::collector_says;
pub(super) use self::{
    collector::{Batch, Collector},
    delivery::{Counts, Delivery},
};

thread_local! {
    /// Whether the calling thread belongs to the exporter.
    static EXPORTS: Cell<bool> = const { Cell::new(false) };
}

/// Marks the calling thread as the exporter's. Its events are not exported, because each export would cause another.
pub(super) fn mark_exporter_thread() {
    EXPORTS.set(true);
}

/// Whether the calling thread belongs to the exporter.
fn is_exporter_thread() -> bool {
    EXPORTS.get()
}

/// Runs `exports` concurrently until all have ended.
pub(super) async fn run_all(mut exports: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    poll_fn(|cx| {
        exports.retain_mut(|export| export.as_mut().poll(cx).is_pending());
        if exports.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// The resource that identifies the exporting process: the settings, and for missing ones the facts about the node.
pub(super) fn resource(settings: &[(String, String)], node: &NodeConfig) -> Resource {
    let known = [
        ("service.name", Some("warren")),
        ("service.version", Some(env!("CARGO_PKG_VERSION"))),
        ("k8s.cluster.name", Some(node.cluster_id.as_str())),
        ("k8s.node.name", node.node_name.as_deref()),
        ("k8s.namespace.name", node.pod_namespace.as_deref()),
        ("k8s.pod.name", node.pod_name.as_deref()),
    ];
    let known = known.into_iter().filter_map(|(key, value)| Some(KeyValue::new(key, value?.to_owned())));
    let set = settings.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    // The last value of a key counts.
    Resource::builder_empty().with_attributes(known.chain(set)).build()
}

/// The scope that names the part of this program that made the telemetry.
pub(super) fn scope(name: &'static str) -> InstrumentationScope {
    InstrumentationScope::builder(name).with_version(env!("CARGO_PKG_VERSION")).build()
}

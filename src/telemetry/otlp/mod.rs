//! The export to a collector by OTLP: docs/settings.md, "Traces, logs and metrics".
//!
//! The SDK's own exporters are not used: they take no metrics but those of its instruments, and one sender of the
//! protocol's messages does for all three.

mod collector;
mod http;
pub(super) mod logs;
pub(super) mod metrics;
mod points;
pub(super) mod queue;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
};

use crate::protocols::config::NodeConfig;

pub(super) use self::collector::Collector;

thread_local! {
    /// Whether the calling thread is one of the exporter's.
    static EXPORTS: Cell<bool> = const { Cell::new(false) };
}

/// Makes the calling thread one whose events are not exported: each export would be cause for another.
pub(super) fn begin_thread() {
    EXPORTS.set(true);
}

/// Whether the calling thread is one of the exporter's.
fn is_exporter() -> bool {
    EXPORTS.get()
}

/// Runs `works` side by side until each has ended.
pub(super) async fn all(mut works: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    poll_fn(|cx| {
        works.retain_mut(|work| work.as_mut().poll(cx).is_pending());
        if works.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Who exports: what the settings say, and where they say nothing, what is known of the node.
pub(super) fn resource(settings: &[(String, String)], node: &NodeConfig) -> Resource {
    let known = [
        ("service.name", Some("warren")),
        ("service.version", Some(env!("CARGO_PKG_VERSION"))),
        ("k8s.cluster.name", Some(node.cluster_id.as_str())),
        ("k8s.node.name", node.node_name.as_deref()),
        ("k8s.namespace.name", node.pod_namespace.as_deref()),
        ("k8s.pod.name", node.pod_name.as_deref()),
    ];
    let is_set = |key: &str| settings.iter().any(|(name, _)| name == key);
    let known = known.into_iter().filter(|(key, _)| !is_set(key));
    let known = known.filter_map(|(key, value)| Some(text(key, value?)));
    let set = settings.iter().map(|(key, value)| text(key, value));
    Resource { attributes: known.chain(set).collect(), ..Resource::default() }
}

/// What made the telemetry: a part of this program.
pub(super) fn scope(name: &str) -> InstrumentationScope {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    InstrumentationScope { name: name.to_owned(), version, ..InstrumentationScope::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key.to_owned(), Value::StringValue(value.to_owned()))
}

fn attribute(key: String, value: Value) -> KeyValue {
    KeyValue { key, value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

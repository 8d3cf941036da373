//! Traces of connections, exported by OTLP: README.md, "Traces".
//!
//! Spans are `tracing`'s, of one target that nothing else uses, so that neither the log nor its filter know of them.
//! Without a collector nobody asks for that target and a span costs the test of a static.

mod export;
mod hold;
mod http;
pub mod outage;
mod sample;
pub mod span;
#[cfg(test)]
mod tests;

use std::io;

use opentelemetry::{
    KeyValue,
    trace::{SpanContext, TracerProvider as _},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracer, SdkTracerProvider, Span, SpanData, SpanProcessor},
};

use self::{
    export::{Exporter, Queue},
    hold::Held,
    sample::Sampler,
};
use super::metrics::{Metrics, MetricsError};
use crate::protocols::config::{NodeConfig, TraceConfig};

/// The export of traces. Keep it until the end of `main`: dropping it exports what is left.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    exporter: Exporter,
}

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The exporter's thread or its runtime cannot be made.
    #[error("cannot start the exporter's thread: {0}")]
    Thread(#[from] io::Error),
    /// The exporter does not take its settings.
    #[error("cannot export traces: {0}")]
    Settings(String),
}

/// What becomes of a span that has ended: exported, kept until its trace has ended, or let go of.
#[derive(Debug)]
struct Fate {
    queue: Queue,
    held: Held,
}

// === impl Traces ===

impl Traces {
    /// Begins to export. A collector that cannot be reached is no error.
    ///
    /// # Errors
    /// See [`TraceError`].
    pub fn start(config: &TraceConfig, node: &NodeConfig) -> Result<Self, TraceError> {
        let resource = resource(config, node);
        let (exporter, queue) = Exporter::start(config, &resource)?;
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::new(config.sampling))
            .with_resource(resource)
            .with_span_processor(Fate { queue, held: Held::default() })
            .build();
        Ok(Self { provider, exporter })
    }

    /// What makes spans.
    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer("warren")
    }

    /// Adds the counts of spans to the metrics.
    ///
    /// # Errors
    /// Another family has one of the names.
    pub fn register(&self, metrics: &Metrics) -> Result<(), MetricsError> {
        self.exporter.counts().register(metrics)
    }
}

/// Who exports: what the settings say, and where they say nothing, what is known of the node.
fn resource(config: &TraceConfig, node: &NodeConfig) -> Resource {
    let known = [
        ("service.name", Some("warren")),
        ("service.version", Some(env!("CARGO_PKG_VERSION"))),
        ("k8s.cluster.name", Some(node.cluster_id.as_str())),
        ("k8s.node.name", node.node_name.as_deref()),
        ("k8s.namespace.name", node.pod_namespace.as_deref()),
        ("k8s.pod.name", node.pod_name.as_deref()),
    ];
    let set = |key: &str| config.resource.iter().any(|(name, _)| name == key);
    let known = known.into_iter().filter(|(key, _)| !set(key));
    let known = known.filter_map(|(key, value)| Some(KeyValue::new(key, value?.to_owned())));
    let set = config.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder_empty().with_attributes(known.chain(set)).build()
}

// === impl Fate ===

impl SpanProcessor for Fate {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            return self.queue.push(span);
        }
        for mut span in self.held.ended(span) {
            let context = &span.span_context;
            let flags = opentelemetry::trace::TraceFlags::SAMPLED;
            let (trace, id, state) = (context.trace_id(), context.span_id(), context.trace_state().clone());
            span.span_context = SpanContext::new(trace, id, flags, context.is_remote(), state);
            self.queue.push(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: std::time::Duration) -> OTelSdkResult {
        Ok(())
    }
}

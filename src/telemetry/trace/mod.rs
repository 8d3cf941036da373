//! Traces of connections, exported by OTLP: docs/settings.md, "Traces, logs and metrics".
//!
//! Spans are `tracing`'s, of one target that nothing else uses, so that neither the log nor its filter know of them.
//! Without a collector nobody asks for that target and a span costs the test of a static.

mod hold;
pub mod outage;
mod sample;
pub mod span;
#[cfg(test)]
mod tests;

use opentelemetry::trace::{SpanContext, TracerProvider as _};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as Sent},
};
use opentelemetry_sdk::{
    Resource as SdkResource,
    error::OTelSdkResult,
    trace::{SdkTracer, SdkTracerProvider, Span, SpanData, SpanProcessor},
};

use self::{hold::Held, sample::Sampler};
use super::otlp::{
    self,
    queue::{Item, Queue},
};
use crate::protocols::config::Sampling;

/// What becomes of a span that has ended: exported, kept until its trace has ended, or let go of.
#[derive(Debug)]
struct Fate {
    queue: Queue<SpanData>,
    held: Held,
}

/// What makes spans, which go to `queue` as far as they are chosen.
pub(super) fn tracer(sampling: Sampling, queue: Queue<SpanData>) -> SdkTracer {
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::new(sampling))
        // Requests have theirs.
        .with_resource(SdkResource::builder_empty().build())
        .with_span_processor(Fate { queue, held: Held::default() })
        .build();
    provider.tracer("warren")
}

// === impl SpanData ===

impl Item for SpanData {
    type Request = ExportTraceServiceRequest;

    /// Their number is the bound: what they hold is ours.
    fn bytes(&self) -> usize {
        0
    }

    fn request(batch: Vec<Self>, resource: &Resource) -> ExportTraceServiceRequest {
        let spans = batch.into_iter().map(Sent::from).collect();
        let scope_spans =
            vec![ScopeSpans { scope: Some(otlp::scope("warren")), spans, ..ScopeSpans::default() }];
        let resource = Some(resource.clone());
        let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
        ExportTraceServiceRequest { resource_spans }
    }
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

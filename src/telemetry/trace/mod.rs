//! Traces of connections, exported by OTLP: docs/settings.md, "Traces, logs and metrics".
//!
//! Spans are spans of `tracing` with a target that nothing else uses, so that the log and its filter ignore them.
//! Without a collector nothing enables that target, and a span costs the test of a static.

mod sample;
pub mod span;
mod tail_buffer;
#[cfg(test)]
pub(crate) mod tests;

use opentelemetry::trace::{SpanContext, TracerProvider as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracer, SdkTracerProvider, Span, SpanData, SpanProcessor},
};

use self::{sample::Sampler, tail_buffer::TailBuffer};
use super::otlp::{queue::Queue, scope};
use crate::protocols::config::Sampling;

/// Queues the spans of sampled traces, and the spans of other traces once those have failed.
#[derive(Debug)]
struct TailSampler {
    queue: Queue<SpanData>,
    held: TailBuffer,
}

/// The maker of spans; the sampled spans go to `queue`.
pub(super) fn tracer(sampling: Sampling, queue: Queue<SpanData>) -> SdkTracer {
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::new(sampling))
        // The exporter has its own resource.
        .with_resource(Resource::builder_empty().build())
        .with_span_processor(TailSampler { queue, held: TailBuffer::default() })
        .build();
    provider.tracer_with_scope(scope("warren"))
}

// === impl TailSampler ===

impl SpanProcessor for TailSampler {
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

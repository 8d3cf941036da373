//! The choice of the traces that are exported from their beginning.

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{Sampler as Standard, SamplingDecision, SamplingResult, ShouldSample};

use crate::protocols::config::Sampling;

/// The setting's sampler. If failures are wanted, spans that it does not choose are recorded all the same.
#[derive(Clone, Debug)]
pub(super) struct Sampler(Sampling);

// === impl Sampler ===

impl Sampler {
    pub(super) fn new(sampling: Sampling) -> Self {
        Self(sampling)
    }

    fn is_chosen(&self, parent: Option<bool>, trace: TraceId) -> bool {
        if let (true, Some(sampled)) = (self.0.parent_based, parent) {
            return sampled;
        }
        let ratio = Standard::TraceIdRatioBased(self.0.ratio);
        let result = ratio.should_sample(None, trace, "", &SpanKind::Internal, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }
}

impl ShouldSample for Sampler {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        _: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        let parent = parent.map(|cx| cx.span().span_context().clone()).filter(|parent| parent.is_valid());
        let decision = if self.is_chosen(parent.as_ref().map(|parent| parent.is_sampled()), trace) {
            SamplingDecision::RecordAndSample
        } else if self.0.keeps_failed() {
            SamplingDecision::RecordOnly
        } else {
            SamplingDecision::Drop
        };
        let trace_state = parent.map_or_else(TraceState::default, |parent| parent.trace_state().clone());
        SamplingResult { decision, attributes: Vec::new(), trace_state }
    }
}

#[cfg(test)]
mod tests;

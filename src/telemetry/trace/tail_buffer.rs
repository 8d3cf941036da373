//! The spans of traces that were not sampled. They are held until their connection has ended, and are exported if the
//! connection failed.

use std::collections::{HashMap, HashSet, VecDeque};

use opentelemetry::trace::{SpanId, Status, TraceId};
use opentelemetry_sdk::trace::SpanData;
use parking_lot::Mutex;

/// The number of parts, each with its own lock, because shards end spans concurrently.
/// Limit: parts of the traces that are held: 16; past it: traces share a part and its lock.
const BUFFER_STRIPES: usize = 16;
/// The number of traces that a part holds; past it the oldest trace is dropped.
/// Limit: traces of one part that are held until it is known whether they failed: 256; past it: the oldest trace goes.
const TRACES_PER_STRIPE: usize = 256;
/// The number of spans of a trace that are held; past it the trace is incomplete.
/// Limit: spans of a trace that is held: 64; past it: the trace is incomplete.
const SPANS_PER_TRACE: usize = 64;

/// The held spans.
#[derive(Debug, Default)]
pub(super) struct TailBuffer([Mutex<Stripe>; BUFFER_STRIPES]);

#[derive(Debug, Default)]
struct Stripe {
    traces: HashMap<TraceId, Trace>,
    /// The traces by age; entries of dropped traces are skipped.
    ages: VecDeque<(u64, TraceId)>,
    next: u64,
}

#[derive(Debug)]
struct Trace {
    age: u64,
    spans: Vec<SpanData>,
}

// === impl TailBuffer ===

impl TailBuffer {
    /// Takes a span that ended. Once the first span of this process in its trace has failed, returns all held spans
    /// of the trace.
    pub(super) fn ended(&self, span: SpanData) -> Vec<SpanData> {
        let trace = span.span_context.trace_id();
        let at = usize::from(trace.to_bytes().last().copied().unwrap_or_default()) % BUFFER_STRIPES;
        let Some(stripe) = self.0.get(at) else { return Vec::new() };
        stripe.lock().ended(trace, span)
    }
}

// === impl Stripe ===

impl Stripe {
    fn ended(&mut self, trace: TraceId, span: SpanData) -> Vec<SpanData> {
        let is_first = span.parent_span_id == SpanId::INVALID || span.parent_span_is_remote;
        if !is_first {
            self.keep(trace, span);
            return Vec::new();
        }
        let mut spans = self.take(trace, span.span_context.span_id());
        if !matches!(span.status, Status::Error { .. }) {
            return Vec::new();
        }
        spans.push(span);
        spans
    }

    fn keep(&mut self, id: TraceId, span: SpanData) {
        if let Some(trace) = self.traces.get_mut(&id) {
            if trace.spans.len() < SPANS_PER_TRACE {
                trace.spans.push(span);
            }
            return;
        }
        while self.traces.len() >= TRACES_PER_STRIPE {
            let Some((age, oldest)) = self.ages.pop_front() else { break };
            if self.traces.get(&oldest).is_some_and(|trace| trace.age == age) {
                self.traces.remove(&oldest);
            }
        }
        if self.ages.len() >= 2 * TRACES_PER_STRIPE {
            let traces = &self.traces;
            self.ages.retain(|(age, id)| traces.get(id).is_some_and(|trace| trace.age == *age));
        }
        self.ages.push_back((self.next, id));
        self.traces.insert(id, Trace { age: self.next, spans: vec![span] });
        self.next += 1;
    }

    /// Takes out the spans below `root`. Both ends of a connection may be in this process, each with its own first
    /// span.
    fn take(&mut self, id: TraceId, root: SpanId) -> Vec<SpanData> {
        let Some(trace) = self.traces.get_mut(&id) else { return Vec::new() };
        let mut below = HashSet::from([root]);
        // Children end before their parents, so a parent comes first from the end.
        for span in trace.spans.iter().rev() {
            if below.contains(&span.parent_span_id) {
                below.insert(span.span_context.span_id());
            }
        }
        let is_below = |span: &SpanData| below.contains(&span.parent_span_id);
        let (taken, left): (Vec<_>, Vec<_>) = trace.spans.drain(..).partition(is_below);
        if left.is_empty() {
            self.traces.remove(&id);
        } else {
            trace.spans = left;
        }
        taken
    }
}

#[cfg(test)]
mod tests;

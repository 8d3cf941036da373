//! The spans of traces that were not sampled. They are held until their connection has ended, and are exported if it
//! failed.

use std::collections::{HashMap, HashSet, VecDeque};

use opentelemetry::trace::{SpanId, Status, TraceId};
use opentelemetry_sdk::trace::SpanData;
use parking_lot::Mutex;

/// Parts, each with a lock: shards end spans at the same time.
/// Limit: parts of the traces that are held: 16; past it: traces share a part and its lock.
const STRIPES: usize = 16;
/// Traces a part holds; past it the oldest goes.
/// Limit: traces of one part that are held until it is known whether they failed: 256; past it: the oldest trace goes.
const TRACES: usize = 256;
/// Spans of a trace that are held; past it the trace is incomplete.
/// Limit: spans of a trace that is held: 64; past it: the trace is incomplete.
const SPANS: usize = 64;

/// The spans held.
#[derive(Debug, Default)]
pub(super) struct TailBuffer([Mutex<Stripe>; STRIPES]);

#[derive(Debug, Default)]
struct Stripe {
    traces: HashMap<TraceId, Trace>,
    /// Traces by age; those that are gone are skipped.
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
    /// Takes a span that ended. Once the first span of this process in its trace has ended in failure, gives all there
    /// is of it.
    pub(super) fn ended(&self, span: SpanData) -> Vec<SpanData> {
        let trace = span.span_context.trace_id();
        let at = usize::from(trace.to_bytes().last().copied().unwrap_or_default()) % STRIPES;
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
            if trace.spans.len() < SPANS {
                trace.spans.push(span);
            }
            return;
        }
        while self.traces.len() >= TRACES {
            let Some((age, oldest)) = self.ages.pop_front() else { break };
            if self.traces.get(&oldest).is_some_and(|trace| trace.age == age) {
                self.traces.remove(&oldest);
            }
        }
        if self.ages.len() >= 2 * TRACES {
            let traces = &self.traces;
            self.ages.retain(|(age, id)| traces.get(id).is_some_and(|trace| trace.age == *age));
        }
        self.ages.push_back((self.next, id));
        self.traces.insert(id, Trace { age: self.next, spans: vec![span] });
        self.next += 1;
    }

    /// Takes out what is below `root`. Both ends of a connection may be in this process, each with a first span of its
    /// own.
    fn take(&mut self, id: TraceId, root: SpanId) -> Vec<SpanData> {
        let Some(trace) = self.traces.get_mut(&id) else { return Vec::new() };
        let mut below = HashSet::from([root]);
        // Children end before their parents: seen from the end, a parent comes first.
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
mod tests {
    use std::{borrow::Cow, time::SystemTime};

    use opentelemetry::{
        InstrumentationScope,
        trace::{SpanContext, SpanKind, TraceFlags, TraceState},
    };

    use super::*;

    fn span(trace: u128, id: u64, parent: u64) -> SpanData {
        let (trace, id) = (TraceId::from(trace), SpanId::from(id));
        SpanData {
            span_context: SpanContext::new(trace, id, TraceFlags::default(), false, TraceState::default()),
            parent_span_id: SpanId::from(parent),
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: Cow::Borrowed("x"),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        }
    }

    fn failed(span: SpanData) -> SpanData {
        SpanData { status: Status::error("x"), ..span }
    }

    fn ids(spans: &[SpanData]) -> Vec<u64> {
        let id = |span: &SpanData| u64::from_be_bytes(span.span_context.span_id().to_bytes());
        spans.iter().map(id).collect()
    }

    #[test]
    fn a_trace_that_failed_is_given_whole_and_others_are_let_go_of() {
        let held = TailBuffer::default();
        for (trace, first) in [(1, span(1, 1, 0)), (2, failed(span(2, 1, 0)))] {
            assert_eq!(held.ended(span(trace, 3, 2)).len(), 0);
            assert_eq!(held.ended(span(trace, 2, 1)).len(), 0);
            let given = held.ended(first);
            assert_eq!(ids(&given), if trace == 1 { vec![] } else { vec![3, 2, 1] }, "{trace}");
        }
        assert!(held.0.iter().all(|stripe| stripe.lock().traces.is_empty()));
    }

    #[test]
    fn the_two_ends_of_a_connection_fail_apart() {
        let held = TailBuffer::default();
        held.ended(span(1, 2, 1));
        held.ended(span(1, 12, 11));
        let far = SpanData { parent_span_is_remote: true, ..span(1, 11, 2) };
        assert!(held.ended(far).is_empty());
        assert_eq!(ids(&held.ended(failed(span(1, 1, 0)))), [2, 1]);
    }

    #[test]
    fn what_is_held_is_bounded_and_the_oldest_goes() {
        let held = TailBuffer::default();
        let stripes = STRIPES as u128;
        let traces = TRACES as u128;
        for n in 0..3 * traces {
            held.ended(span(n * stripes, 2, 1));
        }
        let newest = (3 * traces - 1) * stripes;
        for id in 3..1000 {
            held.ended(span(newest, id, 1));
        }
        assert_eq!(ids(&held.ended(failed(span(0, 1, 0)))), [1]);
        let stripe = held.0[0].lock();
        assert_eq!((stripe.traces.len(), stripe.ages.len() <= 2 * TRACES), (TRACES, true));
        drop(stripe);
        assert_eq!(held.ended(failed(span(newest, 1, 0))).len(), SPANS + 1);
    }
}

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
    let stripes = BUFFER_STRIPES as u128;
    let traces = TRACES_PER_STRIPE as u128;
    for n in 0..3 * traces {
        held.ended(span(n * stripes, 2, 1));
    }
    let newest = (3 * traces - 1) * stripes;
    for id in 3..1000 {
        held.ended(span(newest, id, 1));
    }
    assert_eq!(ids(&held.ended(failed(span(0, 1, 0)))), [1]);
    let stripe = held.0[0].lock();
    assert_eq!((stripe.traces.len(), stripe.ages.len() <= 2 * TRACES_PER_STRIPE), (TRACES_PER_STRIPE, true));
    drop(stripe);
    assert_eq!(held.ended(failed(span(newest, 1, 0))).len(), SPANS_PER_TRACE + 1);
}

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags};

use super::*;

fn decide(parent_based: bool, ratio: f64, parent: Option<bool>, trace: u128) -> SamplingDecision {
    let context = parent.map(|sampled| {
        let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let parent = SpanContext::new(trace.into(), SpanId::from(1), flags, true, TraceState::default());
        Context::new().with_remote_span_context(parent)
    });
    let sampler = Sampler::new(Sampling { parent_based, ratio });
    let kind = SpanKind::Server;
    sampler.should_sample(context.as_ref(), trace.into(), "x", &kind, &[], &[]).decision
}

#[test]
fn the_parent_decides_where_it_may_and_the_ratio_elsewhere() {
    use SamplingDecision::{Drop, RecordAndSample as Yes, RecordOnly as Kept};
    // The lower half of a trace's id decides: the first lies in any share, the other only in the whole.
    let (low, high) = (1, u128::from(u64::MAX));
    for (parent_based, ratio, parent, trace, want) in [
        (true, 1.0, None, high, Yes),
        (true, 1.0, Some(false), low, Kept),
        (true, 0.5, None, low, Yes),
        (true, 0.5, None, high, Kept),
        (true, 0.5, Some(true), high, Yes),
        (true, 0.0, Some(true), high, Yes),
        (true, 0.0, Some(false), low, Drop),
        (true, 0.0, None, low, Drop),
        (false, 1.0, Some(false), high, Yes),
        (false, 0.5, Some(true), high, Kept),
        (false, 0.0, Some(true), low, Drop),
    ] {
        let got = decide(parent_based, ratio, parent, trace);
        assert_eq!(got, want, "{parent_based} {ratio} {parent:?} {trace:x}");
    }
}

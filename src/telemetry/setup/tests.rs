//! The times of steps, over shards.

use super::*;
use crate::telemetry::openmetrics::Exposition;

#[test]
fn the_shards_are_added_up_by_step() {
    let setup = SetupMetrics::default();
    setup.observe(0, SetupStep::Dial, Duration::from_micros(400), None);
    setup.observe(1, SetupStep::Dial, Duration::from_millis(2), None);
    setup.observe(SLOTS + 1, SetupStep::Dial, Duration::from_secs(60), None);
    setup.observe(0, SetupStep::Route, Duration::ZERO, None);
    let mut body = Exposition::default();
    setup.group().encode(&mut body);
    let text = body.finish();
    for line in [
        "warren_connection_setup_seconds_bucket{step=\"dial\",le=\"0.0001\"} 0\n",
        "warren_connection_setup_seconds_bucket{step=\"dial\",le=\"0.0005\"} 1\n",
        "warren_connection_setup_seconds_bucket{step=\"dial\",le=\"0.005\"} 2\n",
        "warren_connection_setup_seconds_bucket{step=\"dial\",le=\"+Inf\"} 3\n",
        "warren_connection_setup_seconds_sum{step=\"dial\"} 60.0024\n",
        "warren_connection_setup_seconds_count{step=\"route\"} 1\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    // A step that never happened has no series.
    assert!(!text.contains("certificate"), "{text}");
}

#[test]
fn a_bucket_shows_the_last_observation_whose_trace_is_known() {
    let setup = SetupMetrics::default();
    let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7);
    for (slot, trace, seconds) in [(0, 1, 5), (1, 0xabc, 9), (2, 3, 7)] {
        let time = Duration::from_millis(2);
        setup.observe(slot, SetupStep::Connect, time, None);
        let counts = &setup.0.0[slot].0[SetupStep::Connect as usize];
        counts.keep(3, Exemplar { trace, value: time.as_secs_f64(), at: at(seconds) });
    }
    let mut body = Exposition::default();
    setup.group().encode(&mut body);
    let text = body.finish();
    let want =
        "{step=\"connect\",le=\"0.005\"} 3 # {trace_id=\"00000000000000000000000000000abc\"} 0.002 9.007\n";
    assert!(text.contains(want), "{text}");
    assert_eq!(text.matches("trace_id").count(), 1, "{text}");
}

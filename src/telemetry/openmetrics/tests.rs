use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::*;
use crate::telemetry::series::gathered;

#[test]
fn a_registry_becomes_open_metrics() {
    let registry = Registry::new();
    let gauge = IntGauge::new("process_open_fds", "Number of open file descriptors").unwrap();
    let bytes = IntCounterVec::new(Opts::new("x_bytes_total", "Bytes of X"), &["url"]).unwrap();
    let empty = IntCounterVec::new(Opts::new("empty_total", "Nothing yet"), &["a"]).unwrap();
    let plain = IntCounter::new("started_total", "Starts").unwrap();
    let times = Histogram::with_opts(HistogramOpts::new("lookup_seconds", "Time").buckets(vec![0.0005, 1.0]))
        .unwrap();
    registry.register(Box::new(gauge.clone())).unwrap();
    registry.register(Box::new(bytes.clone())).unwrap();
    registry.register(Box::new(empty)).unwrap();
    registry.register(Box::new(plain)).unwrap();
    registry.register(Box::new(times.clone())).unwrap();
    gauge.set(7);
    bytes.with_label_values(&["a\"b\\c\nd"]).inc_by(12_345_678);
    times.observe(0.25);
    times.observe(3.0);

    let mut body = Exposition::default();
    registry.gather().iter().for_each(|family| gathered(family, &mut body));
    let want = [
        "# HELP lookup_seconds Time.",
        "# TYPE lookup_seconds histogram",
        "# UNIT lookup_seconds seconds",
        "lookup_seconds_bucket{le=\"0.0005\"} 0",
        "lookup_seconds_bucket{le=\"1\"} 1",
        "lookup_seconds_bucket{le=\"+Inf\"} 2",
        "lookup_seconds_sum 3.25",
        "lookup_seconds_count 2",
        "# HELP process_open_fds Number of open file descriptors.",
        "# TYPE process_open_fds gauge",
        "process_open_fds 7",
        "# HELP started Starts.",
        "# TYPE started counter",
        "started_total 0",
        "# HELP x_bytes Bytes of X.",
        "# TYPE x_bytes counter",
        "# UNIT x_bytes bytes",
        "x_bytes_total{url=\"a\\\"b\\\\c\\nd\"} 12345678",
        "# EOF",
        "",
    ];
    assert_eq!(body.finish(), want.join("\n"));
}

#[test]
fn label_values_are_escaped() {
    for (value, want) in [
        ("", ""),
        ("plain", "plain"),
        ("\\", "\\\\"),
        ("a\"", "a\\\""),
        ("\n\n", "\\n\\n"),
        ("é\"ü", "é\\\"ü"),
    ] {
        let mut text = String::new();
        escape_into(&mut text, value);
        assert_eq!(text, want);
    }
}

//! What a collector gets of the metrics.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, Metric, NumberDataPoint, metric::Data, number_data_point::Value as Number,
    },
};
use opentelemetry_sdk::Resource;
use prometheus::{CounterVec, Histogram, HistogramOpts, Opts, Registry};

use super::*;
use crate::{
    protocols::{
        labels::{Endpoint, Reporter, TrafficLabels},
        outcome::ResponseFlag,
    },
    telemetry::{metrics::Metrics, otlp::instruments::Instruments},
};

fn slices(metrics: &Metrics) -> Vec<Vec<Metric>> {
    sent(&mut Instruments::new(&Resource::builder_empty().build()), metrics.snapshot())
}

/// The metrics of each request.
fn sent(instruments: &mut Instruments, snapshot: Snapshot) -> Vec<Vec<Metric>> {
    let request = |slice| ExportMetricsServiceRequest::from(&instruments.read(slice));
    let requests = Slices::of(snapshot).map(request);
    let resources = requests.map(|request| request.resource_metrics.into_iter());
    let scopes = resources.map(|parts| parts.flat_map(|part| part.scope_metrics));
    scopes.map(|scopes| scopes.flat_map(|scope| scope.metrics).collect()).collect()
}

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

fn find<'a>(slices: &'a [Vec<Metric>], name: &str) -> &'a Metric {
    let mut found = slices.iter().flatten().filter(|metric| metric.name == name);
    found.next().unwrap_or_else(|| panic!("no {name}"))
}

fn points(metric: &Metric) -> &[NumberDataPoint] {
    match &metric.data {
        Some(Data::Sum(sum)) => &sum.data_points,
        Some(Data::Gauge(gauge)) => &gauge.data_points,
        other => panic!("{other:?}"),
    }
}

fn value<'a>(point: &'a NumberDataPoint, key: &str) -> &'a str {
    let pair = point.attributes.iter().find(|pair| pair.key == key).unwrap_or_else(|| panic!("no {key}"));
    match &pair.value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn connections_become_sums() {
    let metrics = Metrics::new("x").unwrap();
    let before = now();
    let mut labels = TrafficLabels::unknown(Reporter::Source);
    labels.source.workload = Some("a\"b\\c");
    let open = metrics.traffic(&labels);
    open.received(7);
    metrics.traffic(&labels).close(ResponseFlag::Deny);
    let all = slices(&metrics);
    for (name, unit, flag, want) in [
        ("istio_tcp_connections_opened_total", "", "-", 2),
        ("istio_tcp_connections_closed_total", "", "DENY", 1),
        ("istio_tcp_connections_failed_total", "", "DENY", 1),
        ("istio_tcp_received_bytes_total", "By", "-", 7),
        ("istio_tcp_sent_bytes_total", "By", "-", 0),
    ] {
        let metric = find(&all, name);
        let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
        let cumulative = i32::from(AggregationTemporality::Cumulative);
        assert_eq!((sum.is_monotonic, sum.aggregation_temporality), (true, cumulative), "{name}");
        let [point] = sum.data_points.as_slice() else { panic!("{name}: {sum:?}") };
        assert_eq!((point.value, metric.unit.as_str()), (Some(Number::AsInt(want)), unit), "{name}");
        assert_eq!(value(point, "response_flags"), flag, "{name}");
        assert_eq!((value(point, "source_workload"), value(point, "reporter")), ("a\"b\\c", "source"));
        assert!(point.start_time_unix_nano >= before && point.time_unix_nano >= point.start_time_unix_nano);
    }
    assert_eq!(find(&all, "istio_tcp_sent_bytes_total").description, "Bytes from server to client");
}

#[test]
fn counters_and_gauges_of_the_registry_keep_their_names_and_values() {
    let metrics = Metrics::new("1.2").unwrap();
    metrics.xds.message("type", 1000);
    metrics.actors.restarted("xds");
    let all = slices(&metrics);
    let restarts = find(&all, "warren_actor_restarts_total");
    assert!(matches!(&restarts.data, Some(Data::Sum(sum)) if sum.is_monotonic));
    let point = &points(restarts)[0];
    assert_eq!((point.value, value(point, "kind")), (Some(Number::AsInt(1)), "xds"));
    assert!(point.start_time_unix_nano > 0);
    let build = find(&all, "istio_build");
    assert!(matches!(build.data, Some(Data::Gauge(_))));
    let point = &points(build)[0];
    assert_eq!((point.value, value(point, "tag")), (Some(Number::AsDouble(1.0)), "1.2"));
    let bytes = find(&all, "istio_xds_message_bytes_total");
    assert_eq!((points(bytes)[0].value, bytes.unit.as_str()), (Some(Number::AsInt(1000)), "By"));
    assert!(!all.iter().flatten().any(|metric| metric.name == "warren_actor_crashes_total"), "no samples");
}

#[test]
fn what_is_scraped_is_exported_and_nothing_else() {
    let metrics = Metrics::new("x").unwrap();
    drop(metrics.traffic(&TrafficLabels::unknown(Reporter::Source)));
    metrics.on_demand_dns(&Endpoint::default(), "db");
    let text = metrics.encode();
    let mut scraped: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    scraped.iter_mut().for_each(|line| *line = line.split(['{', ' ']).next().unwrap());
    let all = slices(&metrics);
    let mut exported: Vec<&str> =
        all.iter().flatten().flat_map(|metric| points(metric).iter().map(|_| metric.name.as_str())).collect();
    scraped.sort_unstable();
    exported.sort_unstable();
    assert_eq!(exported, scraped);
}

#[test]
fn many_label_sets_come_in_slices_and_none_is_lost() {
    let metrics = Metrics::new("x").unwrap();
    for n in 0..LABEL_SETS * 2 + 1 {
        let name = format!("w{n}");
        let mut labels = TrafficLabels::unknown(Reporter::Source);
        labels.source.workload = Some(&name);
        metrics.traffic(&labels).close(ResponseFlag::Ok);
    }
    for n in 0..LABEL_SETS + 1 {
        metrics.on_demand_dns(&Endpoint::default(), &format!("h{n}"));
    }
    let all = slices(&metrics);
    let mut counts = [0, 0];
    for slice in &all {
        let points_of = |name: &str| {
            let of = slice.iter().filter(|metric| metric.name == name);
            of.map(|metric| points(metric).len()).sum::<usize>()
        };
        let (opened, dns) =
            (points_of("istio_tcp_connections_opened_total"), points_of("istio_on_demand_dns_total"));
        assert!(opened <= LABEL_SETS && dns <= LABEL_SETS, "{opened} {dns}");
        counts = [counts[0] + opened, counts[1] + dns];
    }
    assert_eq!(counts, [LABEL_SETS * 2 + 1, LABEL_SETS + 1]);
}

#[test]
fn a_histogram_becomes_its_buckets_its_count_and_its_sum_and_units_are_named() {
    let registry = Registry::new();
    let options = HistogramOpts::new("lookup_seconds", "Time").buckets(vec![0.5, 1.0]);
    let times = Histogram::with_opts(options).unwrap();
    let busy = CounterVec::new(Opts::new("busy_seconds_total", "Busy"), &["kind"]).unwrap();
    registry.register(Box::new(times.clone())).unwrap();
    registry.register(Box::new(busy.clone())).unwrap();
    [0.25, 0.75, 3.0, 4.0].iter().for_each(|time| times.observe(*time));
    busy.with_label_values(&["x"]).inc_by(0.5);
    let snapshot = Snapshot { groups: Vec::new(), gathered: registry.gather() };
    let all = sent(&mut Instruments::new(&Resource::builder_empty().build()), snapshot);
    let buckets = points(find(&all, "lookup_seconds_bucket")).iter();
    let mut buckets: Vec<_> = buckets.map(|point| (value(point, "le"), point.value.unwrap())).collect();
    buckets.sort_by_key(|(bound, _)| *bound);
    assert_eq!(buckets, [("+Inf", Number::AsInt(4)), ("0.5", Number::AsInt(1)), ("1", Number::AsInt(2))]);
    for (name, unit, want) in [
        ("lookup_seconds_count", "", Number::AsInt(4)),
        ("lookup_seconds_sum", "s", Number::AsDouble(8.0)),
        ("busy_seconds_total", "s", Number::AsDouble(0.5)),
    ] {
        let metric = find(&all, name);
        assert_eq!((points(metric)[0].value, metric.unit.as_str()), (Some(want), unit), "{name}");
    }
}

#[test]
fn what_is_gone_is_not_sent_again_and_a_family_keeps_its_beginning() {
    let metrics = Metrics::new("x").unwrap();
    let mut instruments = Instruments::new(&Resource::builder_empty().build());
    let mut send = || sent(&mut instruments, metrics.snapshot());
    metrics.xds.message("first", 1);
    let before = send();
    let begun = points(find(&before, "istio_xds_message_total"))[0].start_time_unix_nano;
    let (now, hour) = (std::time::Instant::now(), std::time::Duration::from_secs(3600));
    metrics.sweep(now);
    metrics.sweep(now + hour);
    assert!(!send().iter().flatten().any(|metric| metric.name == "istio_xds_message_total"));
    metrics.xds.message("second", 1);
    let after = send();
    let [point] = points(find(&after, "istio_xds_message_total")) else { panic!("{after:?}") };
    assert_eq!((value(point, "url"), point.start_time_unix_nano), ("second", begun));
}

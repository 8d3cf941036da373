//! The metrics of a scrape as OTLP's: counters as cumulative sums, gauges as gauges. Names and labels stay as they are.
//!
//! They come in slices, made one after another as they are sent: all of twenty thousand label sets at once would take
//! hundreds of megabytes.

use std::{sync::Arc, time::SystemTime, vec};

use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
        metric::Data, number_data_point::Value as Number,
    },
};
use prometheus::proto::{Metric as Gathered, MetricFamily, MetricType};

use super::{attribute, logs::nanos, text};
use crate::{
    protocols::labels::FLAG,
    telemetry::{
        counters::Sampled,
        metrics::Snapshot,
        openmetrics::{labels, unit},
        traffic::{FAMILIES, Family, Series},
    },
};

/// Label sets of connections in one slice; each is some five points.
/// Limit: label sets of connections in one request with metrics: 100; past it: another request is made.
const SERIES: usize = 100;
/// Points in one slice of the other families.
/// Limit: other points in one request with metrics: 500; past it: another request is made.
const POINTS: usize = 500;

/// A snapshot in slices, each for one request.
pub(super) struct Slices {
    since: SystemTime,
    now: u64,
    traffic: vec::IntoIter<Arc<Series>>,
    rest: vec::IntoIter<Piece>,
}

/// A family, or a part of it.
enum Piece {
    Counters(Sampled),
    Gathered(MetricFamily),
}

// === impl Slices ===

impl Slices {
    /// Of `snapshot`, taken at `now`.
    pub(super) fn of(snapshot: Snapshot, now: SystemTime) -> Self {
        let mut rest = Vec::new();
        for mut family in snapshot.counters {
            while !family.samples.is_empty() {
                let left = family.samples.split_off(family.samples.len().min(POINTS));
                let samples = std::mem::replace(&mut family.samples, left);
                rest.push(Piece::Counters(Sampled { samples, ..family }));
            }
        }
        // Their labels are words of the program: none has many.
        rest.extend(snapshot.gathered.into_iter().map(Piece::Gathered));
        let (traffic, rest) = (snapshot.traffic.into_iter(), rest.into_iter());
        Self { since: snapshot.since, now: nanos(now), traffic, rest }
    }

    fn sum(&self, since: SystemTime, attributes: Vec<KeyValue>, value: u64) -> NumberDataPoint {
        let value = Number::AsInt(i64::try_from(value).unwrap_or(i64::MAX));
        self.point(Some(since), attributes, value)
    }

    fn point(&self, since: Option<SystemTime>, attributes: Vec<KeyValue>, value: Number) -> NumberDataPoint {
        NumberDataPoint {
            attributes,
            start_time_unix_nano: since.map_or(0, nanos),
            time_unix_nano: self.now,
            value: Some(value),
            ..NumberDataPoint::default()
        }
    }

    /// The families of connections, as far as `series` count in them.
    fn connections(&self, series: &[Arc<Series>]) -> Vec<Metric> {
        let known: Vec<Vec<KeyValue>> = series.iter().map(|series| attributes(&series.labels())).collect();
        let family = |family: &Family| {
            let mut points = Vec::new();
            for (series, known) in series.iter().zip(&known) {
                family.each(series, &mut |flag, count| {
                    let mut attributes = known.clone();
                    if let Some(at) = attributes.iter_mut().find(|pair| pair.key == FLAG) {
                        *at = text(FLAG, flag.as_str());
                    }
                    points.push(self.sum(series.since(), attributes, count));
                });
            }
            metric(family.name, family.help, sums(points))
        };
        FAMILIES.iter().map(family).filter(|metric| !is_empty(metric)).collect()
    }

    fn counters(&self, family: &Sampled) -> Metric {
        let point = |(labels, since, count): &(Box<str>, SystemTime, u64)| {
            self.sum(*since, attributes(labels), *count)
        };
        metric(family.name, family.help, sums(family.samples.iter().map(point).collect()))
    }

    fn gathered(&self, family: &MetricFamily) -> Metric {
        let all = family.get_metric().iter();
        let since = Some(self.since);
        let number =
            |metric: &Gathered, since, value| self.point(since, own(metric), Number::AsDouble(value));
        let data = match family.get_field_type() {
            MetricType::COUNTER => {
                sums(all.map(|metric| number(metric, since, metric.get_counter().get_value())).collect())
            }
            MetricType::HISTOGRAM => Data::Histogram(Histogram {
                data_points: all.map(|metric| self.histogram(metric)).collect(),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
            }),
            _ => Data::Gauge(Gauge {
                data_points: all.map(|metric| number(metric, None, metric.get_gauge().get_value())).collect(),
            }),
        };
        metric(family.name(), family.help(), data)
    }

    fn histogram(&self, metric: &Gathered) -> HistogramDataPoint {
        let histogram = metric.get_histogram();
        let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
        let (bounds, up_to): (Vec<f64>, Vec<u64>) =
            finite.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).unzip();
        let mut below = 0;
        let ends = up_to.into_iter().chain([histogram.get_sample_count()]);
        let counts = ends.map(|end| end.saturating_sub(std::mem::replace(&mut below, end))).collect();
        HistogramDataPoint {
            attributes: own(metric),
            start_time_unix_nano: nanos(self.since),
            time_unix_nano: self.now,
            count: histogram.get_sample_count(),
            sum: Some(histogram.get_sample_sum()),
            bucket_counts: counts,
            explicit_bounds: bounds,
            ..HistogramDataPoint::default()
        }
    }
}

impl Iterator for Slices {
    type Item = Vec<Metric>;

    fn next(&mut self) -> Option<Vec<Metric>> {
        let series: Vec<Arc<Series>> = self.traffic.by_ref().take(SERIES).collect();
        if !series.is_empty() {
            return Some(self.connections(&series));
        }
        let (mut slice, mut points) = (Vec::new(), 0);
        while points < POINTS {
            let Some(piece) = self.rest.next() else { break };
            points += piece.len();
            slice.push(match piece {
                Piece::Counters(family) => self.counters(&family),
                Piece::Gathered(family) => self.gathered(&family),
            });
        }
        slice.retain(|metric| !is_empty(metric));
        (!slice.is_empty()).then_some(slice)
    }
}

// === impl Piece ===

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Counters(family) => family.samples.len(),
            Self::Gathered(family) => family.get_metric().len(),
        }
    }
}

fn metric(name: &str, help: &str, data: Data) -> Metric {
    // The Unified Code for Units of Measure.
    let unit = match unit(name.strip_suffix("_total").unwrap_or(name)) {
        Some("bytes") => "By",
        Some("seconds") => "s",
        _ => "",
    };
    Metric {
        name: name.to_owned(),
        description: help.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn sums(data_points: Vec<NumberDataPoint>) -> Data {
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true })
}

fn is_empty(metric: &Metric) -> bool {
    match &metric.data {
        Some(Data::Sum(sum)) => sum.data_points.is_empty(),
        Some(Data::Gauge(gauge)) => gauge.data_points.is_empty(),
        Some(Data::Histogram(histogram)) => histogram.data_points.is_empty(),
        _ => true,
    }
}

/// Labels as they are rendered for a scrape, as attributes.
fn attributes(rendered: &str) -> Vec<KeyValue> {
    labels(rendered).map(|(name, value)| attribute(name.to_owned(), Value::StringValue(value))).collect()
}

fn own(metric: &Gathered) -> Vec<KeyValue> {
    metric.get_label().iter().map(|label| text(label.name(), label.value())).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry_proto::tonic::common::v1::AnyValue;
    use prometheus::{CounterVec, Histogram as Times, HistogramOpts, Opts, Registry};

    use super::*;
    use crate::{
        protocols::{
            labels::{Endpoint, Reporter, TrafficLabels},
            outcome::ResponseFlag,
        },
        telemetry::metrics::Metrics,
    };

    fn slices(metrics: &Metrics) -> Vec<Vec<Metric>> {
        Slices::of(metrics.snapshot(), SystemTime::now()).collect()
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
    fn connections_become_sums_that_begin_with_their_label_set() {
        let metrics = Metrics::new("x").unwrap();
        let before = nanos(SystemTime::now());
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
            assert!(
                point.start_time_unix_nano >= before && point.time_unix_nano >= point.start_time_unix_nano
            );
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
        assert_eq!((point.value, value(point, "kind")), (Some(Number::AsDouble(1.0)), "xds"));
        assert!(point.start_time_unix_nano > 0);
        let build = find(&all, "istio_build");
        assert!(matches!(build.data, Some(Data::Gauge(_))));
        let point = &points(build)[0];
        assert_eq!((point.value, value(point, "tag")), (Some(Number::AsDouble(1.0)), "1.2"));
        assert_eq!(point.start_time_unix_nano, 0, "gauges have no beginning");
        let bytes = find(&all, "istio_xds_message_bytes_total");
        assert_eq!((points(bytes)[0].value, bytes.unit.as_str()), (Some(Number::AsInt(1000)), "By"));
        assert!(
            !all.iter().flatten().any(|metric| metric.name == "warren_actor_crashes_total"),
            "no samples"
        );
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
        let mut exported: Vec<&str> = all
            .iter()
            .flatten()
            .flat_map(|metric| points(metric).iter().map(|_| metric.name.as_str()))
            .collect();
        scraped.sort_unstable();
        exported.sort_unstable();
        assert_eq!(exported, scraped);
    }

    #[test]
    fn many_label_sets_come_in_slices_and_none_is_lost() {
        let metrics = Metrics::new("x").unwrap();
        for n in 0..SERIES * 2 + 1 {
            let name = format!("w{n}");
            let mut labels = TrafficLabels::unknown(Reporter::Source);
            labels.source.workload = Some(&name);
            metrics.traffic(&labels).close(ResponseFlag::Ok);
        }
        for n in 0..POINTS + 1 {
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
            assert!(opened <= SERIES && dns <= POINTS, "{opened} {dns}");
            counts = [counts[0] + opened, counts[1] + dns];
        }
        assert_eq!(counts, [SERIES * 2 + 1, POINTS + 1]);
    }

    #[test]
    fn buckets_are_counted_each_for_itself_and_units_are_named() {
        let registry = Registry::new();
        let options = HistogramOpts::new("lookup_seconds", "Time").buckets(vec![0.5, 1.0]);
        let times = Times::with_opts(options).unwrap();
        let busy = CounterVec::new(Opts::new("busy_seconds_total", "Busy"), &["kind"]).unwrap();
        registry.register(Box::new(times.clone())).unwrap();
        registry.register(Box::new(busy.clone())).unwrap();
        [0.25, 0.75, 3.0, 4.0].iter().for_each(|time| times.observe(*time));
        busy.with_label_values(&["x"]).inc_by(0.5);
        let since = SystemTime::now();
        let snapshot =
            Snapshot { since, traffic: Vec::new(), counters: Vec::new(), gathered: registry.gather() };
        let all: Vec<Vec<Metric>> = Slices::of(snapshot, since + Duration::from_secs(1)).collect();
        let lookup = find(&all, "lookup_seconds");
        let Some(Data::Histogram(histogram)) = &lookup.data else { panic!("{lookup:?}") };
        let point = &histogram.data_points[0];
        assert_eq!((&point.bucket_counts[..], &point.explicit_bounds[..]), (&[1, 1, 2][..], &[0.5, 1.0][..]));
        assert_eq!((point.count, point.sum, lookup.unit.as_str()), (4, Some(8.0), "s"));
        assert_eq!(point.time_unix_nano - point.start_time_unix_nano, 1_000_000_000);
        let busy = find(&all, "busy_seconds_total");
        assert_eq!((points(busy)[0].value, busy.unit.as_str()), (Some(Number::AsDouble(0.5)), "s"));
    }
}

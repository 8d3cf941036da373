//! Log records and metrics.

use std::{io::Read, net::Shutdown};

use warren::lab::control::ca::CaOptions;

use crate::{
    collector::{Collector, Point, Record},
    connections::{GRPC, HTTP},
    metrics::{all_closed, metrics, metrics_show},
    support::*,
};

/// Each way 1000 bytes: the application begins with five.
fn connect(lab: &Lab) {
    let mut stream = open(lab, "client", SERVER).unwrap();
    echo(&mut stream, &[7; 995]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
}

pub(crate) fn the_access_log_of_a_connection_joins_its_trace() {
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", GRPC),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "100"),
        ("RUST_LOG", "info,otlp=debug,conn=debug"),
    ];
    let lab = raise_with(MESH, &settings, CaOptions::default());
    let collector = Collector::start(&lab);
    connect(&lab);
    let ended = |node: &str| {
        eventually(&format!("access log of {node}: {:?}", collector.received.records()), || {
            let is_it = |record: &Record| record.scope == "access" && record.node() == node;
            collector.received.records().into_iter().find(is_it)
        })
    };
    let (one, two) = (ended("one"), ended("two"));
    for (record, direction, bytes) in
        [(&one, "outbound", ["1000", "1000"]), (&two, "inbound", ["1000", "1000"])]
    {
        assert_eq!(
            (record.body.as_str(), &record.severity),
            ("connection complete", &(9, "info".to_owned()))
        );
        let attribute = |key: &str| record.attributes.get(key).map_or("", String::as_str);
        assert_eq!(
            ["direction", "src.workload", "dst.workload", "dst.hbone_addr"].map(attribute),
            [direction, "client", "server", SERVER],
            "{record:#?}"
        );
        assert_eq!(["bytes_sent", "bytes_recv"].map(attribute), bytes);
        assert_eq!(record.resource.get("service.name").map(String::as_str), Some("warren"));
        let spans = collector.trace("the connection", |spans| {
            ["outbound", "inbound"].iter().all(|name| spans.iter().any(|span| span.name == *name))
        });
        let span = spans.iter().find(|span| span.id == record.span && span.trace == record.trace);
        let span = span.unwrap_or_else(|| panic!("no span of {record:#?} in {spans:#?}"));
        assert_eq!(span.node(), record.node(), "{record:#?}");
    }
    // The first records of all came while nobody listened: what was said of that is not exported.
    let own = collector.received.records().into_iter().find(|record| record.scope == "otlp");
    assert!(own.is_none(), "{own:#?}");
    let started = collector.received.records().into_iter().find(|record| record.scope == "main");
    assert!(started.is_none_or(|record| record.trace.is_empty()));
}

pub(crate) fn metrics_at_a_collector_are_those_of_a_scrape() {
    let settings = [
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", HTTP_METRICS),
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ];
    let lab = raise_with(MESH, &settings, CaOptions::default());
    let collector = Collector::start(&lab);
    connect(&lab);
    all_closed(&lab, "one");
    let source = [("reporter", "source"), ("source_workload", "client"), ("destination_workload", "server")];
    let find = |name: &str, labels: &[(&str, &str)]| {
        let has = |point: &Point| {
            let is = |(key, value): &(&str, &str)| point.attributes.get(*key).is_some_and(|own| own == value);
            point.name == name && point.node() == "one" && labels.iter().all(is)
        };
        collector.received.points().into_iter().rev().find(has)
    };
    let closed = eventually("the closed connection", || find("istio_tcp_connections_closed_total", &source));
    let scraped = metrics(&lab, "one");
    for name in [
        "istio_tcp_connections_opened_total",
        "istio_tcp_connections_closed_total",
        "istio_tcp_received_bytes_total",
        "istio_tcp_sent_bytes_total",
    ] {
        let point = find(name, &source).unwrap_or_else(|| panic!("no {name}"));
        let sample = scraped.find(name, &source).next().unwrap_or_else(|| panic!("no {name} in the scrape"));
        assert_eq!((point.value, &point.attributes), (sample.value, &sample.labels), "{name}");
        assert!(point.is_counter && point.start > 0 && point.start < point.time, "{point:#?}");
        assert_eq!(point.unit, if name.ends_with("bytes_total") { "By" } else { "" });
    }
    assert_eq!((closed.value, closed.description.as_str()), (1.0, "TCP connections closed"));
    let build = find("istio_build", &[("component", "ztunnel")]).expect("no istio_build");
    assert_eq!((build.value, build.is_counter), (1.0, false));
    assert_eq!(build.resource.get("k8s.cluster.name").map(String::as_str), Some("Kubernetes"));
    metrics_show(&lab, "one", "exports", |metrics| metrics.sum("warren_metric_exports_total", &[]) >= 1.0);
    assert!(collector.received.all().is_empty() && collector.received.records().is_empty(), "nobody asked");
}

pub(crate) fn logs_and_metrics_that_no_collector_takes_cost_no_connection() {
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", HTTP),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "100"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "8"),
    ];
    let lab = raise_with(MESH, &settings, CaOptions::default());
    for _ in 0..50 {
        drop(open(&lab, "client", SERVER).unwrap());
    }
    for node in ["one", "two"] {
        for (name, reason) in [
            ("warren_log_records_dropped_total", "queue full"),
            ("warren_log_records_dropped_total", "export failed"),
            ("warren_metric_exports_dropped_total", "export failed"),
            ("warren_metric_exports_dropped_total", "still under way"),
        ] {
            metrics_show(&lab, node, &format!("{name}: {reason}"), |metrics| {
                metrics.sum(name, &[("reason", reason)]) >= 1.0
            });
        }
        metrics_show(&lab, node, "connections that failed: none", |metrics| {
            metrics.sum("istio_tcp_connections_failed_total", &[]) == 0.0
                && metrics.sum("warren_log_records_exported_total", &[]) == 0.0
                && metrics.sum("warren_metric_exports_total", &[]) == 0.0
        });
    }
}

const HTTP_METRICS: &str = "http://10.77.0.254:4318/v1/metrics";

impl Record {
    /// The proxy's node, by its pod's name.
    fn node(&self) -> &str {
        let pod = self.resource.get("k8s.pod.name").map_or("", String::as_str);
        pod.strip_prefix("warren-").unwrap_or(pod)
    }
}

impl Point {
    /// The proxy's node, by its pod's name.
    fn node(&self) -> &str {
        let pod = self.resource.get("k8s.pod.name").map_or("", String::as_str);
        pod.strip_prefix("warren-").unwrap_or(pod)
    }
}

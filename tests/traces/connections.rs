//! Connections, span by span.

use std::{collections::BTreeMap, fs, io::Read, net::Shutdown, path::PathBuf};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use warren::lab::{control::ca::CaOptions, hosts::Role};

use crate::{
    collector::{Collector, Span},
    metrics::metrics_show,
    support::{self, *},
    tree,
};

pub(crate) const GRPC: &str = "http://10.77.0.254:4317";
pub(crate) const HTTP: &str = "http://10.77.0.254:4318";

/// Spans of a first connection from `client` to `server`: name, whose, parent, kind.
const SPANS: [(&str, &str, &str, SpanKind); 18] = [
    ("outbound", "one", "", SpanKind::Server),
    ("capture", "one", "outbound", SpanKind::Internal),
    ("wait for identity", "one", "outbound", SpanKind::Internal),
    ("route", "one", "outbound", SpanKind::Internal),
    ("wait for tunnel", "one", "outbound", SpanKind::Internal),
    ("tunnel dial", "one", "wait for tunnel", SpanKind::Client),
    ("wait for certificate", "one", "tunnel dial", SpanKind::Internal),
    ("certificate fetch", "one", "wait for certificate", SpanKind::Internal),
    ("certificate request", "one", "certificate fetch", SpanKind::Client),
    ("tcp connect", "one", "tunnel dial", SpanKind::Client),
    ("tls handshake", "one", "tunnel dial", SpanKind::Client),
    ("http2 handshake", "one", "tunnel dial", SpanKind::Client),
    ("CONNECT", "one", "outbound", SpanKind::Client),
    ("relay", "one", "outbound", SpanKind::Internal),
    ("inbound", "two", "CONNECT", SpanKind::Server),
    ("policy", "two", "inbound", SpanKind::Internal),
    ("application connect", "two", "inbound", SpanKind::Client),
    ("relay", "two", "inbound", SpanKind::Internal),
];

fn has(spans: &[Span], name: &str, node: &str) -> bool {
    spans.iter().any(|span| span.name == name && span.node() == node)
}

fn find<'a>(spans: &'a [Span], name: &str, node: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name && span.node() == node).collect();
    assert_eq!(found.len(), 1, "{name} of {node}\n{}", tree::draw(spans));
    found[0]
}

#[track_caller]
fn holds(span: &Span, wanted: &[(&str, &str)]) {
    for (key, value) in wanted {
        assert_eq!(span.attribute(key), *value, "{key} of {}: {span:#?}", span.name);
    }
}

pub(crate) fn a_connection_is_one_trace_through_both_proxies() {
    // Without the node's name no certificate is fetched ahead of need, so that the first connection does it. The log's
    // level must make no difference.
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", GRPC),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab"),
        ("NODE_NAME", ""),
        ("RUST_LOG", "debug"),
    ];
    let lab = raise_with(MESH, &settings, CaOptions::default());
    let collector = Collector::start(&lab);
    let mut stream = open(&lab, "client", SERVER).unwrap();
    echo(&mut stream, &[7; 995]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    drop(stream);
    let spans = collector
        .trace("the connection", |spans| has(spans, "outbound", "one") && has(spans, "inbound", "two"));
    let drawn = tree::draw(&spans);
    println!("{drawn}");

    let names: BTreeMap<&str, &str> =
        spans.iter().map(|span| (span.id.as_str(), span.name.as_str())).collect();
    let mut left: Vec<&Span> = spans.iter().collect();
    for (name, node, parent, kind) in &SPANS {
        let is_it = |span: &&Span| {
            let above = names.get(span.parent.as_str()).copied().unwrap_or_default();
            span.name == *name && span.node() == *node && above == *parent && span.kind == *kind
        };
        let at =
            left.iter().position(is_it).unwrap_or_else(|| panic!("no {name} of {node} in {parent}\n{drawn}"));
        let span = left.remove(at);
        assert!(!span.failed && span.start <= span.end, "{span:#?}");
        if let Some(above) = spans.iter().find(|above| above.id == span.parent && above.node() == *node) {
            assert!(above.start <= span.start && span.end <= above.end, "{name} outlives {parent}\n{drawn}");
        }
    }
    assert!(left.is_empty(), "more than was wanted: {left:#?}");
    attributes(&spans);
    let documents =
        fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let shown =
        documents.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default();
    assert_eq!(
        tree::shape(shown),
        tree::shape(&drawn),
        "docs/operations.md shows another trace than\n{drawn}"
    );
}

fn attributes(spans: &[Span]) {
    let bytes =
        [("warren.bytes.received", "1000"), ("warren.bytes.sent", "1000"), ("warren.end", "complete")];
    for (name, node) in [("outbound", "one"), ("inbound", "two")] {
        let first = find(spans, name, node);
        holds(first, &bytes);
        holds(
            first,
            &[
                ("warren.source.workload", "client"),
                ("warren.destination.workload", "server"),
                ("warren.authority", SERVER),
                ("warren.response_flags", "-"),
                ("client.address", "10.77.1.1"),
                ("network.transport", "tcp"),
                ("error.type", ""),
            ],
        );
        holds(find(spans, "relay", node), &bytes);
        let resource = |key: &str| first.resource.get(key).map_or("", String::as_str);
        let known = ["service.name", "k8s.cluster.name", "k8s.namespace.name", "deployment.environment.name"];
        assert_eq!(known.map(resource), ["warren", "Kubernetes", "istio-system", "lab"]);
        assert_eq!(resource("service.version"), env!("CARGO_PKG_VERSION"));
    }
    holds(find(spans, "outbound", "one"), &[("server.address", "10.77.2.1"), ("server.port", "9000")]);
    holds(find(spans, "route", "one"), &[("warren.route", "hbone"), ("warren.attempt", "1")]);
    holds(
        find(spans, "tunnel dial", "one"),
        &[("network.peer.address", "10.77.2.1"), ("network.peer.port", "15008")],
    );
    let client = "spiffe://cluster.local/ns/default/sa/client";
    holds(find(spans, "certificate request", "one"), &[("warren.identity", client), ("rpc.system", "grpc")]);
    holds(find(spans, "certificate fetch", "one"), &[("warren.identity", client)]);
    holds(
        find(spans, "CONNECT", "one"),
        &[("http.request.method", "CONNECT"), ("http.response.status_code", "200")],
    );
    let app = [("network.peer.address", "10.77.2.1"), ("network.peer.port", "9000")];
    holds(find(spans, "application connect", "two"), &app);
}

pub(crate) fn a_failed_connection_is_exported_although_it_was_not_sampled() {
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", HTTP),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.000000000001"),
    ];
    let lab = raise_with(MESH, &settings, CaOptions::default());
    let collector = Collector::start(&lab);
    for _ in 0..3 {
        drop(open(&lab, "client", SERVER).unwrap());
    }
    // Nobody listens there.
    let end = support::ask(lab.pod("client").unwrap(), addr("10.77.2.1:9999"));
    assert!(is_turned_away(&end), "{end:?}");
    let spans =
        collector.trace("the failure", |spans| has(spans, "outbound", "one") && has(spans, "inbound", "two"));
    let (outbound, inbound) = (find(&spans, "outbound", "one"), find(&spans, "inbound", "two"));
    assert!(outbound.failed && inbound.failed, "{}", tree::draw(&spans));
    holds(outbound, &[("error.type", "CONNECT"), ("warren.end", "http status: 503")]);
    holds(inbound, &[("error.type", "CONNECT")]);
    let (asked, dialled) = (find(&spans, "CONNECT", "one"), find(&spans, "application connect", "two"));
    holds(asked, &[("http.response.status_code", "503")]);
    assert!(asked.failed && dialled.failed && inbound.parent == asked.id && dialled.parent == inbound.id);
    assert!(has(&spans, "capture", "one") && has(&spans, "policy", "two"), "{}", tree::draw(&spans));
    let others: Vec<Span> =
        collector.received.all().into_iter().filter(|span| span.trace != outbound.trace).collect();
    assert!(others.is_empty(), "exported although they neither failed nor were sampled: {others:#?}");
}

pub(crate) fn a_collector_that_is_mute_or_dead_costs_spans_and_no_connection() {
    let settings = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", GRPC),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "8"),
    ];
    let lab = raise_with(MESH, &settings, CaOptions::default());
    let dropped = |node: &str, reason: &str, least: f64| {
        metrics_show(&lab, node, &format!("spans dropped: {reason}"), |metrics| {
            metrics.sum("warren_trace_spans_dropped_total", &[("reason", reason)]) >= least
                && metrics.sum("warren_trace_spans_exported_total", &[]) == 0.0
        });
    };
    // Nobody listens there yet.
    drop(open(&lab, "client", SERVER).unwrap());
    dropped("one", "export failed", 1.0);
    // Connections are accepted and nothing is answered.
    let control = lab.hosts().find(Role::Control, "control").unwrap().namespace();
    let _mute = listen(control, 4317);
    for _ in 0..50 {
        drop(open(&lab, "client", SERVER).unwrap());
    }
    for node in ["one", "two"] {
        dropped(node, "queue full", 50.0);
        metrics_show(&lab, node, "connections that failed: none", |metrics| {
            metrics.sum("istio_tcp_connections_failed_total", &[]) == 0.0
                && metrics.sum("warren_trace_export_failures_total", &[]) >= 1.0
        });
    }
}

pub(crate) fn a_restarted_actor_is_a_trace_of_its_own() {
    let settings =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", HTTP), ("OTEL_BSP_SCHEDULE_DELAY", "100"), ("WARREN_CHAOS", "true")];
    let lab = raise_with(MESH, &settings, CaOptions::default());
    let collector = Collector::start(&lab);
    let mut admin = dial_from(lab.node("one").unwrap(), addr("127.0.0.1:15000")).unwrap();
    let kill =
        b"POST /actors/root/certs/kill HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    std::io::Write::write_all(&mut admin, kill).unwrap();
    let mut answer = String::new();
    admin.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let spans = collector.trace("the outage", |spans| has(spans, "actor outage", "one"));
    let outage = find(&spans, "actor outage", "one");
    holds(
        outage,
        &[("warren.actor.path", "root/certs"), ("warren.actor.kind", "certs"), ("error.type", "crashed")],
    );
    assert_eq!(outage.events, ["crashed", "restarted"]);
    assert!(outage.failed && outage.parent.is_empty(), "{outage:#?}");
}

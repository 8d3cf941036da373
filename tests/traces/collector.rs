//! The collector, and the backend behind it that keeps what it passes on.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    metrics::v1::{metric::Data, number_data_point::Value as Number},
    trace::v1::{Span as Sent, span::SpanKind, status::StatusCode},
};
use parking_lot::Mutex;
use tonic::{Request, Response, Status, codec::CompressionEncoding, transport::server::TcpIncoming};
use warren::lab::{
    apps::{Background, Stop, background},
    hosts::Role,
    process::{Process, Program},
    testing::program,
};

use crate::{
    pypi::Package,
    support::{LIMIT, Lab, addr, eventually, listen},
    tree,
};

/// The collector's program.
pub(crate) const ROTEL: Package = Package { name: "rotel", release: "0.0.1a15", file: "rotel/rotel-agent" };
/// Where the backend listens, beside the collector.
const BACKEND: u16 = 4319;

/// A span as the backend got it.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub trace: String,
    pub id: String,
    /// Empty for the first of a trace.
    pub parent: String,
    pub name: String,
    pub kind: SpanKind,
    /// Nanoseconds since 1970.
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, String>,
    pub events: Vec<String>,
    pub failed: bool,
    pub resource: BTreeMap<String, String>,
}

/// A log record as the backend got it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub scope: String,
    pub severity: (i32, String),
    pub body: String,
    pub attributes: BTreeMap<String, String>,
    /// Empty if it belongs to none.
    pub trace: String,
    pub span: String,
    pub resource: BTreeMap<String, String>,
}

/// A sample of a metric as the backend got it.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub name: String,
    pub unit: String,
    pub description: String,
    /// A cumulative, monotonic sum; else a gauge.
    pub is_counter: bool,
    /// Nanoseconds since 1970; 0 where there is none.
    pub start: u64,
    pub time: u64,
    pub attributes: BTreeMap<String, String>,
    pub value: f64,
    pub resource: BTreeMap<String, String>,
}

/// What the collector has passed on.
#[derive(Clone, Default)]
pub(crate) struct Received {
    spans: Arc<Mutex<Vec<Span>>>,
    records: Arc<Mutex<Vec<Record>>>,
    points: Arc<Mutex<Vec<Point>>>,
}

/// A running collector and its backend.
pub(crate) struct Collector {
    pub received: Received,
    rotel: Process,
    _backend: Background<()>,
}

impl Collector {
    /// Starts it on the control plane's host, with gRPC on 4317 and HTTP on 4318.
    pub(crate) fn start(lab: &Lab) -> Self {
        let host = lab.hosts().find(Role::Control, "control").unwrap().namespace();
        let received = Received::default();
        let (listener, gzip) = (listen(host, BACKEND), CompressionEncoding::Gzip);
        let traces = TraceServiceServer::new(received.clone()).accept_compressed(gzip);
        let logs = LogsServiceServer::new(received.clone()).accept_compressed(gzip);
        let metrics = MetricsServiceServer::new(received.clone()).accept_compressed(gzip);
        listener.set_nonblocking(true).unwrap();
        let app = move |mut stop: Stop| async move {
            let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
            let mut server = tonic::transport::Server::builder();
            let server = server.add_service(traces).add_service(logs).add_service(metrics);
            server.serve_with_incoming_shutdown(incoming, stop.stopped()).await.unwrap();
        };
        let backend = background(host, app).unwrap();
        let directory = lab.directory();
        let (to, pid) = (format!("http://127.0.0.1:{BACKEND}"), directory.join("rotel.pid"));
        let args = [
            "start",
            "--pid-file",
            &pid.to_string_lossy(),
            "--otlp-grpc-endpoint",
            "0.0.0.0:4317",
            "--otlp-http-endpoint",
            "0.0.0.0:4318",
            "--exporter",
            "otlp",
            "--otlp-exporter-endpoint",
            &to,
            "--otlp-exporter-protocol",
            "grpc",
            "--debug-log",
            "traces",
            "--batch-timeout",
            "100ms",
        ];
        let rotel =
            Program::new("rotel", program("rotel").unwrap()).args(args).log(directory.join("rotel.log"));
        let rotel = rotel.start(host).unwrap();
        for port in [4317, 4318] {
            eventually(&format!("collector on {port}: {}", rotel.log_text()), || {
                let to = addr(&format!("127.0.0.1:{port}"));
                host.run(|| std::net::TcpStream::connect(to)).unwrap().ok()
            });
        }
        Self { received, rotel, _backend: backend }
    }
}

impl Collector {
    /// The spans of the trace of `what`, once the collector has passed on so much of one that `look` holds.
    pub(crate) fn trace(&self, what: &str, look: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut traces: BTreeMap<String, Vec<Span>> = BTreeMap::new();
            for span in self.received.all() {
                traces.entry(span.trace.clone()).or_default().push(span);
            }
            let drawn: String = traces.values().map(|spans| tree::draw(spans)).collect();
            if let Some(found) = traces.into_values().find(|spans| look(spans)) {
                return found;
            }
            let log = self.rotel.log_text();
            assert!(
                Instant::now() < deadline,
                "no trace of {what} within {LIMIT:?}; got:\n{drawn}\nrotel:\n{log}"
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Received {
    pub(crate) fn all(&self) -> Vec<Span> {
        self.spans.lock().clone()
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        self.records.lock().clone()
    }

    pub(crate) fn points(&self) -> Vec<Point> {
        self.points.lock().clone()
    }
}

#[tonic::async_trait]
impl LogsService for Received {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let mut records = self.records.lock();
        for part in request.into_inner().resource_logs {
            let resource = attributes(&part.resource.unwrap_or_default().attributes);
            for logs in part.scope_logs {
                let scope = logs.scope.unwrap_or_default().name;
                records.extend(logs.log_records.into_iter().map(|record| Record {
                    scope: scope.clone(),
                    severity: (record.severity_number, record.severity_text),
                    body: value(record.body.as_ref()),
                    attributes: attributes(&record.attributes),
                    trace: hex(&record.trace_id),
                    span: hex(&record.span_id),
                    resource: resource.clone(),
                }));
            }
        }
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut points = self.points.lock();
        for part in request.into_inner().resource_metrics {
            let resource = attributes(&part.resource.unwrap_or_default().attributes);
            for metric in part.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                let (is_counter, found) = match metric.data {
                    Some(Data::Sum(sum)) => {
                        (sum.is_monotonic && sum.aggregation_temporality == 2, sum.data_points)
                    }
                    Some(Data::Gauge(gauge)) => (false, gauge.data_points),
                    other => return Err(Status::invalid_argument(format!("{other:?}"))),
                };
                points.extend(found.into_iter().map(|point| Point {
                    name: metric.name.clone(),
                    unit: metric.unit.clone(),
                    description: metric.description.clone(),
                    is_counter,
                    start: point.start_time_unix_nano,
                    time: point.time_unix_nano,
                    attributes: attributes(&point.attributes),
                    value: match point.value {
                        Some(Number::AsInt(value)) => value as f64,
                        Some(Number::AsDouble(value)) => value,
                        None => f64::NAN,
                    },
                    resource: resource.clone(),
                }));
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.spans.lock();
        for part in request.into_inner().resource_spans {
            let resource = attributes(&part.resource.unwrap_or_default().attributes);
            let sent = part.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(sent.map(|span| Span::of(span, &resource)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Span {
    fn of(sent: Sent, resource: &BTreeMap<String, String>) -> Self {
        let failed = sent.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
        Self {
            trace: hex(&sent.trace_id),
            id: hex(&sent.span_id),
            parent: hex(&sent.parent_span_id),
            kind: sent.kind(),
            name: sent.name,
            start: sent.start_time_unix_nano,
            end: sent.end_time_unix_nano,
            attributes: attributes(&sent.attributes),
            events: sent.events.into_iter().map(|event| event.name).collect(),
            failed,
            resource: resource.clone(),
        }
    }

    pub(crate) fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }

    /// The proxy's node, by its pod's name.
    pub(crate) fn node(&self) -> &str {
        let pod = self.resource.get("k8s.pod.name").map_or("", String::as_str);
        pod.strip_prefix("warren-").unwrap_or(pod)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    pairs.iter().map(|pair| (pair.key.clone(), value(pair.value.as_ref()))).collect()
}

fn value(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        other => format!("{other:?}"),
    }
}

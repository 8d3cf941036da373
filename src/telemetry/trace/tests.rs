//! Spans as a collector gets them over a real socket, and the log beside them.

use std::{collections::BTreeMap, net::TcpListener, sync::Arc, thread};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::Span as Sent,
};
use parking_lot::Mutex;
use tonic::{
    Request, Response, Status,
    transport::{Channel, server::TcpIncoming},
};

use super::span::{Connection, SpanKind, Spans, Step, describe, trace_of};
use crate::{
    protocols::{
        config::{self, CollectorConfig, Inputs, LogFormat},
        hbone::headers::TraceParent,
        outcome::{Failure, Outcome},
    },
    telemetry::{
        export::{DialError, Dialing, Export, TlsDialer},
        log::Logging,
    },
};

/// For collectors that are not behind TLS.
#[derive(Debug)]
pub(in crate::telemetry) struct NoTls;

impl TlsDialer for NoTls {
    fn channel(&self, _: &CollectorConfig) -> Result<Channel, DialError> {
        Err("there is no TLS".into())
    }

    fn http1(&self, _: &CollectorConfig) -> Dialing {
        Box::pin(async { Err("there is no TLS".into()) })
    }
}

#[derive(Clone, Default)]
pub(crate) struct Received(pub(crate) Arc<Mutex<Vec<Sent>>>);

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Received {
    /// A collector on a port of its own, which lives as long as the test's process.
    fn serve() -> (Self, String) {
        let received = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(received.clone());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
                tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
            })
        });
        (received, endpoint)
    }

    pub(crate) fn take(&self, request: ExportTraceServiceRequest) {
        let scopes = request.resource_spans.into_iter().flat_map(|part| part.scope_spans);
        self.0.lock().extend(scopes.flat_map(|scope| scope.spans));
    }

    pub(crate) fn find(&self, name: &str) -> Sent {
        let spans = self.0.lock();
        spans.iter().find(|span| span.name == name).cloned().unwrap_or_else(|| panic!("no {name}: {spans:?}"))
    }
}

/// Runs `work` with traces that go to `endpoint`, and the log's filter; gives the log once all is exported.
fn traced(endpoint: &str, sampler: &str, filter: &str, work: impl Future<Output = ()>) -> String {
    let vars = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_SAMPLER", sampler),
        ("OTEL_TRACES_SAMPLER_ARG", "0.000000000001"),
    ];
    traced_by(&vars, filter, Arc::new(NoTls), work)
}

/// The same with all variables as given.
pub(crate) fn traced_by(
    vars: &[(&str, &str)],
    filter: &str,
    dialer: Arc<dyn TlsDialer>,
    work: impl Future<Output = ()>,
) -> String {
    let vars: BTreeMap<String, String> =
        vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let config = config::parse(&Inputs {
        vars: &vars,
        mesh_file: None,
        cores: 1,
        memory: Default::default(),
        file_exists: &|_| false,
        fake_ca_allowed: false,
    });
    let config = config.unwrap();
    let export = Export::start(&config.process.otlp, &config.node, dialer).unwrap();
    let log = Log::default();
    let made = Logging::with(log.clone(), LogFormat::Plain, filter.parse().unwrap(), export);
    let (dispatch, logging) = made.unwrap();
    run(&dispatch, work);
    drop(logging);
    log.text()
}

fn run(dispatch: &tracing::Dispatch, work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tracing::dispatcher::with_default(dispatch, || runtime.block_on(work));
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

/// A connection with one step and a log line, which ends as `outcome` says.
pub(crate) async fn connection(from: Option<TraceParent>, outcome: Outcome) {
    let logged = tracing::debug_span!(target: "conn", "outbound");
    let work = async move {
        let step = Step::new("policy", SpanKind::Internal);
        step.within(async { tracing::info!(target: "conn", "inside") }).await;
        drop(step);
        if let Some(trace) = Connection::current() {
            trace.relaying();
            trace.end(&outcome, 3, 4);
        }
    };
    Spans::new(logged, "inbound", from).around(work).await;
}

#[test]
fn a_peers_trace_goes_on_whatever_is_logged() {
    let from = TraceParent { trace_id: 7, span_id: 9, sampled: true };
    for (filter, line) in [("off", ""), ("info", "\tconn\tinside\t"), ("debug", "\tconn:outbound\tinside\t")]
    {
        let (received, endpoint) = Received::serve();
        let text =
            traced(&endpoint, "parentbased_always_off", filter, connection(Some(from), Outcome::Complete));
        assert!(text.contains(line) && (!line.is_empty() || text.is_empty()), "{filter}: {text}");
        let (first, policy, relay) =
            (received.find("inbound"), received.find("policy"), received.find("relay"));
        assert_eq!(
            (first.trace_id, first.parent_span_id),
            (7u128.to_be_bytes().into(), 9u64.to_be_bytes().into())
        );
        assert_eq!(
            (&policy.parent_span_id, &relay.parent_span_id),
            (&first.span_id, &first.span_id),
            "{filter}"
        );
        for key in ["warren.bytes.received", "warren.bytes.sent", "warren.end"] {
            assert!(first.attributes.iter().any(|pair| pair.key == key), "{key}: {:?}", first.attributes);
        }
    }
}

#[test]
fn a_step_tells_its_peer_who_it_is() {
    let (received, endpoint) = Received::serve();
    let told = Arc::new(Mutex::new(None));
    let heard = told.clone();
    traced(&endpoint, "always_on", "info", async move {
        let step = Step::new("CONNECT", SpanKind::Client);
        *heard.lock() = step.trace_parent();
        assert_eq!(trace_of(step.span()), step.trace_parent().map(|told| told.trace_id));
        assert_eq!(trace_of(&tracing::info_span!(target: "conn", "logged")), None);
    });
    let (told, sent) = (told.lock().unwrap(), received.find("CONNECT"));
    assert_eq!(
        (sent.trace_id, sent.span_id),
        (told.trace_id.to_be_bytes().into(), told.span_id.to_be_bytes().into())
    );
    assert!(told.sampled);
}

#[test]
fn work_runs_inside_a_step_that_says_how_it_ended() {
    let (received, endpoint) = Received::serve();
    traced(&endpoint, "always_on", "info", async {
        let outer = Step::new("outer", SpanKind::Internal);
        let work = async {
            let inner = async {
                describe(|span| _ = span.set("inside", 1));
                tokio::task::yield_now().await;
                Err::<(), _>("refused")
            };
            let mut kept = Box::pin(Step::run("inner", SpanKind::Client, inner).describe(|span, result| {
                span.result("connect", result);
            }));
            assert_eq!(kept.as_mut().await, Err("refused"));
            // The future is still there, and the step has ended.
            assert_eq!(Step::run("silent", SpanKind::Internal, async { 7 }).await, 7);
            drop(Step::run("dropped", SpanKind::Internal, std::future::pending::<()>()));
            drop(kept);
        };
        outer.within(work).await;
    });
    let outer = received.find("outer");
    let (inner, silent) = (received.find("inner"), received.find("silent"));
    assert!(inner.end_time_unix_nano <= silent.start_time_unix_nano, "{inner:?} {silent:?}");
    for span in [&inner, &silent, &received.find("dropped")] {
        assert_eq!(span.parent_span_id, outer.span_id, "{span:?}");
    }
    let keys: Vec<&str> = inner.attributes.iter().map(|pair| pair.key.as_str()).collect();
    assert!(keys.contains(&"inside") && keys.contains(&"error.type"), "{keys:?}");
    let said = [inner, silent].map(|span| span.status.map(|status| status.message).unwrap_or_default());
    assert_eq!(said, ["refused", ""]);
}

#[test]
fn work_runs_the_same_while_traces_are_off() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let run = Step::run("off", SpanKind::Internal, async { 7 }).describe(|_, _| panic!("there is no span"));
    assert_eq!(runtime.block_on(run), 7);
}

#[test]
fn of_what_was_not_chosen_only_failures_are_exported() {
    let (received, endpoint) = Received::serve();
    traced(&endpoint, "traceidratio", "info", async {
        connection(None, Outcome::Complete).await;
        connection(None, Failure::Dial("no".into()).into()).await;
    });
    let names = |spans: &[Sent]| spans.iter().map(|span| span.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&received.0.lock()), ["policy", "relay", "inbound"]);
    assert_eq!(
        received.find("inbound").status.map(|status| status.message).as_deref(),
        Some("connection failed: no")
    );
}

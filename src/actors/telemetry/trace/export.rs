//! The way of spans to the collector: a bounded queue and the thread that empties it.
//!
//! Queue and thread belong to the process, as those of the log. Whoever ends a span never waits: past the bound the
//! span is dropped and counted, so that a collector that is dead, slow or mute costs spans and nothing else.

use std::{collections::HashMap, io, sync::Arc, sync::mpsc as std_mpsc, thread, time::Duration};

use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter as Otlp, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter as _},
};
use prometheus::{IntCounter, IntCounterVec, Opts};
use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};
use tonic::{
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use super::{TraceError, http::Client};
use crate::{
    actors::{
        grpc::{self, GrpcTarget, RootSource},
        telemetry::metrics::{Metrics, MetricsError},
    },
    protocols::config::{OtlpProtocol, TraceConfig},
};

/// How long the exit waits for spans to be exported.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// Where spans go that are to be exported.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    shared: Arc<Shared>,
}

/// The thread that exports.
#[derive(Debug)]
pub(super) struct Exporter {
    shared: Arc<Shared>,
    ended: std_mpsc::Receiver<()>,
}

#[derive(Debug)]
struct Shared {
    /// The queue is half full.
    hurry: Notify,
    close: Notify,
    counts: Counts,
}

/// What became of spans.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    exported: IntCounter,
    dropped: IntCounterVec,
    failures: IntCounter,
}

/// The thread's side.
struct Work {
    otlp: Otlp,
    spans: mpsc::Receiver<SpanData>,
    shared: Arc<Shared>,
    config: TraceConfig,
    /// Whether the last export failed.
    failing: bool,
}

// === impl Queue ===

impl Queue {
    /// Takes a span, or drops and counts it. Never waits.
    pub(super) fn push(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            return self.shared.counts.dropped("queue full", 1);
        }
        if self.spans.capacity() <= self.spans.max_capacity() / 2 {
            self.shared.hurry.notify_one();
        }
    }
}

// === impl Exporter ===

impl Exporter {
    /// Starts the thread, and gives the queue that it empties.
    pub(super) fn start(config: &TraceConfig, resource: &Resource) -> Result<(Self, Queue), TraceError> {
        let counts = Counts::new().map_err(|error| TraceError::Settings(error.to_string()))?;
        let shared = Arc::new(Shared { hurry: Notify::new(), close: Notify::new(), counts });
        let (queue, spans) = mpsc::channel(config.queue.spans);
        let (ready, started) = std_mpsc::channel();
        let (end, ended) = std_mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (config, resource, theirs) = (config.clone(), resource.clone(), shared.clone());
        thread::Builder::new().name("traces".to_owned()).spawn(move || {
            // Held until the thread ends, also by a panic.
            let _end = end;
            runtime.block_on(async move {
                let mut otlp = match otlp(&config) {
                    Ok(otlp) => otlp,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                otlp.set_resource(&resource);
                drop(ready.send(Ok(())));
                Work { otlp, spans, shared: theirs, config, failing: false }.run().await;
            });
        })?;
        let started = started.recv().map_err(|_| io::Error::other("the thread ended at once"))?;
        started.map_err(TraceError::Settings)?;
        Ok((Self { shared: shared.clone(), ended }, Queue { spans: queue, shared }))
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.shared.close.notify_one();
        // The thread says nothing: it drops its end.
        let _ = self.ended.recv_timeout(FLUSH_WITHIN);
    }
}

// === impl Work ===

impl Work {
    async fn run(mut self) {
        let shared = self.shared.clone();
        loop {
            let last = tokio::select! {
                biased;
                () = shared.close.notified() => true,
                () = shared.hurry.notified() => false,
                () = sleep(self.config.queue.delay) => false,
            };
            while let Some(batch) = self.batch() {
                // An order to close that comes meanwhile is kept.
                self.export(batch).await;
            }
            if last {
                return;
            }
        }
    }

    fn batch(&mut self) -> Option<Vec<SpanData>> {
        let mut batch = Vec::new();
        while batch.len() < self.config.queue.batch {
            match self.spans.try_recv() {
                Ok(span) => batch.push(span),
                Err(_) => break,
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    async fn export(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        let after = self.config.timeout;
        let failure = match timeout(after, self.otlp.export(batch)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {after:?}")),
        };
        let (counts, endpoint) = (&self.shared.counts, &self.config.endpoint);
        let was_failing = std::mem::replace(&mut self.failing, failure.is_some());
        let Some(error) = failure else {
            counts.exported.inc_by(spans);
            if was_failing {
                tracing::info!(target: "traces", %endpoint, "traces are exported again");
            }
            return;
        };
        counts.failures.inc();
        counts.dropped("export failed", spans);
        // The first failure in a row is news.
        if was_failing {
            tracing::debug!(target: "traces", %endpoint, error, spans, "still cannot export traces");
        } else {
            tracing::warn!(target: "traces", %endpoint, error, spans, "cannot export traces");
        }
    }
}

// === impl Counts ===

impl Counts {
    fn new() -> Result<Self, prometheus::Error> {
        let dropped = Opts::new("warren_trace_spans_dropped_total", "Spans that no collector got");
        Ok(Self {
            exported: IntCounter::new("warren_trace_spans_exported_total", "Spans a collector took")?,
            dropped: IntCounterVec::new(dropped, &["reason"])?,
            failures: IntCounter::new(
                "warren_trace_export_failures_total",
                "Requests a collector did not take",
            )?,
        })
    }

    fn dropped(&self, reason: &str, spans: u64) {
        self.dropped.with_label_values(&[reason]).inc_by(spans);
    }

    pub(super) fn register(&self, metrics: &Metrics) -> Result<(), MetricsError> {
        metrics.register(self.exported.clone())?;
        metrics.register(self.dropped.clone())?;
        metrics.register(self.failures.clone())
    }
}

/// The exporter of `config`, on the calling runtime. The library reads the headers from the environment, too.
fn otlp(config: &TraceConfig) -> Result<Otlp, String> {
    let fail = |error: ExporterBuildError| error.to_string();
    match config.protocol {
        OtlpProtocol::Grpc => {
            let headers = config.headers.iter().cloned().collect();
            let builder = Otlp::builder().with_tonic().with_channel(channel(config)?);
            let builder = builder.with_metadata(MetadataMap::from_headers(headers));
            builder.with_timeout(config.timeout).build().map_err(fail)
        }
        OtlpProtocol::Http => {
            let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let headers: HashMap<String, String> =
                config.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
            let client = Client { target: target(config), tls: config.endpoint.tls };
            let builder = Otlp::builder().with_http().with_http_client(client).with_headers(headers);
            let builder = builder.with_protocol(Protocol::HttpBinary).with_timeout(config.timeout);
            builder.with_endpoint(config.endpoint.to_string()).build().map_err(fail)
        }
    }
}

fn channel(config: &TraceConfig) -> Result<Channel, String> {
    if config.endpoint.tls {
        return grpc::lazily(&target(config)).map_err(|error| error.to_string());
    }
    let endpoint = Endpoint::from_shared(config.endpoint.to_string()).map_err(|error| error.to_string())?;
    Ok(endpoint.connect_timeout(config.timeout).connect_lazy())
}

fn target(config: &TraceConfig) -> GrpcTarget {
    let roots = config.roots.as_ref().map_or(RootSource::System, |path| RootSource::File(path.into()));
    GrpcTarget {
        host: config.endpoint.host.clone(),
        port: config.endpoint.port,
        roots,
        alt_hostname: None,
        tls12: true,
        post_quantum_only: false,
        connect_timeout: config.timeout,
    }
}

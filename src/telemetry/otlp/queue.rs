//! What waits to be exported: a bounded queue for spans and one for log records, and the work that empties it.
//!
//! Whoever adds something never waits: past the bound it is dropped and counted, so that a collector that is dead, slow
//! or mute costs telemetry and nothing else.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus::{IntCounter, IntCounterVec, Opts};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::sleep,
};

use super::collector::{Collector, Request};
use crate::{
    protocols::config::ExportQueue,
    telemetry::metrics::{Metrics, MetricsError},
};

/// Most bytes that wait, where items say how many they are.
/// Limit: bytes of log records that wait for the collector: 16 MiB; past it: the record is dropped, and counted.
const QUEUE_BYTES: usize = 16 << 20;
/// Bytes after which a request takes no further item: collectors take 4 MiB.
/// Limit: bytes of log records in one request: 2 MiB and one record; past it: another request is made.
const REQUEST_BYTES: usize = 2 << 20;

/// What can wait in a queue.
pub(in crate::telemetry) trait Item: Send + Sized + 'static {
    /// What it is sent in.
    type Request: Request;
    /// How many bytes it counts for.
    fn bytes(&self) -> usize;
    /// The request for `batch`.
    fn request(batch: Vec<Self>, resource: &Resource) -> Self::Request;
}

/// Where things go that are to be exported.
#[derive(Debug)]
pub(in crate::telemetry) struct Queue<T> {
    items: mpsc::Sender<T>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The queue is half full.
    hurry: Notify,
    /// Bytes of what waits.
    bytes: AtomicUsize,
    counts: Counts,
}

/// The exporter's side of a queue.
pub(in crate::telemetry) struct Work<T> {
    items: mpsc::Receiver<T>,
    shared: Arc<Shared>,
    limits: ExportQueue,
    delivery: Delivery,
}

/// Requests to a collector, and what is said of them.
pub(in crate::telemetry) struct Delivery {
    collector: Collector,
    resource: Resource,
    counts: Counts,
    what: &'static str,
    /// Whether the last request failed, and whether parts of it were rejected.
    failing: bool,
    rejecting: bool,
}

/// The collector did not take a request.
#[derive(Debug)]
pub(super) struct NotTaken;

/// What became of what was to be exported.
#[derive(Clone, Debug)]
pub(in crate::telemetry) struct Counts {
    exported: IntCounter,
    dropped: IntCounterVec,
    failures: IntCounter,
}

/// A queue with the bounds of `limits`, and the work that empties it.
pub(in crate::telemetry) fn queue<T: Item>(limits: ExportQueue, delivery: Delivery) -> (Queue<T>, Work<T>) {
    let (queue, items) = mpsc::channel(limits.items);
    let counts = delivery.counts.clone();
    let shared = Arc::new(Shared { hurry: Notify::new(), bytes: AtomicUsize::new(0), counts });
    (Queue { items: queue, shared: shared.clone() }, Work { items, shared, limits, delivery })
}

// === impl Queue ===

impl<T: Item> Queue<T> {
    /// Takes an item, or drops and counts it. Never waits.
    pub(in crate::telemetry) fn push(&self, item: T) {
        let shared = &*self.shared;
        let bytes = item.bytes();
        let waiting = shared.bytes.fetch_add(bytes, Relaxed) + bytes;
        if waiting > QUEUE_BYTES || self.items.try_send(item).is_err() {
            shared.bytes.fetch_sub(bytes, Relaxed);
            return shared.counts.dropped("queue full", 1);
        }
        if self.items.capacity() <= self.items.max_capacity() / 2 || waiting > QUEUE_BYTES / 2 {
            shared.hurry.notify_one();
        }
    }
}

// === impl Work ===

impl<T: Item> Work<T> {
    /// Exports until the sender of `closing` is dropped, and then what is left.
    pub(in crate::telemetry) async fn run(mut self, mut closing: watch::Receiver<()>) {
        let shared = self.shared.clone();
        loop {
            let last = tokio::select! {
                biased;
                _ = closing.changed() => true,
                () = shared.hurry.notified() => false,
                () = sleep(self.limits.delay) => false,
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

    fn batch(&mut self) -> Option<Vec<T>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < self.limits.batch && bytes < REQUEST_BYTES {
            let Ok(item) = self.items.try_recv() else { break };
            bytes += item.bytes();
            batch.push(item);
        }
        self.shared.bytes.fetch_sub(bytes, Relaxed);
        (!batch.is_empty()).then_some(batch)
    }

    async fn export(&mut self, batch: Vec<T>) {
        let items = batch.len() as u64;
        let request = T::request(batch, &self.delivery.resource);
        let counts = &self.shared.counts;
        match self.delivery.send(&request).await {
            Ok(rejected) => {
                let rejected = rejected.min(items);
                counts.exported(items - rejected);
                counts.dropped("rejected", rejected);
            }
            Err(NotTaken) => counts.dropped("export failed", items),
        }
    }
}

// === impl Delivery ===

impl Delivery {
    /// To `collector`, of what the log calls `what`.
    pub(in crate::telemetry) fn new(
        collector: Collector,
        resource: &Resource,
        counts: &Counts,
        what: &'static str,
    ) -> Self {
        let (resource, counts) = (resource.clone(), counts.clone());
        Self { collector, resource, counts, what, failing: false, rejecting: false }
    }

    pub(super) fn resource(&self) -> &Resource {
        &self.resource
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Sends one request, and says how many parts of it the collector rejected.
    ///
    /// # Errors
    /// It did not take any.
    pub(super) async fn send<R: Request>(&mut self, request: &R) -> Result<u64, NotTaken> {
        let result = self.collector.send(request).await;
        let (what, endpoint) = (self.what, self.collector.endpoint());
        let was_failing = std::mem::replace(&mut self.failing, result.is_err());
        match result {
            Ok(rejected) => {
                if was_failing {
                    tracing::info!(target: "otlp", %endpoint, "{what} are exported again");
                }
                let was_rejecting = std::mem::replace(&mut self.rejecting, rejected.is_some());
                let Some(rejected) = rejected else { return Ok(0) };
                let (items, reason) = (rejected.items, rejected.reason.as_str());
                if was_rejecting {
                    tracing::debug!(target: "otlp", %endpoint, items, reason, "still rejects {what}");
                } else {
                    tracing::warn!(target: "otlp", %endpoint, items, reason, "the collector rejects {what}");
                }
                Ok(items)
            }
            Err(error) => {
                self.counts.failures.inc();
                // The first failure in a row is news.
                if was_failing {
                    tracing::debug!(target: "otlp", %endpoint, error, "still cannot export {what}");
                } else {
                    tracing::warn!(target: "otlp", %endpoint, error, "cannot export {what}");
                }
                Err(NotTaken)
            }
        }
    }
}

// === impl Counts ===

impl Counts {
    /// Of spans.
    pub(in crate::telemetry) fn spans() -> Result<Self, prometheus::Error> {
        Self::new([
            ("warren_trace_spans_exported_total", "Spans a collector took"),
            ("warren_trace_spans_dropped_total", "Spans that no collector got"),
            ("warren_trace_export_failures_total", "Requests with spans a collector did not take"),
        ])
    }

    /// Of log records.
    pub(in crate::telemetry) fn records() -> Result<Self, prometheus::Error> {
        Self::new([
            ("warren_log_records_exported_total", "Log records a collector took"),
            ("warren_log_records_dropped_total", "Log records that no collector got"),
            ("warren_log_export_failures_total", "Requests with log records a collector did not take"),
        ])
    }

    /// Of exports of all metrics.
    pub(in crate::telemetry) fn exports() -> Result<Self, prometheus::Error> {
        Self::new([
            ("warren_metric_exports_total", "Exports of all metrics that a collector took whole"),
            ("warren_metric_exports_dropped_total", "Exports of metrics that no collector got, or not whole"),
            ("warren_metric_export_failures_total", "Requests with metrics a collector did not take"),
        ])
    }

    fn new([exported, dropped, failures]: [(&str, &str); 3]) -> Result<Self, prometheus::Error> {
        Ok(Self {
            exported: IntCounter::new(exported.0, exported.1)?,
            dropped: IntCounterVec::new(Opts::new(dropped.0, dropped.1), &["reason"])?,
            failures: IntCounter::new(failures.0, failures.1)?,
        })
    }

    pub(super) fn exported(&self, items: u64) {
        self.exported.inc_by(items);
    }

    pub(in crate::telemetry) fn dropped(&self, reason: &str, items: u64) {
        if items > 0 {
            self.dropped.with_label_values(&[reason]).inc_by(items);
        }
    }

    /// Adds the counts to the metrics.
    ///
    /// # Errors
    /// Another family has one of the names.
    pub(in crate::telemetry) fn register(&self, metrics: &Metrics) -> Result<(), MetricsError> {
        metrics.register(self.exported.clone())?;
        metrics.register(self.dropped.clone())?;
        metrics.register(self.failures.clone())
    }
}

//! Requests to a collector: their time limit, log lines and counters.

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, Registry};
use tokio::time::timeout;

use super::{
    collector::{Batch, Collector},
    http::Answers,
};
use crate::telemetry::{
    metrics::Metrics,
    series::{Declaration, MetricsError, declared},
};

/// Sends batches of one kind to a collector.
pub(in crate::telemetry) struct Delivery<B: Batch> {
    collector: Collector,
    exporter: B::Exporter,
    answers: Arc<Answers>,
    counts: Counts,
    what: &'static str,
    /// Whether the last request failed, and whether parts of it were rejected.
    failing: bool,
    rejecting: bool,
}

/// The error of a request that the collector did not take.
#[derive(Debug)]
pub(super) struct ExportFailed;

/// The counters of exported and dropped telemetry, and of failed requests.
#[derive(Clone, Debug)]
pub(in crate::telemetry) struct Counts {
    exported: IntCounter,
    dropped: IntCounterVec,
    failures: IntCounter,
}

// === impl Delivery ===

impl<B: Batch> Delivery<B> {
    /// A delivery to `collector` of telemetry that the log calls `what`. The delivery belongs to the runtime that the
    /// caller has entered.
    ///
    /// # Errors
    /// The collector's endpoint is not valid.
    pub(in crate::telemetry) fn new(
        collector: Collector,
        counts: &Counts,
        what: &'static str,
    ) -> Result<Self, String> {
        let answers = Arc::new(Answers::default());
        let exporter = B::exporter(&collector, &answers)?;
        let counts = counts.clone();
        Ok(Self { collector, exporter, answers, counts, what, failing: false, rejecting: false })
    }

    pub(super) fn collector(&self) -> &Collector {
        &self.collector
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Sends one request, and returns the number of parts that the collector rejected, if the exporter reports it.
    ///
    /// # Errors
    /// The collector did not take any part.
    pub(super) async fn send(&mut self, batch: B) -> Result<u64, ExportFailed> {
        let result = self.export(batch).await;
        let (what, endpoint) = (self.what, self.collector.endpoint());
        let was_failing = std::mem::replace(&mut self.failing, result.is_err());
        if let Err(error) = result {
            self.counts.failures.inc();
            // Only the first failure in a row is logged.
            if was_failing {
                tracing::debug!(target: "otlp", %endpoint, error, "still cannot export {what}");
            } else {
                tracing::warn!(target: "otlp", %endpoint, error, "cannot export {what}");
            }
            return Err(ExportFailed);
        }
        if was_failing {
            tracing::info!(target: "otlp", %endpoint, "{what} are exported again");
        }
        let rejected = self.answers.rejected.lock().take();
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

    /// Sends one request within its time limit. The error is the reason for the log.
    async fn export(&mut self, batch: B) -> Result<(), String> {
        self.answers.clear();
        let after = self.collector.timeout();
        match timeout(after, batch.export(&self.exporter)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.answers.error.lock().take().unwrap_or_else(|| error.to_string())),
            Err(_) => {
                // The connection may have been lost silently, so the next request uses a new one.
                self.exporter = B::exporter(&self.collector, &self.answers)?;
                let told = self.answers.error.lock().take();
                Err(told.unwrap_or_else(|| format!("no answer within {after:?}")))
            }
        }
    }
}

// === impl Counts ===

impl Counts {
    /// Counters of spans.
    pub(in crate::telemetry) fn spans() -> Result<Self, MetricsError> {
        Self::new([declared::SPANS_EXPORTED, declared::SPANS_DROPPED, declared::SPAN_FAILURES])
    }

    /// Counters of log records.
    pub(in crate::telemetry) fn records() -> Result<Self, MetricsError> {
        Self::new([declared::RECORDS_EXPORTED, declared::RECORDS_DROPPED, declared::RECORD_FAILURES])
    }

    /// Counters of exports of all metrics.
    pub(in crate::telemetry) fn exports() -> Result<Self, MetricsError> {
        Self::new([declared::EXPORTS, declared::EXPORTS_DROPPED, declared::EXPORT_FAILURES])
    }

    fn new([exported, dropped, failures]: [&Declaration; 3]) -> Result<Self, MetricsError> {
        // The export begins before the metrics exist, so its counters join their registry later.
        let none = &Registry::new();
        Ok(Self {
            exported: exported.counter(none)?,
            dropped: dropped.counters(none)?,
            failures: failures.counter(none)?,
        })
    }

    pub(super) fn exported(&self, items: u64) {
        self.exported.inc_by(items);
    }

    pub(super) fn dropped(&self, reason: &str, items: u64) {
        if items > 0 {
            self.dropped.with_label_values(&[reason]).inc_by(items);
        }
    }

    /// Adds the counters to the metrics.
    ///
    /// # Errors
    /// Another family has one of the names.
    pub(in crate::telemetry) fn register(&self, metrics: &Metrics) -> Result<(), MetricsError> {
        metrics.register(self.exported.clone())?;
        metrics.register(self.dropped.clone())?;
        metrics.register(self.failures.clone())
    }
}

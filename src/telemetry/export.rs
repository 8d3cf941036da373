//! The export of traces, log records and metrics to collectors, and the one thread that sends them.
//!
//! The queues and the thread belong to the process, as those of the log do. Without an endpoint there are neither
//! queues nor a thread.

use std::{future::Future, io, pin::Pin, sync::Arc, sync::mpsc as std_mpsc, thread, time::Duration};

use opentelemetry_sdk::{Resource, trace::SdkTracer};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

pub use super::otlp::{DialError, Dialing, TlsDialer};
use super::{
    metrics::{Metrics, MetricsError},
    otlp::{self, Batch, Collector, Counts, Delivery, logs::LogRecordLayer, metrics::PeriodicExport, queue},
    trace,
};
use crate::protocols::config::{CollectorConfig, NodeConfig, OtlpConfig};

/// How long the exit waits for the export of the remaining telemetry.
/// Limit: export of what is left at exit: 1 s; past it: what is left is lost.
const EXPORT_FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// The export by OTLP. Keep the value until the end of `main`: dropping it exports the remaining telemetry.
#[derive(Debug)]
pub struct Export {
    tracer: Option<SdkTracer>,
    /// The layer for the log, until the log takes it.
    records: Mutex<Option<LogRecordLayer>>,
    /// The sender for the metrics, until there are metrics.
    metrics: Mutex<Option<oneshot::Sender<Arc<Metrics>>>>,
    counts: Vec<Counts>,
    close: Option<watch::Sender<()>>,
    ended: std_mpsc::Receiver<()>,
    /// How long the drop waits for the export of the remaining telemetry.
    flush_within: Duration,
}

/// The error of an export that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The exporter's thread or its runtime cannot be made.
    #[error("cannot start the exporter's thread: {0}")]
    Thread(#[from] io::Error),
    /// The exporter rejects its settings.
    #[error("cannot export {what}: {reason}")]
    Settings {
        /// The kind of telemetry: traces, logs or metrics.
        what: &'static str,
        /// The reason for the rejection.
        reason: String,
    },
}

/// The work of the exporter's thread.
type Exports = Vec<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// The values needed to set up one kind of telemetry.
struct Setup<'a> {
    resource: &'a Resource,
    dialer: Arc<dyn TlsDialer>,
    closing: watch::Receiver<()>,
    counts: Vec<Counts>,
    exports: Exports,
}

// === impl Export ===

impl Export {
    /// Begins to export the telemetry that `config` asks for, if any. A collector that cannot be reached is no error;
    /// `dialer` connects to collectors behind TLS.
    ///
    /// # Errors
    /// See [`ExportError`].
    pub fn start(
        config: &OtlpConfig,
        node: &NodeConfig,
        dialer: Arc<dyn TlsDialer>,
    ) -> Result<Option<Self>, ExportError> {
        if config.traces.is_none() && config.logs.is_none() && config.metrics.is_none() {
            return Ok(None);
        }
        let mark = otlp::mark_exporter_thread;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().on_thread_start(mark).build()?;
        let entered = runtime.enter();
        let resource = otlp::resource(&config.resource, node);
        let (close, closing) = watch::channel(());
        let mut setup =
            Setup { resource: &resource, dialer, closing, counts: Vec::new(), exports: Vec::new() };
        let mut tracer = None;
        if let Some(traces) = &config.traces {
            let delivery = setup.delivery(&traces.collector, Counts::spans(), "traces")?;
            let (spans, exporter) = queue::queue(traces.queue, delivery);
            setup.exports.push(Box::pin(exporter.run(setup.closing.clone())));
            tracer = Some(trace::tracer(traces.sampling, spans));
        }
        let mut records = None;
        if let Some(logs) = &config.logs {
            let delivery = setup.delivery(&logs.collector, Counts::records(), "logs")?;
            let (queue, exporter) = queue::queue(logs.queue, delivery);
            setup.exports.push(Box::pin(exporter.run(setup.closing.clone())));
            records = Some(LogRecordLayer::new(queue));
        }
        let mut metrics = None;
        if let Some(export) = &config.metrics {
            let delivery = setup.delivery(&export.collector, Counts::exports(), "metrics")?;
            let (give, metrics_given) = oneshot::channel();
            let export = PeriodicExport { delivery, interval: export.interval, timeout: export.timeout };
            setup.exports.push(Box::pin(export.run(metrics_given, setup.closing.clone())));
            metrics = Some(give);
        }
        let Setup { counts, exports, .. } = setup;
        drop(entered);
        let ended = spawn(runtime, exports)?;
        let (records, metrics) = (Mutex::new(records), Mutex::new(metrics));
        let flush_within = EXPORT_FLUSH_WITHIN;
        Ok(Some(Self { tracer, records, metrics, counts, close: Some(close), ended, flush_within }))
    }

    /// Replaces the time that the drop waits, so that a test on a busy machine loses nothing.
    #[cfg(test)]
    pub(super) fn set_flush_within(&mut self, within: Duration) {
        self.flush_within = within;
    }

    /// The maker of spans, if traces are exported.
    pub fn tracer(&self) -> Option<SdkTracer> {
        self.tracer.clone()
    }

    /// The layer that takes the log's events, if they are exported. Only the first caller gets the layer.
    pub(super) fn records(&self) -> Option<LogRecordLayer> {
        self.records.lock().take()
    }

    /// Adds the counters of exports to `metrics`. From now on, the metrics are exported if the settings ask for that.
    ///
    /// # Errors
    /// Another family has one of the names.
    pub fn attach(&self, metrics: &Arc<Metrics>) -> Result<(), MetricsError> {
        for counts in &self.counts {
            counts.register(metrics)?;
        }
        if let Some(give) = self.metrics.lock().take() {
            // The thread may have ended.
            let _ = give.send(metrics.clone());
        }
        Ok(())
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        drop((self.close.take(), self.metrics.lock().take()));
        // The thread sends nothing: it drops its end of the channel.
        let _ = self.ended.recv_timeout(self.flush_within);
    }
}

// === impl Setup ===

impl Setup<'_> {
    fn delivery<B: Batch>(
        &mut self,
        collector: &CollectorConfig,
        counts: Result<Counts, MetricsError>,
        what: &'static str,
    ) -> Result<Delivery<B>, ExportError> {
        let fail = |reason| ExportError::Settings { what, reason };
        let counts = counts.map_err(|error| fail(error.to_string()))?;
        self.counts.push(counts.clone());
        Delivery::new(Collector::new(collector, self.resource, self.dialer.clone()), &counts, what)
            .map_err(fail)
    }
}

/// Starts the thread. The returned receiver reports the thread's end.
fn spawn(runtime: tokio::runtime::Runtime, exports: Exports) -> io::Result<std_mpsc::Receiver<()>> {
    let (end, ended) = std_mpsc::channel();
    thread::Builder::new().name("otlp".to_owned()).spawn(move || {
        // The sender is held until the thread ends, even by a panic.
        let _end = end;
        otlp::mark_exporter_thread();
        runtime.block_on(otlp::run_all(exports));
    })?;
    Ok(ended)
}

//! All metrics, exported at an interval.

use std::{sync::Arc, time::Duration};

use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter as _},
};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use super::{
    collector::{Batch, Collector, Transport, build_error},
    delivery::{Delivery, ExportFailed},
    http::Answers,
    instruments::Instruments,
    points::Slices,
};
use crate::telemetry::metrics::Metrics;

/// The work of exporting metrics.
pub(in crate::telemetry) struct PeriodicExport {
    pub(in crate::telemetry) delivery: Delivery<ResourceMetrics>,
    /// The time from one export to the next.
    pub(in crate::telemetry) interval: Duration,
    /// The time limit of one export.
    pub(in crate::telemetry) timeout: Duration,
}

// === impl PeriodicExport ===

impl PeriodicExport {
    /// Waits for the metrics and exports them until the sender of `closing` is dropped, and then a last time.
    pub(in crate::telemetry) async fn run(
        mut self,
        given: oneshot::Receiver<Arc<Metrics>>,
        mut closing: watch::Receiver<()>,
    ) {
        // The metrics never arrive if the process ends first.
        let Ok(metrics) = given.await else { return };
        let mut instruments = Instruments::new(self.delivery.collector().resource());
        let mut ticks = interval_at(Instant::now() + self.interval, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let last = tokio::select! {
                biased;
                _ = closing.changed() => true,
                _ = ticks.tick() => false,
            };
            let begun = Instant::now();
            let done = timeout(self.timeout, self.export(&metrics, &mut instruments)).await;
            let counts = self.delivery.counts();
            match done {
                Ok(Ok(0)) => counts.exported(1),
                Ok(Ok(_)) => counts.dropped("rejected", 1),
                Ok(Err(ExportFailed)) => counts.dropped("export failed", 1),
                Err(_) => counts.dropped("timed out", 1),
            }
            if last {
                return;
            }
            counts.dropped("still under way", skipped(begun.elapsed(), self.interval));
        }
    }

    /// Sends all metrics, request by request, and returns the number of points that the collector rejected. After a
    /// failed request, the rest is not sent.
    async fn export(
        &mut self,
        metrics: &Metrics,
        instruments: &mut Instruments,
    ) -> Result<u64, ExportFailed> {
        let mut rejected = 0;
        for slice in Slices::of(metrics.snapshot()) {
            rejected += self.delivery.send(instruments.read(slice)).await?;
        }
        Ok(rejected)
    }
}

/// The number of exports that were due while one export took `took`.
fn skipped(took: Duration, interval: Duration) -> u64 {
    u64::try_from(took.as_millis() / interval.as_millis().max(1)).unwrap_or(u64::MAX)
}

// === impl ResourceMetrics ===

impl Batch for ResourceMetrics {
    type Exporter = MetricExporter;

    fn exporter(collector: &Collector, answers: &Arc<Answers>) -> Result<MetricExporter, String> {
        let builder = MetricExporter::builder().with_temporality(Temporality::Cumulative);
        let built = match collector.transport(answers)? {
            Transport::Grpc(grpc) => grpc.configure(builder.with_tonic()).build(),
            Transport::Http(http) => http.configure(builder.with_http()).build(),
        };
        built.map_err(|error| build_error(&error))
    }

    async fn export(self, exporter: &MetricExporter) -> OTelSdkResult {
        exporter.export(&self).await
    }
}

#[cfg(test)]
mod tests;

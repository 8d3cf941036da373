//! All metrics, exported at an interval.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    metrics::v1::{Metric, ResourceMetrics, ScopeMetrics},
    resource::v1::Resource,
};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use super::{
    points::Slices,
    queue::{Delivery, NotTaken},
    scope,
};
use crate::telemetry::metrics::Metrics;

/// The work of exporting metrics.
pub(in crate::telemetry) struct Push {
    pub(in crate::telemetry) delivery: Delivery,
    /// From one export to the next.
    pub(in crate::telemetry) interval: Duration,
    /// How long one export may take.
    pub(in crate::telemetry) timeout: Duration,
}

// === impl Push ===

impl Push {
    /// Exports the metrics, once they are given, until the sender of `closing` is dropped, and then a last time.
    pub(in crate::telemetry) async fn run(
        mut self,
        given: oneshot::Receiver<Arc<Metrics>>,
        mut closing: watch::Receiver<()>,
    ) {
        // Not given if the process ended first.
        let Ok(metrics) = given.await else { return };
        let mut ticks = interval_at(Instant::now() + self.interval, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let last = tokio::select! {
                biased;
                _ = closing.changed() => true,
                _ = ticks.tick() => false,
            };
            let begun = Instant::now();
            let done = timeout(self.timeout, self.export(&metrics)).await;
            let counts = self.delivery.counts();
            match done {
                Ok(Ok(0)) => counts.exported(1),
                Ok(Ok(_)) => counts.dropped("rejected", 1),
                Ok(Err(NotTaken)) => counts.dropped("export failed", 1),
                Err(_) => counts.dropped("timed out", 1),
            }
            if last {
                return;
            }
            counts.dropped("still under way", skipped(begun.elapsed(), self.interval));
        }
    }

    /// Sends all there is, request by request, and says how many points the collector rejected. What follows a request
    /// that was not taken is not tried.
    async fn export(&mut self, metrics: &Metrics) -> Result<u64, NotTaken> {
        let mut rejected = 0;
        for slice in Slices::of(metrics.snapshot(), SystemTime::now()) {
            let request = request(slice, self.delivery.resource());
            rejected += self.delivery.send(&request).await?;
        }
        Ok(rejected)
    }
}

/// How many exports were due while one took so long.
fn skipped(took: Duration, interval: Duration) -> u64 {
    u64::try_from(took.as_millis() / interval.as_millis().max(1)).unwrap_or(u64::MAX)
}

fn request(metrics: Vec<Metric>, resource: &Resource) -> ExportMetricsServiceRequest {
    let scope_metrics =
        vec![ScopeMetrics { scope: Some(scope("warren")), metrics, ..ScopeMetrics::default() }];
    let resource = Some(resource.clone());
    let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_that_lasts_skips_those_that_come_due_meanwhile() {
        for (took, want) in [(0, 0), (99, 0), (100, 1), (250, 2)] {
            assert_eq!(skipped(Duration::from_millis(took), Duration::from_millis(100)), want, "{took}");
        }
    }
}

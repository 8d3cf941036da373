//! How many there are of something by its state: counted when somebody asks, so that it is never out of date and never
//! missing.

use prometheus::{
    IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::metrics::MetricsError;

/// How many there are of each state or kind. All of them are named, also those of which there are none.
pub type Counts = Vec<(&'static str, u64)>;

/// A gauge with one label, whose samples are what a count gives.
pub struct StateGauge {
    gauge: IntGaugeVec,
    count: Box<dyn Fn() -> Counts + Send + Sync>,
}

// === impl Census ===

impl StateGauge {
    /// Pods, by state.
    ///
    /// # Errors
    /// The family's name is none: a mistake in this file.
    pub fn of_pods(count: impl Fn() -> Counts + Send + Sync + 'static) -> Result<Self, MetricsError> {
        Self::new(("warren_pods", "Pods by state", "state"), count)
    }

    /// Certificates, by state.
    ///
    /// # Errors
    /// As [`StateGauge::of_pods`].
    pub fn of_certificates(count: impl Fn() -> Counts + Send + Sync + 'static) -> Result<Self, MetricsError> {
        Self::new(("warren_certificates", "Certificates by state", "state"), count)
    }

    /// Actors in quarantine, by kind.
    ///
    /// # Errors
    /// As [`StateGauge::of_pods`].
    pub fn of_quarantined_actors(
        count: impl Fn() -> Counts + Send + Sync + 'static,
    ) -> Result<Self, MetricsError> {
        Self::new(("warren_actors_quarantined", "Actors set aside for failing again", "kind"), count)
    }

    fn new(
        (name, help, label): (&str, &str, &str),
        count: impl Fn() -> Counts + Send + Sync + 'static,
    ) -> Result<Self, MetricsError> {
        let gauge = IntGaugeVec::new(Opts::new(name, help), &[label])?;
        Ok(Self { gauge, count: Box::new(count) })
    }
}

impl Collector for StateGauge {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (value, number) in (self.count)() {
            self.gauge.with_label_values(&[value]).set(i64::try_from(number).unwrap_or(i64::MAX));
        }
        self.gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn what_is_counted_has_samples_from_the_beginning_and_never_old_ones() {
        let (metrics, full) = (Metrics::new("x").unwrap(), Arc::new(AtomicU64::new(0)));
        let now = full.clone();
        let count = move || vec![("empty", 0), ("full", now.load(Ordering::Relaxed))];
        metrics.register(StateGauge::of_pods(count).unwrap()).unwrap();
        for number in [0, 3, 1] {
            full.store(number, Ordering::Relaxed);
            let text = metrics.encode();
            assert!(text.contains("\nwarren_pods{state=\"empty\"} 0\n"), "{text}");
            assert!(text.contains(&format!("\nwarren_pods{{state=\"full\"}} {number}\n")), "{text}");
        }
    }
}

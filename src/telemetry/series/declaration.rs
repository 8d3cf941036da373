//! What is said of a family of metrics once, for scrapes, exports and documents.

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
};

/// A family of metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Declaration {
    /// The name of its samples. That of a counter ends in `_total`.
    pub name: &'static str,
    /// What its numbers are.
    pub kind: Kind,
    /// What they count, without a full stop.
    pub help: &'static str,
    /// The names of its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
}

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows. Its samples end in `_total`, its family does not.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by bucket. These are the upper bounds, without the infinite one.
    Histogram(&'static [f64]),
}

/// The metrics could not be set up: a name is used twice, or it is not valid.
#[derive(Debug, thiserror::Error)]
#[error("cannot register a metric: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

// === impl Declaration ===

impl Declaration {
    /// The unit that the name ends in, `bytes` or `seconds`: OpenMetrics wants it there.
    pub fn unit(&self) -> Option<&'static str> {
        unit(self.name)
    }

    /// A counter of the registry.
    pub(crate) fn counter(&self, registry: &Registry) -> Result<IntCounter, MetricsError> {
        registered(registry, IntCounter::with_opts(self.opts()))
    }

    /// Counters of the registry, by labels whose values are words of the program.
    pub(crate) fn counters(&self, registry: &Registry) -> Result<IntCounterVec, MetricsError> {
        registered(registry, IntCounterVec::new(self.opts(), self.labels))
    }

    /// A gauge of the registry.
    pub(crate) fn gauge(&self, registry: &Registry) -> Result<IntGauge, MetricsError> {
        registered(registry, IntGauge::with_opts(self.opts()))
    }

    /// Gauges of the registry, by labels whose values are words of the program.
    pub(crate) fn gauges(&self, registry: &Registry) -> Result<IntGaugeVec, MetricsError> {
        registered(registry, IntGaugeVec::new(self.opts(), self.labels))
    }

    /// How the registry knows the family.
    pub(crate) fn desc(&self) -> Result<Desc, MetricsError> {
        let labels = self.labels.iter().map(|label| (*label).to_owned()).collect();
        Ok(Desc::new(self.name.into(), self.help.into(), labels, Default::default())?)
    }

    fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }
}

// === impl Kind ===

impl Kind {
    /// The word of OpenMetrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    family: Result<C, prometheus::Error>,
) -> Result<C, MetricsError> {
    let family = family?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

/// The unit that a family's name ends in, with or without `_total`.
pub(crate) fn unit(name: &str) -> Option<&'static str> {
    let name = name.strip_suffix("_total").unwrap_or(name);
    ["bytes", "seconds"]
        .into_iter()
        .find(|unit| name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
}

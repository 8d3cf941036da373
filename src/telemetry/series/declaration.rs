//! The declaration of a family of metrics, shared by scrapes, exports and documents.

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
};

/// A family of metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Declaration {
    /// The name of the family's samples; that of a counter ends in `_total`.
    pub name: &'static str,
    /// The type of the family.
    pub kind: Kind,
    /// The help text, without a full stop.
    pub help: &'static str,
    /// The names of the labels, in the order of the values.
    pub labels: &'static [&'static str],
}

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// The numbers only grow. Samples of a counter end in `_total`, the family's name does not.
    Counter,
    /// The number goes up and down.
    Gauge,
    /// The numbers are counts by bucket, whose upper bounds are given without the infinite one.
    Histogram(&'static [f64]),
}

/// The metrics could not be set up: a name is used twice, or it is not valid.
#[derive(Debug, thiserror::Error)]
#[error("cannot register a metric: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

// === impl Declaration ===

impl Declaration {
    /// The unit at the end of the name, `bytes` or `seconds`, where OpenMetrics demands it.
    pub fn unit(&self) -> Option<&'static str> {
        unit(self.name)
    }

    /// Registers a counter.
    pub(crate) fn counter(&self, registry: &Registry) -> Result<IntCounter, MetricsError> {
        registered(registry, IntCounter::with_opts(self.opts()))
    }

    /// Registers counters by labels whose values are words of the program.
    pub(crate) fn counters(&self, registry: &Registry) -> Result<IntCounterVec, MetricsError> {
        registered(registry, IntCounterVec::new(self.opts(), self.labels))
    }

    /// Registers a gauge.
    pub(crate) fn gauge(&self, registry: &Registry) -> Result<IntGauge, MetricsError> {
        registered(registry, IntGauge::with_opts(self.opts()))
    }

    /// Registers gauges by labels whose values are words of the program.
    pub(crate) fn gauges(&self, registry: &Registry) -> Result<IntGaugeVec, MetricsError> {
        registered(registry, IntGaugeVec::new(self.opts(), self.labels))
    }

    /// The registry's description of the family.
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
    /// The type's word in OpenMetrics.
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

/// The unit at the end of a family's name, with or without `_total`.
pub(crate) fn unit(name: &str) -> Option<&'static str> {
    let name = name.strip_suffix("_total").unwrap_or(name);
    ["bytes", "seconds"]
        .into_iter()
        .find(|unit| name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
}

//! Families and their samples on their way to an encoder.

use std::{sync::Arc, time::SystemTime};

use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::{
    declaration::{Declaration, Kind},
    labels::Labels,
};

/// Encodes families, one after another.
pub(crate) trait Encoder {
    /// Begins a family, which has samples.
    fn family(&mut self, header: &Header<'_>);

    /// Adds a sample to the family that began last.
    fn sample(&mut self, header: &Header<'_>, sample: &Sample<'_>);
}

/// The facts about a family that an encoder needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: Kind,
    pub(crate) help: &'a str,
}

/// A value and its labels.
#[derive(Debug)]
pub(crate) struct Sample<'a> {
    pub(crate) labels: Labels<'a>,
    pub(crate) value: Value,
}

/// The value of a sample.
#[derive(Debug)]
pub(crate) enum Value {
    /// A whole number.
    Count(u64),
    /// A floating-point number.
    Number(f64),
    /// A histogram.
    Histogram(Buckets),
}

/// The counts of a histogram.
#[derive(Debug)]
pub(crate) struct Buckets {
    /// Each finite upper bound, and the number of observations up to it.
    pub(crate) up_to: Vec<(f64, u64)>,
    /// The number of observations.
    pub(crate) count: u64,
    /// The sum of the observations.
    pub(crate) sum: f64,
    /// An observation of each bucket, the one without a bound last. There are none where no traces are exported.
    pub(crate) exemplars: Vec<Option<Exemplar>>,
}

/// An observation whose trace is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Exemplar {
    /// The trace.
    pub(crate) trace: u128,
    /// The observed value.
    pub(crate) value: f64,
    /// The time of the observation.
    pub(crate) at: SystemTime,
}

/// A label set whose samples can be read.
pub(crate) trait Sampled: Send + Sync {
    /// The samples of one of the family's declarations.
    fn samples(&self, declaration: &Declaration, emit: &mut dyn FnMut(&Sample<'_>));
}

/// Families that share their label sets, with the sets that are kept now. The sets go on counting.
pub(crate) struct Group {
    pub(crate) declarations: &'static [&'static Declaration],
    pub(crate) sets: Vec<Arc<dyn Sampled>>,
}

// === impl Group ===

impl Group {
    /// Passes the families that have samples to `encoder`.
    pub(crate) fn encode(&self, encoder: &mut dyn Encoder) {
        for declaration in self.declarations {
            let header = Header { name: declaration.name, kind: declaration.kind, help: declaration.help };
            let mut begun = false;
            for set in &self.sets {
                set.samples(declaration, &mut |sample| {
                    if !std::mem::replace(&mut begun, true) {
                        encoder.family(&header);
                    }
                    encoder.sample(&header, sample);
                });
            }
        }
    }
}

/// Passes a family of the registry to `encoder`, if it has samples.
pub(crate) fn gathered(family: &MetricFamily, encoder: &mut dyn Encoder) {
    let (kind, value): (Kind, fn(&Metric) -> Value) = match family.get_field_type() {
        MetricType::COUNTER => (Kind::Counter, |metric| Value::Number(metric.get_counter().get_value())),
        MetricType::HISTOGRAM => (Kind::Histogram(&[]), |metric| Value::Histogram(buckets(metric))),
        _ => (Kind::Gauge, |metric| Value::Number(metric.get_gauge().get_value())),
    };
    let header = Header { name: family.name(), kind, help: family.help() };
    if !family.get_metric().is_empty() {
        encoder.family(&header);
    }
    for metric in family.get_metric() {
        encoder.sample(&header, &Sample { labels: Labels::Pairs(metric.get_label()), value: value(metric) });
    }
}

fn buckets(metric: &Metric) -> Buckets {
    let histogram = metric.get_histogram();
    let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    Buckets {
        up_to: finite.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect(),
        count: histogram.get_sample_count(),
        sum: histogram.get_sample_sum(),
        exemplars: Vec::new(),
    }
}

//! The metrics of a scrape as the points of observable instruments. Names and labels stay as they are.
//!
//! They come in slices, made one after another as they are sent: all of twenty thousand label sets at once would take
//! hundreds of megabytes.

use std::{sync::Arc, vec};

use opentelemetry::KeyValue;
use prometheus::proto::{Metric as Gathered, MetricFamily, MetricType};

use crate::{
    protocols::labels::FLAG,
    telemetry::{
        counters::Sampled,
        metrics::Snapshot,
        openmetrics::{labels, unit},
        traffic::{FAMILIES, Family, Series},
    },
};

/// Most label sets in one slice. A label set of connections is some five points of about a kilobyte.
pub(super) const LABEL_SETS: usize = 100;

/// A snapshot in slices, each for one request.
pub(super) struct Slices {
    traffic: vec::IntoIter<Arc<Series>>,
    rest: vec::IntoIter<Page>,
}

/// A family, or a part of one.
pub(super) struct Page {
    pub(super) name: String,
    pub(super) help: String,
    /// A code of the Unified Code for Units of Measure, or nothing.
    pub(super) unit: &'static str,
    pub(super) points: Points,
}

/// The points of a family: the labels and the value of each.
pub(super) enum Points {
    /// A counter of whole numbers.
    Counter(Vec<(Vec<KeyValue>, u64)>),
    /// A counter of other numbers.
    Sum(Vec<(Vec<KeyValue>, f64)>),
    /// A gauge.
    Gauge(Vec<(Vec<KeyValue>, f64)>),
}

// === impl Slices ===

impl Slices {
    /// Of `snapshot`.
    pub(super) fn of(snapshot: Snapshot) -> Self {
        let mut rest = Vec::new();
        for family in snapshot.counters {
            for samples in family.samples.chunks(LABEL_SETS) {
                rest.push(counters(&family, samples));
            }
        }
        for mut family in snapshot.gathered {
            let metrics = family.take_metric();
            for metrics in metrics.chunks(LABEL_SETS) {
                rest.extend(gathered(&family, metrics));
            }
        }
        Self { traffic: snapshot.traffic.into_iter(), rest: rest.into_iter() }
    }
}

impl Iterator for Slices {
    type Item = Vec<Page>;

    fn next(&mut self) -> Option<Vec<Page>> {
        let series: Vec<Arc<Series>> = self.traffic.by_ref().take(LABEL_SETS).collect();
        if !series.is_empty() {
            return Some(connections(&series));
        }
        let (mut slice, mut points): (Vec<Page>, usize) = (Vec::new(), 0);
        while let Some(next) = self.rest.as_slice().first() {
            points += next.points.len();
            if points > LABEL_SETS && !slice.is_empty() {
                break;
            }
            slice.extend(self.rest.next());
        }
        (!slice.is_empty()).then_some(slice)
    }
}

/// The families of connections, as far as `series` count in them.
fn connections(series: &[Arc<Series>]) -> Vec<Page> {
    let known: Vec<Vec<KeyValue>> = series.iter().map(|series| attributes(&series.labels())).collect();
    let family = |family: &Family| {
        let mut points = Vec::new();
        for (series, known) in series.iter().zip(&known) {
            family.each(series, &mut |flag, count| {
                let mut attributes = known.clone();
                if let Some(at) = attributes.iter_mut().find(|pair| pair.key.as_str() == FLAG) {
                    *at = KeyValue::new(FLAG, flag.as_str());
                }
                points.push((attributes, count));
            });
        }
        Page::new(family.name, family.help, Points::Counter(points))
    };
    FAMILIES.iter().map(family).filter(|page| page.points.len() > 0).collect()
}

fn counters(family: &Sampled, samples: &[(Box<str>, u64)]) -> Page {
    let points = samples.iter().map(|(labels, count)| (attributes(labels), *count)).collect();
    Page::new(family.name, family.help, Points::Counter(points))
}

fn gathered(family: &MetricFamily, metrics: &[Gathered]) -> Vec<Page> {
    let (name, help) = (family.name(), family.help());
    let all = |value: fn(&Gathered) -> f64| metrics.iter().map(|m| (own(m), value(m))).collect();
    match family.get_field_type() {
        MetricType::COUNTER => {
            vec![Page::new(name, help, Points::Sum(all(|metric| metric.get_counter().get_value())))]
        }
        MetricType::HISTOGRAM => histogram((name, help), metrics),
        _ => vec![Page::new(name, help, Points::Gauge(all(|metric| metric.get_gauge().get_value())))],
    }
}

/// A histogram as a scrape has it: counts up to each bound, their sum, and how many there are. The SDK has no observable
/// histogram.
fn histogram((name, help): (&str, &str), metrics: &[Gathered]) -> Vec<Page> {
    let mut buckets = Vec::new();
    for metric in metrics {
        let histogram = metric.get_histogram();
        let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
        let bounds = finite.map(|bucket| (bucket.upper_bound().to_string(), bucket.cumulative_count()));
        for (bound, count) in bounds.chain([("+Inf".to_owned(), histogram.get_sample_count())]) {
            let mut attributes = own(metric);
            attributes.push(KeyValue::new("le", bound));
            buckets.push((attributes, count));
        }
    }
    let counts = metrics.iter().map(|m| (own(m), m.get_histogram().get_sample_count())).collect();
    let sums = metrics.iter().map(|m| (own(m), m.get_histogram().get_sample_sum())).collect();
    vec![
        Page::new(&format!("{name}_bucket"), help, Points::Counter(buckets)),
        Page::new(&format!("{name}_count"), help, Points::Counter(counts)),
        Page { unit: ucum(name), ..Page::new(&format!("{name}_sum"), help, Points::Sum(sums)) },
    ]
}

// === impl Page ===

impl Page {
    fn new(name: &str, help: &str, points: Points) -> Self {
        Self { name: name.to_owned(), help: help.to_owned(), unit: ucum(name), points }
    }
}

// === impl Points ===

impl Points {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Counter(points) => points.len(),
            Self::Sum(points) | Self::Gauge(points) => points.len(),
        }
    }
}

/// The unit that a family's name ends in.
fn ucum(name: &str) -> &'static str {
    match unit(name.strip_suffix("_total").unwrap_or(name)) {
        Some("bytes") => "By",
        Some("seconds") => "s",
        _ => "",
    }
}

/// Labels as they are rendered for a scrape, as attributes.
fn attributes(rendered: &str) -> Vec<KeyValue> {
    labels(rendered).map(|(name, value)| KeyValue::new(name.to_owned(), value)).collect()
}

fn own(metric: &Gathered) -> Vec<KeyValue> {
    let pair = |name: &str, value: &str| KeyValue::new(name.to_owned(), value.to_owned());
    metric.get_label().iter().map(|label| pair(label.name(), label.value())).collect()
}

#[cfg(test)]
mod tests;

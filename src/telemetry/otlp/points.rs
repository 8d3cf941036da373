//! The metrics of a scrape as the points of observable instruments. Names and labels stay as they are.
//!
//! The points come in slices, each made when it is sent. All points of twenty thousand label sets at once would take
//! hundreds of megabytes.

use std::{sync::Arc, vec};

use opentelemetry::KeyValue;
use prometheus::proto::MetricFamily;

use crate::telemetry::{
    metrics::Snapshot,
    series::{Declaration, Encoder, Group, Header, Kind, Labels, Sample, Sampled, Value, gathered, unit},
};

/// The number of label sets in one slice. A label set of connections has about five points of about a kilobyte.
///
/// Limit: label sets in one request with metrics: 100; past it: another request is made.
pub(super) const LABEL_SETS: usize = 100;

/// A snapshot in slices, each for one request.
pub(super) struct Slices(vec::IntoIter<Piece>);

/// A part of a slice.
enum Piece {
    Sets(&'static [&'static Declaration], Vec<Arc<dyn Sampled>>),
    Gathered(MetricFamily),
}

/// Makes pages of families.
#[derive(Default)]
struct Pages {
    pages: Vec<Page>,
    /// The index of the first page of the current family.
    begin: usize,
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
    /// The slices of `snapshot`.
    pub(super) fn of(snapshot: Snapshot) -> Self {
        let mut pieces = Vec::new();
        for Group { declarations, sets } in snapshot.groups {
            pieces.extend(sets.chunks(LABEL_SETS).map(|sets| Piece::Sets(declarations, sets.to_vec())));
        }
        // The labels of these families are words of the program, so no family has many sets.
        pieces.extend(snapshot.gathered.into_iter().map(Piece::Gathered));
        Self(pieces.into_iter())
    }
}

impl Iterator for Slices {
    type Item = Vec<Page>;

    fn next(&mut self) -> Option<Vec<Page>> {
        let (mut pages, mut sets) = (Pages::default(), 0);
        while let Some(next) = self.0.as_slice().first() {
            sets += next.len();
            if sets > LABEL_SETS && !pages.pages.is_empty() {
                break;
            }
            match self.0.next()? {
                Piece::Sets(declarations, sets) => Group { declarations, sets }.encode(&mut pages),
                Piece::Gathered(family) => gathered(&family, &mut pages),
            }
        }
        (!pages.pages.is_empty()).then_some(pages.pages)
    }
}

// === impl Piece ===

impl Piece {
    /// The number of label sets.
    fn len(&self) -> usize {
        match self {
            Self::Sets(_, sets) => sets.len(),
            Self::Gathered(family) => family.get_metric().len(),
        }
    }
}

// === impl Pages ===

impl Encoder for Pages {
    fn family(&mut self, header: &Header<'_>) {
        self.begin = self.pages.len();
        self.pages.extend(Page::all(header.name, header.kind, header.help));
    }

    fn sample(&mut self, _: &Header<'_>, sample: &Sample<'_>) {
        let own = attributes(sample.labels);
        match (self.pages.get_mut(self.begin..), &sample.value) {
            (Some([buckets, counts, sums]), Value::Histogram(histogram)) => {
                let bounds = histogram.up_to.iter().map(|(bound, count)| (bound.to_string(), *count));
                for (bound, count) in bounds.chain([("+Inf".to_owned(), histogram.count)]) {
                    let mut attributes = own.clone();
                    attributes.push(KeyValue::new("le", bound));
                    buckets.points.push(attributes, count as f64);
                }
                counts.points.push(own.clone(), histogram.count as f64);
                sums.points.push(own, histogram.sum);
            }
            (Some([page]), Value::Count(count)) => page.points.push_count(own, *count),
            (Some([page]), Value::Number(number)) => page.points.push(own, *number),
            // This case never happens, because a family's samples are of its type.
            _ => {}
        }
    }
}

// === impl Page ===

impl Page {
    /// The empty pages of a family. A histogram has the pages of a scrape: the counts up to each bound, the number of
    /// observations, and their sum. The SDK has no observable histogram.
    pub(super) fn all(name: &str, kind: Kind, help: &str) -> Vec<Self> {
        let page = |suffix: &str, points| {
            let unit = if suffix.is_empty() || suffix == "_sum" { ucum(name) } else { "" };
            Self { name: format!("{name}{suffix}"), help: help.to_owned(), unit, points }
        };
        let (whole, fractional) = (Points::Counter(Vec::new()), Points::Sum(Vec::new()));
        match kind {
            Kind::Counter if unit(name) == Some("seconds") => vec![page("", fractional)],
            Kind::Counter => vec![page("", whole)],
            Kind::Gauge => vec![page("", Points::Gauge(Vec::new()))],
            Kind::Histogram(_) => {
                let counts = Points::Counter(Vec::new());
                vec![page("_bucket", whole), page("_count", counts), page("_sum", fractional)]
            }
        }
    }
}

// === impl Points ===

impl Points {
    fn push_count(&mut self, attributes: Vec<KeyValue>, count: u64) {
        match self {
            Self::Counter(points) => points.push((attributes, count)),
            Self::Sum(_) | Self::Gauge(_) => self.push(attributes, count as f64),
        }
    }

    fn push(&mut self, attributes: Vec<KeyValue>, number: f64) {
        match self {
            // The registry gives whole numbers as floating-point numbers.
            Self::Counter(points) => points.push((attributes, number as u64)),
            Self::Sum(points) | Self::Gauge(points) => points.push((attributes, number)),
        }
    }
}

/// The code for the unit that a family's name ends in.
fn ucum(name: &str) -> &'static str {
    match unit(name) {
        Some("bytes") => "By",
        Some("seconds") => "s",
        _ => "",
    }
}

fn attributes(labels: Labels<'_>) -> Vec<KeyValue> {
    match labels {
        Labels::Set(set) => set.iter().map(|(name, value)| KeyValue::new(name, value.to_owned())).collect(),
        Labels::Pairs(pairs) => {
            let pair = |name: &str, value: &str| KeyValue::new(name.to_owned(), value.to_owned());
            pairs.iter().map(|label| pair(label.name(), label.value())).collect()
        }
    }
}

#[cfg(test)]
mod tests;

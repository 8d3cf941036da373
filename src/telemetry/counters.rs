//! A counter family whose label values come from outside (hostnames, type URLs) and therefore needs a bound.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use dashmap::DashMap;
use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::openmetrics::{Exposition, Kind, label_into};
use crate::protocols::labels::UNKNOWN;

/// A counter family with at most `limit` series, the idle ones of which a sweep drops. A set that finds no room is
/// counted with all labels `unknown`.
#[derive(Debug)]
pub struct BoundedCounters {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    limit: usize,
    series: DashMap<Box<str>, Cell, RandomState>,
}

/// A family at one moment.
#[derive(Debug)]
pub struct Sampled {
    /// Its name.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// Rendered labels and the count.
    pub samples: Vec<(Box<str>, u64)>,
}

#[derive(Debug)]
struct Cell {
    count: AtomicU64,
    /// When a sweep first saw this count.
    seen: Mutex<Option<(Instant, u64)>>,
}

// === impl BoundedCounters ===

impl BoundedCounters {
    /// An empty family; `name` ends in `_total`, `help` has no full stop.
    pub fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        limit: usize,
    ) -> Self {
        Self { name, help, labels, limit, series: DashMap::with_hasher(RandomState::default()) }
    }

    /// Adds `by` to the series of `values`, which are in the order of the labels; missing ones are `unknown`.
    pub fn add(&self, values: &[&str], by: u64) {
        let labels = self.render(values.iter().copied());
        if let Some(cell) = self.series.get(labels.as_str()) {
            cell.count.fetch_add(by, Relaxed);
            return;
        }
        // The set of unknowns is the one that is kept past the limit.
        let full = self.series.len() >= self.limit;
        let labels = if full { self.render(std::iter::empty()) } else { labels };
        let cell = self.series.entry(labels.into()).or_insert_with(Cell::new);
        cell.count.fetch_add(by, Relaxed);
    }

    /// Drops the series whose count no sweep saw change for `idle`.
    pub fn sweep(&self, now: Instant, idle: Duration) {
        self.series.retain(|_, cell| cell.is_wanted(now, idle));
    }

    /// Writes the family, if it has samples.
    pub fn encode(&self, body: &mut Exposition) {
        if self.series.is_empty() {
            return;
        }
        body.family(self.name, Kind::Counter, self.help);
        for cell in &self.series {
            body.rendered(self.name, &[cell.key()], cell.count.load(Relaxed));
        }
    }

    /// What there is now.
    pub fn sampled(&self) -> Sampled {
        let sample = |cell: dashmap::mapref::multiple::RefMulti<'_, Box<str>, Cell>| {
            (cell.key().clone(), cell.count.load(Relaxed))
        };
        Sampled { name: self.name, help: self.help, samples: self.series.iter().map(sample).collect() }
    }

    fn render<'a>(&self, values: impl Iterator<Item = &'a str>) -> String {
        let mut text = String::with_capacity(128);
        let values = values.map(|value| if value.is_empty() { UNKNOWN } else { value });
        for (name, value) in self.labels.iter().zip(values.chain(std::iter::repeat(UNKNOWN))) {
            if !text.is_empty() {
                text.push(',');
            }
            label_into(&mut text, name, value);
        }
        text
    }
}

// === impl Cell ===

impl Cell {
    fn new() -> Self {
        Self { count: AtomicU64::new(0), seen: Mutex::new(None) }
    }

    fn is_wanted(&self, now: Instant, idle: Duration) -> bool {
        let count = self.count.load(Relaxed);
        let mut seen = self.seen.lock();
        match *seen {
            Some((since, then)) if then == count => now.saturating_duration_since(since) < idle,
            _ => {
                *seen = Some((now, count));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(counters: &BoundedCounters) -> String {
        let mut body = Exposition::default();
        counters.encode(&mut body);
        body.finish()
    }

    #[test]
    fn series_are_bounded_and_forgotten() {
        let counters = BoundedCounters::new("x_total", "X", &["host", "source"], 1);
        assert_eq!(text(&counters), "# EOF\n");
        counters.add(&["a\"b", ""], 2);
        counters.add(&["a\"b", ""], 1);
        counters.add(&["other", "s"], 5);
        let text_now = text(&counters);
        let mut lines: Vec<&str> = text_now.lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "# EOF",
                "# HELP x X.",
                "# TYPE x counter",
                "x_total{host=\"a\\\"b\",source=\"unknown\"} 3",
                "x_total{host=\"unknown\",source=\"unknown\"} 5",
            ]
        );
        let (now, hour) = (Instant::now(), Duration::from_secs(3600));
        counters.sweep(now, hour);
        counters.add(&["a\"b", ""], 1);
        counters.sweep(now + hour, hour);
        assert!(text(&counters).contains("} 4\n"), "touched since the first sweep");
        counters.sweep(now + hour * 2, hour);
        assert!(!text(&counters).contains("a\\\"b"));
    }
}

//! Counting of the DNS proxy (docs/spec/controlplane.md 5.2).

use std::time::{Duration, Instant};

use foldhash::HashMap;
use parking_lot::Mutex;
use prometheus::{HistogramOpts, HistogramVec, Registry};

use super::{counters::BoundedCounters, metrics::MetricsError};
use crate::protocols::labels::{UNKNOWN, or_unknown};

/// Label sets of each family: types of records, transports and services of one node.
/// Limit: label sets of each family of the DNS proxy, each for an hour: 2000; past it: counted as `unknown`.
const SERIES: usize = 2000;
/// Bounds of the buckets of forwarding, in seconds.
const BUCKETS: [f64; 6] = [0.0005, 0.001, 0.01, 0.1, 1.0, 5.0];

const LABELS: [&str; 4] =
    ["request_query_type", "request_protocol", "source_canonical_service", "source_canonical_revision"];

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// By a connection.
    Tcp,
}

/// The labels of a question.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The type of the records, in lower case.
    pub kind: &'a str,
    /// How it came.
    pub transport: Transport,
    /// `canonical_name` of who asks.
    pub service: &'a str,
    /// `canonical_revision` of who asks.
    pub revision: &'a str,
}

/// The `istio_dns_` families.
#[derive(Debug)]
pub struct DnsMetrics {
    asked: BoundedCounters,
    forwarded: BoundedCounters,
    failed: BoundedCounters,
    took: HistogramVec,
    /// When each label set of `took` was last used.
    timed: Mutex<HashMap<[Box<str>; LABELS.len()], Instant>>,
}

// === impl Transport ===

impl Transport {
    fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

// === impl Asked ===

impl<'a> Asked<'a> {
    fn values(&self) -> [&'a str; LABELS.len()] {
        let known = |text| or_unknown(Some(text));
        [self.kind, self.transport.as_str(), known(self.service), known(self.revision)]
    }
}

// === impl DnsMetrics ===

impl DnsMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, MetricsError> {
        let name = "istio_dns_upstream_request_duration_seconds";
        let how = HistogramOpts::new(name, "Time that name servers took to answer").buckets(BUCKETS.to_vec());
        let took = HistogramVec::new(how, &LABELS)?;
        registry.register(Box::new(took.clone()))?;
        let family = |name, help| BoundedCounters::new(name, help, &LABELS, SERIES);
        Ok(Self {
            asked: family("istio_dns_requests_total", "Questions that pods have asked"),
            forwarded: family("istio_dns_upstream_requests_total", "Questions put to name servers"),
            failed: family("istio_dns_upstream_failures_total", "Questions that no name server answered"),
            took,
            timed: Mutex::default(),
        })
    }

    /// A question came.
    pub fn asked(&self, labels: &Asked<'_>) {
        self.asked.add(&labels.values(), 1);
    }

    /// A question is put to the name servers.
    pub fn forwarded(&self, labels: &Asked<'_>) {
        self.forwarded.add(&labels.values(), 1);
    }

    /// No name server has answered it.
    pub fn failed(&self, labels: &Asked<'_>) {
        self.failed.add(&labels.values(), 1);
    }

    /// So long it took until a name server had answered, or none had.
    pub fn took(&self, labels: &Asked<'_>, time: Duration) {
        let mut values = labels.values();
        let mut timed = self.timed.lock();
        let (now, full) = (Instant::now(), timed.len() >= SERIES);
        match timed.get_mut(&values.map(Box::from)) {
            Some(used) => *used = now,
            // Past the limit all are one.
            None if full => values = [UNKNOWN; LABELS.len()],
            None => _ = timed.insert(values.map(Box::from), now),
        }
        // Under the lock, or a sweep might drop the set in between.
        self.took.with_label_values(&values).observe(time.as_secs_f64());
    }

    pub(super) fn counters(&self) -> [&BoundedCounters; 3] {
        [&self.asked, &self.forwarded, &self.failed]
    }

    /// Drops the label sets of the histogram that nobody used for `idle`.
    pub(super) fn sweep(&self, now: Instant, idle: Duration) {
        self.timed.lock().retain(|set, used| {
            let keep = now.saturating_duration_since(*used) < idle;
            if !keep {
                // What is not there need not be dropped.
                let _ = self.took.remove_label_values(&set.each_ref().map(AsRef::as_ref));
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sets_of_the_histogram_are_bounded_and_forgotten() {
        let registry = Registry::new();
        let names = DnsMetrics::new(&registry).unwrap();
        let took = |kind: &str| {
            let labels = Asked { kind, transport: Transport::Udp, service: "", revision: "v1" };
            names.took(&labels, Duration::from_millis(20));
        };
        let sets = || registry.gather().first().map_or(0, |family| family.get_metric().len());
        for number in 0..SERIES + 5 {
            took(&format!("type{number}"));
        }
        assert_eq!(sets(), SERIES + 1, "the last ones are counted together");
        let (now, hour) = (Instant::now(), Duration::from_secs(3600));
        names.sweep(now, hour);
        assert_eq!(sets(), SERIES + 1);
        names.sweep(now + hour * 2, hour);
        assert_eq!(sets(), 1, "only what is counted together stays");
        took("a");
        assert_eq!(sets(), 2);
    }
}

//! Counting of the DNS proxy (docs/spec/controlplane.md 5.2).

use std::time::{Duration, Instant};

use super::series::{
    Counter, Family, Group, Timer,
    declared::{DNS_FAILED, DNS_FORWARDED, DNS_REQUESTS, DNS_TOOK},
};
use crate::protocols::labels::or_unknown;

/// Label sets of each family: types of records, transports and services of one node.
///
/// Limit: label sets of each family of the DNS proxy, each for an hour: 2000; past it: counted as `unknown`.
const DNS_SERIES: usize = 2000;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// By a connection.
    Tcp,
}

/// The labels of a query.
#[derive(Clone, Copy, Debug)]
pub struct DnsQueryLabels<'a> {
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
    requested: Family<Counter>,
    forwarded: Family<Counter>,
    failed: Family<Counter>,
    took: Family<Timer>,
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

// === impl DnsQueryLabels ===

impl<'a> DnsQueryLabels<'a> {
    fn values(&self) -> [&'a str; 4] {
        let known = |text| or_unknown(Some(text));
        [self.kind, self.transport.as_str(), known(self.service), known(self.revision)]
    }
}

// === impl DnsMetrics ===

impl DnsMetrics {
    pub(super) fn new() -> Self {
        Self {
            requested: Family::new(&[DNS_REQUESTS], DNS_SERIES),
            forwarded: Family::new(&[DNS_FORWARDED], DNS_SERIES),
            failed: Family::new(&[DNS_FAILED], DNS_SERIES),
            took: Family::new(&[DNS_TOOK], DNS_SERIES),
        }
    }

    /// A query came.
    pub fn requested(&self, labels: &DnsQueryLabels<'_>) {
        self.requested.add(&labels.values(), 1);
    }

    /// A query is forwarded to the name servers.
    pub fn forwarded(&self, labels: &DnsQueryLabels<'_>) {
        self.forwarded.add(&labels.values(), 1);
    }

    /// No name server has answered it.
    pub fn failed(&self, labels: &DnsQueryLabels<'_>) {
        self.failed.add(&labels.values(), 1);
    }

    /// So long it took until a name server had answered, or none had.
    pub fn took(&self, labels: &DnsQueryLabels<'_>, time: Duration) {
        self.took.observe(&labels.values(), time);
    }

    pub(super) fn groups(&self) -> [Group; 4] {
        [self.requested.group(), self.forwarded.group(), self.failed.group(), self.took.group()]
    }

    /// Drops the label sets that nobody used for `idle`.
    pub(super) fn sweep(&self, now: Instant, idle: Duration) {
        for counters in [&self.requested, &self.forwarded, &self.failed] {
            counters.sweep(now, idle);
        }
        self.took.sweep(now, idle);
    }
}

#[cfg(test)]
mod tests;

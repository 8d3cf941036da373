//! The counters of the DNS proxy (docs/spec/controlplane.md 5.2).

use std::time::{Duration, Instant};

use super::series::{
    Counter, Family, Group, Timer,
    declared::{DNS_FAILED, DNS_FORWARDED, DNS_REQUESTS, DNS_TOOK},
};
use crate::protocols::labels::or_unknown;

/// The label sets of each family: record types, transports and services of one node.
///
/// Limit: label sets of each family of the DNS proxy, each for an hour: 2000; past it: counted as `unknown`.
const DNS_SERIES: usize = 2000;

/// The transport of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// The query came in a datagram.
    Udp,
    /// The query came over a connection.
    Tcp,
}

/// The labels of a query.
#[derive(Clone, Copy, Debug)]
pub struct DnsQueryLabels<'a> {
    /// The type of the records, in lower case.
    pub kind: &'a str,
    /// The transport of the query.
    pub transport: Transport,
    /// The `canonical_name` of the querying workload.
    pub service: &'a str,
    /// The `canonical_revision` of the querying workload.
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

    /// Counts a query that came.
    pub fn requested(&self, labels: &DnsQueryLabels<'_>) {
        self.requested.add(&labels.values(), 1);
    }

    /// Counts a query that is forwarded to the name servers.
    pub fn forwarded(&self, labels: &DnsQueryLabels<'_>) {
        self.forwarded.add(&labels.values(), 1);
    }

    /// Counts a query that no name server has answered.
    pub fn failed(&self, labels: &DnsQueryLabels<'_>) {
        self.failed.add(&labels.values(), 1);
    }

    /// Records the time until a name server answered, or until all had failed.
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

//! The series of the traffic metrics (contract/controlplane.md sections 5.2 and 5.3).
//!
//! A connection's labels are looked up once, at its open, by their own bytes: no key for callers to keep unique, no
//! allocation when the set was seen before. From then on the connection holds its series and adds to plain atomics.
//! Cardinality is bounded twice: [`TrafficTable::sweep`] drops series nobody used for an hour, and past
//! [`SERIES_LIMIT`] new label sets are counted under `unknown` instead of being kept.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use dashmap::{DashMap, Entry};
use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::openmetrics::{Exposition, Kind, label_into};
use crate::protocols::{
    labels::{self, TrafficLabels},
    outcome::ResponseFlag,
};

/// Most label sets kept at a time.
pub const SERIES_LIMIT: usize = 20_000;

/// How long a series without connections is kept.
pub const SERIES_IDLE: Duration = Duration::from_secs(3600);

/// All series, shared by every shard.
#[derive(Debug)]
pub struct TrafficTable {
    series: DashMap<Box<[u8]>, Arc<Series>, RandomState>,
    kept: AtomicUsize,
    limit: usize,
    overflowed: AtomicU64,
}

/// An open connection's counters. Dropped without [`Traffic::close`] it counts as closed by this proxy, flag `-`.
#[derive(Debug)]
pub struct Traffic {
    series: Arc<Series>,
    closed: bool,
}

/// The counts of one label set.
#[derive(Debug)]
pub struct Series {
    /// Labels up to the response flag's value, and what follows it.
    head: Box<str>,
    tail: Box<str>,
    opened: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    closed: [AtomicU64; ResponseFlag::ALL.len()],
    /// When a sweep first saw the series idle, and how many connections it had had by then.
    idle: Mutex<Option<(Instant, u64)>>,
}

/// A family of connections.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    counts: Counts,
}

/// What a family counts of a series.
#[derive(Clone, Copy, Debug)]
enum Counts {
    /// One number.
    One(fn(&Series) -> &AtomicU64),
    /// Ends, by these flags.
    Ends(&'static [ResponseFlag]),
}

/// The flags of ends that were none as it should be.
const FAILED: &[ResponseFlag] = match ResponseFlag::ALL.split_first() {
    Some((_ok, rest)) => rest,
    None => &[],
};

/// The families of connections.
pub const FAMILIES: [Family; 5] = [
    Family {
        name: "istio_tcp_connections_opened_total",
        help: "TCP connections opened",
        counts: Counts::One(|series| &series.opened),
    },
    Family {
        name: "istio_tcp_connections_closed_total",
        help: "TCP connections closed",
        counts: Counts::Ends(&ResponseFlag::ALL),
    },
    Family {
        name: "istio_tcp_connections_failed_total",
        help: "TCP connections that did not end well",
        counts: Counts::Ends(FAILED),
    },
    Family {
        name: "istio_tcp_received_bytes_total",
        help: "Bytes from client to server",
        counts: Counts::One(|series| &series.received),
    },
    Family {
        name: "istio_tcp_sent_bytes_total",
        help: "Bytes from server to client",
        counts: Counts::One(|series| &series.sent),
    },
];

thread_local! {
    /// The label set being looked up: its buffer is used again and again.
    static KEY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

// === impl TrafficTable ===

impl TrafficTable {
    /// An empty table for at most `limit` label sets.
    pub fn new(limit: usize) -> Self {
        let series = DashMap::with_hasher(RandomState::default());
        Self { series, kept: AtomicUsize::new(0), limit, overflowed: AtomicU64::new(0) }
    }

    /// Counts a connection as opened and hands out its counters.
    pub fn open(&self, labels: &TrafficLabels<'_>) -> Traffic {
        let mut key = KEY.take();
        key.clear();
        key_into(&mut key, labels);
        let traffic = self.find(&key, labels);
        KEY.set(key);
        traffic
    }

    fn find(&self, key: &[u8], labels: &TrafficLabels<'_>) -> Traffic {
        // The series is counted on while the map's lock is held: a sweep cannot drop it in between.
        if let Some(series) = self.series.get(key) {
            return Traffic::open(&series);
        }
        if self.kept.load(Relaxed) >= self.limit {
            self.overflowed.fetch_add(1, Relaxed);
            // The one set of this reporter that is kept past the limit.
            let unknown = TrafficLabels::unknown(labels.reporter);
            let mut key = Vec::new();
            key_into(&mut key, &unknown);
            return self.insert(&key, &unknown);
        }
        self.insert(key, labels)
    }

    fn insert(&self, key: &[u8], labels: &TrafficLabels<'_>) -> Traffic {
        match self.series.entry(key.into()) {
            Entry::Occupied(entry) => Traffic::open(entry.get()),
            Entry::Vacant(entry) => {
                self.kept.fetch_add(1, Relaxed);
                Traffic::open(&entry.insert(Arc::new(Series::new(labels))))
            }
        }
    }

    /// Number of label sets kept.
    pub fn len(&self) -> usize {
        self.kept.load(Relaxed)
    }

    /// Whether no label set is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections whose label set found no room.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Relaxed)
    }

    /// Drops the series that had no connection for `idle`, seen by sweeps. Returns how many.
    pub fn sweep(&self, now: Instant, idle: Duration) -> usize {
        let mut dropped = 0;
        self.series.retain(|_, series| {
            let keep = series.is_wanted(now, idle);
            dropped += usize::from(!keep);
            keep
        });
        self.kept.fetch_sub(dropped, Relaxed);
        dropped
    }

    /// The series that are kept now. They go on counting.
    pub fn series(&self) -> Vec<Arc<Series>> {
        // Clones: what is done with them takes long, and a new series must not wait for it.
        self.series.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    /// Writes the families, as far as they have samples.
    pub fn encode(&self, body: &mut Exposition) {
        let all = self.series();
        for family in &FAMILIES {
            let mut begun = false;
            for series in &all {
                family.each(series, &mut |flag, count| {
                    if !std::mem::replace(&mut begun, true) {
                        body.family(family.name, Kind::Counter, family.help);
                    }
                    body.rendered(family.name, &[&series.head, flag.as_str(), &series.tail], count);
                });
            }
        }
    }
}

impl Default for TrafficTable {
    fn default() -> Self {
        Self::new(SERIES_LIMIT)
    }
}

// === impl Traffic ===

impl Traffic {
    fn open(series: &Arc<Series>) -> Self {
        series.opened.fetch_add(1, Relaxed);
        Self { series: Arc::clone(series), closed: false }
    }

    /// Adds bytes that went from client to server.
    pub fn received(&self, bytes: u64) {
        self.series.received.fetch_add(bytes, Relaxed);
    }

    /// Adds bytes that went from server to client.
    pub fn sent(&self, bytes: u64) {
        self.series.sent.fetch_add(bytes, Relaxed);
    }

    /// Counts the connection as closed, and as failed unless `flag` is `-`.
    pub fn close(mut self, flag: ResponseFlag) {
        self.end(flag);
    }

    fn end(&mut self, flag: ResponseFlag) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        if let Some(closed) = self.series.closed.get(flag.index()) {
            closed.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end(ResponseFlag::Ok);
    }
}

// === impl Family ===

impl Family {
    /// Each count that a series has in the family.
    pub fn each(&self, series: &Series, sample: &mut dyn FnMut(ResponseFlag, u64)) {
        match self.counts {
            Counts::One(count) => sample(ResponseFlag::Ok, count(series).load(Relaxed)),
            Counts::Ends(flags) => {
                for flag in flags {
                    let count = series.closed.get(flag.index()).map_or(0, |closed| closed.load(Relaxed));
                    if count > 0 {
                        sample(*flag, count);
                    }
                }
            }
        }
    }
}

// === impl Series ===

impl Series {
    /// Its labels as they are rendered, with the flag of a good end.
    pub fn labels(&self) -> String {
        [&self.head, ResponseFlag::Ok.as_str(), &self.tail].concat()
    }

    fn new(labels: &TrafficLabels<'_>) -> Self {
        let mut head = String::with_capacity(1024);
        for (name, value) in labels::BEFORE_FLAG.into_iter().zip(labels.before_flag()) {
            label_into(&mut head, name, value);
            head.push(',');
        }
        head.push_str(labels::FLAG);
        head.push_str("=\"");
        let mut tail = String::with_capacity(128);
        tail.push_str("\",");
        label_into(&mut tail, labels::SECURITY, labels.security.as_str());
        for (name, value) in labels::LOCALITY.into_iter().zip(labels.locality().into_iter().flatten()) {
            tail.push(',');
            label_into(&mut tail, name, value);
        }
        Self {
            head: head.into(),
            tail: tail.into(),
            opened: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            closed: Default::default(),
            idle: Mutex::new(None),
        }
    }

    fn is_wanted(&self, now: Instant, idle: Duration) -> bool {
        let opened = self.opened.load(Relaxed);
        let closed: u64 = self.closed.iter().map(|closed| closed.load(Relaxed)).sum();
        let mut seen = self.idle.lock();
        if closed < opened {
            *seen = None;
            return true;
        }
        match *seen {
            Some((since, count)) if count == opened => now.saturating_duration_since(since) < idle,
            _ => {
                *seen = Some((now, opened));
                true
            }
        }
    }
}

/// Appends the bytes of a label set: each value before its length, so that no two sets share them.
fn key_into(key: &mut Vec<u8>, labels: &TrafficLabels<'_>) {
    let mut put = |value: &str| {
        key.extend_from_slice(value.as_bytes());
        key.extend_from_slice(&value.len().to_le_bytes());
    };
    // Plain loops: chained iterators cost twice the time.
    for value in labels.before_flag() {
        put(value);
    }
    put(labels.security.as_str());
    if let Some(locality) = labels.locality() {
        for value in locality {
            put(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::labels::{Endpoint, Reporter, Security, ServiceName};

    fn labels<'a>() -> TrafficLabels<'a> {
        let end = |workload, namespace| Endpoint {
            workload: Some(workload),
            canonical_service: Some(workload),
            canonical_revision: Some("v1"),
            namespace: Some(namespace),
            principal: None,
            app: Some(workload),
            version: Some("v1"),
            cluster: Some("Kubernetes"),
            region: Some("r1"),
            zone: None,
        };
        TrafficLabels {
            reporter: Reporter::Source,
            source: end("local", "default"),
            destination: end("we\"b", "shop"),
            service: ServiceName {
                hostname: Some("web.shop.svc"),
                namespace: Some("shop"),
                name: Some("web"),
            },
            security: Security::MutualTls,
        }
    }

    fn text(table: &TrafficTable) -> String {
        let mut body = Exposition::default();
        table.encode(&mut body);
        body.finish()
    }

    const HEAD: &str = "{reporter=\"source\",source_workload=\"local\",source_canonical_service=\"local\",\
        source_canonical_revision=\"v1\",source_workload_namespace=\"default\",source_principal=\"unknown\",\
        source_app=\"local\",source_version=\"v1\",source_cluster=\"Kubernetes\",destination_service=\"web.shop.svc\",\
        destination_service_namespace=\"shop\",destination_service_name=\"web\",destination_workload=\"we\\\"b\",\
        destination_canonical_service=\"we\\\"b\",destination_canonical_revision=\"v1\",\
        destination_workload_namespace=\"shop\",destination_principal=\"unknown\",destination_app=\"we\\\"b\",\
        destination_version=\"v1\",destination_cluster=\"Kubernetes\",request_protocol=\"tcp\",response_flags=\"";
    const TAIL: &str = "\",connection_security_policy=\"mutual_tls\",source_region=\"r1\",source_zone=\"unknown\",\
        destination_region=\"r1\",destination_zone=\"unknown\"}";

    #[test]
    fn a_connection_is_counted_from_open_to_close() {
        let table = TrafficTable::default();
        assert_eq!(text(&table), "# EOF\n");
        let traffic = table.open(&labels());
        traffic.received(78);
        traffic.sent(187);
        traffic.sent(1);
        let open = [
            "# HELP istio_tcp_connections_opened TCP connections opened.".to_owned(),
            "# TYPE istio_tcp_connections_opened counter".to_owned(),
            format!("istio_tcp_connections_opened_total{HEAD}-{TAIL} 1"),
            "# HELP istio_tcp_received_bytes Bytes from client to server.".to_owned(),
            "# TYPE istio_tcp_received_bytes counter".to_owned(),
            "# UNIT istio_tcp_received_bytes bytes".to_owned(),
            format!("istio_tcp_received_bytes_total{HEAD}-{TAIL} 78"),
            "# HELP istio_tcp_sent_bytes Bytes from server to client.".to_owned(),
            "# TYPE istio_tcp_sent_bytes counter".to_owned(),
            "# UNIT istio_tcp_sent_bytes bytes".to_owned(),
            format!("istio_tcp_sent_bytes_total{HEAD}-{TAIL} 188"),
            "# EOF\n".to_owned(),
        ];
        assert_eq!(text(&table), open.join("\n"));

        traffic.close(ResponseFlag::Deny);
        drop(table.open(&labels()));
        let closed = text(&table);
        for line in [
            format!("istio_tcp_connections_opened_total{HEAD}-{TAIL} 2"),
            "# TYPE istio_tcp_connections_closed counter".to_owned(),
            format!("istio_tcp_connections_closed_total{HEAD}-{TAIL} 1"),
            format!("istio_tcp_connections_closed_total{HEAD}DENY{TAIL} 1"),
            format!("istio_tcp_connections_failed_total{HEAD}DENY{TAIL} 1"),
        ] {
            assert!(closed.lines().any(|have| have == line), "{line}\nnot in\n{closed}");
        }
        assert!(
            !closed.contains(&format!("istio_tcp_connections_failed_total{HEAD}-")),
            "success is no failure"
        );
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn sets_that_differ_only_where_a_value_ends_are_two() {
        let table = TrafficTable::default();
        let mut a = labels();
        (a.service.hostname, a.service.namespace) = (Some("ab"), Some("c"));
        let mut b = labels();
        (b.service.hostname, b.service.namespace) = (Some("a"), Some("bc"));
        let _open = (table.open(&a), table.open(&b), table.open(&a));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn only_series_without_connections_for_the_whole_time_are_swept() {
        let table = TrafficTable::default();
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let traffic = table.open(&labels());
        assert_eq!(table.sweep(at(0), SERIES_IDLE) + table.sweep(at(600), SERIES_IDLE), 0, "open");
        traffic.close(ResponseFlag::Ok);
        assert_eq!(table.sweep(at(601), SERIES_IDLE), 0, "first seen idle");
        drop(table.open(&labels()));
        assert_eq!(table.sweep(at(670), SERIES_IDLE), 0, "touched since");
        assert_eq!(table.sweep(at(729), SERIES_IDLE), 0, "59 minutes idle");
        assert_eq!((table.sweep(at(730), SERIES_IDLE), table.len()), (1, 0));
        assert_eq!(text(&table), "# EOF\n");
    }

    #[test]
    fn past_the_limit_connections_count_as_unknown() {
        let table = TrafficTable::new(1);
        let _first = table.open(&labels());
        let mut other = labels();
        other.reporter = Reporter::Destination;
        let _second = table.open(&other);
        let _again = table.open(&labels());
        assert_eq!((table.len(), table.overflowed()), (2, 1));
        let text = text(&table);
        assert!(text.contains("{reporter=\"destination\",source_workload=\"unknown\""), "{text}");
        assert!(text.contains(&format!("istio_tcp_connections_opened_total{HEAD}-{TAIL} 2")), "{text}");
    }

    #[test]
    fn a_thousand_clients_at_once_lose_no_count() {
        let table = TrafficTable::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..250 {
                        table.open(&labels()).close(ResponseFlag::Connect);
                        table.sweep(Instant::now(), SERIES_IDLE);
                    }
                });
            }
        });
        let text = text(&table);
        assert!(
            text.contains(&format!("istio_tcp_connections_failed_total{HEAD}CONNECT{TAIL} 1000")),
            "{text}"
        );
    }
}

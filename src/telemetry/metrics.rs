//! All metrics of the process (contract/controlplane.md section 5.2).
//!
//! One value, shared by reference: there is no global registry, so that two proxies of one test process do not count
//! into each other. Families of fixed labels live in a `prometheus` registry; those whose labels come from outside in
//! [`TrafficTable`] and [`BoundedCounters`], which have bounds.

use std::{sync::Arc, time::Instant};

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector, proto::MetricFamily,
};

use super::{
    counters::{BoundedCounters, Sampled},
    dns::DnsMetrics,
    openmetrics::Exposition,
    process,
    traffic::{SERIES_IDLE, Series, Traffic, TrafficTable},
};
use crate::protocols::labels::{Endpoint, Reporter, TrafficLabels, or_unknown};

/// The media type of a scrape by a client that asked for it.
pub const OPENMETRICS: &str = "application/openmetrics-text;charset=utf-8;version=1.0.0";

/// Every metric, with a typed method for each event.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    traffic: TrafficTable,
    sockets: [IntGauge; 2],
    on_demand_dns: BoundedCounters,
    /// Counting of the control-plane connection.
    pub xds: XdsMetrics,
    /// Counting of the DNS proxy.
    pub dns: DnsMetrics,
    /// Counting of pods.
    pub pods: PodMetrics,
    /// Counting of crashes and repairs.
    pub actors: ActorMetrics,
    gauges: ProcessGauges,
}

/// All metrics at one moment, but that the series of connections go on counting.
#[derive(Debug)]
pub struct Snapshot {
    /// The series of connections.
    pub traffic: Vec<Arc<Series>>,
    /// The families whose labels come from outside.
    pub counters: Vec<Sampled>,
    /// The families of the registry.
    pub gathered: Vec<MetricFamily>,
}

/// Why a control-plane stream ended (contract/controlplane.md section 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Termination {
    /// It never came to be.
    ConnectionError,
    /// It failed.
    Error,
    /// The server let go of the connection.
    Reconnect,
    /// It ended without a status.
    Complete,
}

/// The `istio_xds_` families and ours beside them.
#[derive(Debug)]
pub struct XdsMetrics {
    terminations: IntCounterVec,
    messages: BoundedCounters,
    message_bytes: BoundedCounters,
    rejections: BoundedCounters,
}

/// The `workload_manager_` families and ours beside them.
#[derive(Debug)]
pub struct PodMetrics {
    active: IntGauge,
    pending: IntGauge,
    started: IntCounter,
    stopped: IntCounter,
    unhealthy: IntGaugeVec,
    repairs: IntCounterVec,
    tunnels: IntGauge,
}

/// What failed and was repaired in the process.
#[derive(Debug)]
pub struct ActorMetrics {
    restarts: IntCounterVec,
    crashes: IntCounterVec,
    set_aside: IntGaugeVec,
    task_panics: IntCounterVec,
    panics: IntCounter,
}

/// Values read when somebody asks.
#[derive(Debug)]
struct ProcessGauges {
    open_fds: IntGauge,
    max_fds: IntGauge,
    traffic_series: IntGauge,
    traffic_overflow: IntGauge,
    log_lines_lost: IntGauge,
}

/// One of the things a gauge counts, for as long as it lives.
#[derive(Debug)]
pub struct Held(IntGauge);

/// The metrics could not be set up: a name is used twice or is none.
#[derive(Debug, thiserror::Error)]
#[error("cannot register a metric: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

// === impl Metrics ===

impl Metrics {
    /// All families at zero. `istio_version` is the tag of `istio_build`.
    ///
    /// # Errors
    /// Two families have one name: a mistake in this file.
    pub fn new(istio_version: &str) -> Result<Arc<Self>, MetricsError> {
        let registry = Registry::new();
        let r = &registry;
        let build = gauges(r, "istio_build", "Version of the proxy", &["component", "tag"])?;
        build.with_label_values(&["ztunnel", istio_version]).set(1);
        let sockets = gauges(r, "istio_tcp_sockets_open", "Accepted sockets that are open", &["reporter"])?;
        let side = |reporter: Reporter| sockets.with_label_values(&[reporter.as_str()]);
        let metrics = Self {
            traffic: TrafficTable::default(),
            sockets: [side(Reporter::Source), side(Reporter::Destination)],
            on_demand_dns: on_demand_dns(),
            xds: XdsMetrics::new(r)?,
            dns: DnsMetrics::new(r)?,
            pods: PodMetrics::new(r)?,
            actors: ActorMetrics::new(r)?,
            gauges: ProcessGauges::new(r)?,
            registry,
        };
        Ok(Arc::new(metrics))
    }

    /// Counts a connection as opened and hands out its live counters. Allocates nothing for labels seen before.
    pub fn traffic(&self, labels: &TrafficLabels<'_>) -> Traffic {
        self.traffic.open(labels)
    }

    /// Counts an accepted socket as open for as long as the value lives.
    pub fn socket(&self, reporter: Reporter) -> Held {
        let [source, destination] = &self.sockets;
        let gauge = match reporter {
            Reporter::Source => source,
            Reporter::Destination => destination,
        };
        Held::new(gauge)
    }

    /// Counts a resolution of the hostname of a workload that has no addresses.
    pub fn on_demand_dns(&self, source: &Endpoint<'_>, hostname: &str) {
        let [a, b, c, d, e, f, g, h] = source.values();
        self.on_demand_dns.add(&[a, b, c, d, e, f, g, h, or_unknown(Some(hostname))], 1);
    }

    /// Forgets series of connections and names unused for an hour. Call it every few minutes.
    pub fn sweep(&self, now: Instant) {
        self.traffic.sweep(now, SERIES_IDLE);
        for counters in self.bounded() {
            counters.sweep(now, SERIES_IDLE);
        }
        self.dns.sweep(now, SERIES_IDLE);
    }

    /// What a scrape holds, as values. Reads `/proc`.
    pub fn snapshot(&self) -> Snapshot {
        self.gauges.read(&self.traffic);
        Snapshot {
            traffic: self.traffic.series(),
            counters: self.bounded().map(BoundedCounters::sampled).collect(),
            gathered: self.registry.gather(),
        }
    }

    fn bounded(&self) -> impl Iterator<Item = &BoundedCounters> {
        [&self.on_demand_dns, &self.xds.messages, &self.xds.message_bytes, &self.xds.rejections]
            .into_iter()
            .chain(self.dns.counters())
    }

    /// The body of a scrape. Reads `/proc`; takes milliseconds when there are thousands of series.
    pub fn encode(&self) -> String {
        self.gauges.read(&self.traffic);
        let mut body = Exposition::with_capacity(16 * 1024 + self.traffic.len() * 4096);
        self.traffic.encode(&mut body);
        for counters in self.bounded() {
            counters.encode(&mut body);
        }
        body.gathered(&self.registry.gather());
        body.finish()
    }

    /// Adds a family of another part. Its name must not be taken.
    ///
    /// # Errors
    /// The name is taken.
    pub fn register(&self, family: impl Collector + 'static) -> Result<(), MetricsError> {
        Ok(self.registry.register(Box::new(family))?)
    }

    /// Says how many log lines were lost so far.
    pub fn log_lines_lost(&self, lines: u64) {
        self.gauges.log_lines_lost.set(signed(lines));
    }
}

fn on_demand_dns() -> BoundedCounters {
    const LABELS: [&str; 9] = [
        "source_workload",
        "source_canonical_service",
        "source_canonical_revision",
        "source_workload_namespace",
        "source_principal",
        "source_app",
        "source_version",
        "source_cluster",
        "hostname",
    ];
    let help = "Resolutions of hostnames of workloads without addresses";
    BoundedCounters::new("istio_on_demand_dns_total", help, &LABELS, 2000)
}

// === impl Termination ===

impl Termination {
    /// Value of the `reason` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionError => "ConnectionError",
            Self::Error => "Error",
            Self::Reconnect => "Reconnect",
            Self::Complete => "Complete",
        }
    }
}

// === impl XdsMetrics ===

impl XdsMetrics {
    fn new(r: &Registry) -> Result<Self, MetricsError> {
        let help = "Control-plane streams that ended";
        let terminations = counters(r, "istio_xds_connection_terminations_total", help, &["reason"])?;
        // A control plane can name any type: few are kept.
        let by_url = |name, help| BoundedCounters::new(name, help, &["url"], 16);
        Ok(Self {
            terminations,
            messages: by_url("istio_xds_message_total", "Responses of the control plane"),
            message_bytes: by_url("istio_xds_message_bytes_total", "Bytes of resources of the control plane"),
            rejections: by_url("warren_xds_rejected_resources_total", "Resources that could not be applied"),
        })
    }

    /// A stream ended.
    pub fn terminated(&self, why: Termination) {
        self.terminations.with_label_values(&[why.as_str()]).inc();
    }

    /// A response came; `bytes` is the sum of its resources' payloads.
    pub fn message(&self, type_url: &str, bytes: u64) {
        self.messages.add(&[type_url], 1);
        self.message_bytes.add(&[type_url], bytes);
    }

    /// Resources of a response were rejected.
    pub fn rejected(&self, type_url: &str, resources: u64) {
        self.rejections.add(&[type_url], resources);
    }
}

// === impl PodMetrics ===

impl PodMetrics {
    fn new(r: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            active: gauge(r, "workload_manager_active_proxy_count", "Pods that are proxied")?,
            pending: gauge(r, "workload_manager_pending_proxy_count", "Pods that wait for another attempt")?,
            started: counter(r, "workload_manager_proxies_started_total", "Pods whose proxy was started")?,
            stopped: counter(r, "workload_manager_proxies_stopped_total", "Pods whose proxy was stopped")?,
            unhealthy: gauges(r, "warren_pods_unhealthy", "Pods that fell out of the mesh", &["reason"])?,
            repairs: counters(
                r,
                "warren_pod_repairs_total",
                "What audits of pods have put right",
                &["what"],
            )?,
            tunnels: gauge(r, "warren_tunnels", "Tunnels to peers")?,
        })
    }

    /// Says how many pods are proxied and how many wait for another attempt.
    pub fn proxies(&self, active: u64, pending: u64) {
        self.active.set(signed(active));
        self.pending.set(signed(pending));
    }

    /// A pod's proxy was started.
    pub fn started(&self) {
        self.started.inc();
    }

    /// A pod's proxy was stopped.
    pub fn stopped(&self) {
        self.stopped.inc();
    }

    /// Says how many pods have fallen out of the mesh for `reason`.
    pub fn unhealthy(&self, reason: &'static str, pods: u64) {
        self.unhealthy.with_label_values(&[reason]).set(signed(pods));
    }

    /// An audit has put `what` right.
    pub fn repaired(&self, what: &'static str) {
        self.repairs.with_label_values(&[what]).inc();
    }

    /// Counts a tunnel for as long as the value lives.
    pub fn tunnel(&self) -> Held {
        Held::new(&self.tunnels)
    }
}

// === impl ActorMetrics ===

impl ActorMetrics {
    fn new(r: &Registry) -> Result<Self, MetricsError> {
        let kind = &["kind"];
        Ok(Self {
            restarts: counters(r, "warren_actor_restarts_total", "Actors started again", kind)?,
            crashes: counters(r, "warren_actor_crashes_total", "Actors that failed or were killed", kind)?,
            set_aside: gauges(r, "warren_quarantined", "Input set aside for crashing its handler", kind)?,
            task_panics: counters(r, "warren_task_panics_total", "Tasks that panicked", kind)?,
            panics: counter(r, "warren_panics_total", "Panics, wherever they were caught")?,
        })
    }

    /// An actor was started again.
    pub fn restarted(&self, kind: &'static str) {
        self.restarts.with_label_values(&[kind]).inc();
    }

    /// An actor failed or was killed.
    pub fn crashed(&self, kind: &'static str) {
        self.crashes.with_label_values(&[kind]).inc();
    }

    /// Says how much input of `kind` is set aside.
    pub fn set_aside(&self, kind: &'static str, inputs: u64) {
        self.set_aside.with_label_values(&[kind]).set(signed(inputs));
    }

    /// A task's owner was told that it panicked.
    pub fn task_panicked(&self, kind: &str) {
        self.task_panics.with_label_values(&[kind]).inc();
    }

    /// The panic hook ran.
    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }
}

// === impl ProcessGauges ===

impl ProcessGauges {
    fn new(r: &Registry) -> Result<Self, MetricsError> {
        let overflow = "Connections counted as unknown for want of room for their labels";
        Ok(Self {
            open_fds: gauge(r, "process_open_fds", "Number of open file descriptors")?,
            max_fds: gauge(r, "process_max_fds", "Most file descriptors the process may open")?,
            traffic_series: gauge(r, "warren_traffic_series", "Label sets of connections that are kept")?,
            traffic_overflow: gauge(r, "warren_traffic_overflowed_connections", overflow)?,
            log_lines_lost: gauge(r, "warren_log_lines_lost", "Log lines lost because nobody read them")?,
        })
    }

    fn read(&self, traffic: &TrafficTable) {
        let (open, limit) = process::file_descriptors();
        self.open_fds.set(signed(open.unwrap_or(0)));
        self.max_fds.set(signed(limit.unwrap_or(0)));
        self.traffic_series.set(signed(traffic.len() as u64));
        self.traffic_overflow.set(signed(traffic.overflowed()));
    }
}

// === impl Held ===

impl Held {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricsError> {
    let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, MetricsError> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|have| have == line), "{line:?} is not in\n{text}");
    }

    #[test]
    fn a_scrape_holds_the_families_of_the_contract() {
        let metrics = Metrics::new("1.30.3").unwrap();
        let _socket = metrics.socket(Reporter::Source);
        drop(metrics.socket(Reporter::Destination));
        metrics.xds.terminated(Termination::Reconnect);
        metrics.xds.message("type.googleapis.com/istio.workload.Address", 1000);
        metrics.pods.proxies(3, 1);
        metrics.pods.started();
        metrics.actors.restarted("xds");
        metrics.on_demand_dns(&Endpoint { workload: Some("w"), ..Endpoint::default() }, "db.example.com");
        let text = metrics.encode();
        for line in [
            "# TYPE istio_build gauge",
            "istio_build{component=\"ztunnel\",tag=\"1.30.3\"} 1",
            "istio_tcp_sockets_open{reporter=\"source\"} 1",
            "istio_tcp_sockets_open{reporter=\"destination\"} 0",
            "# TYPE istio_xds_connection_terminations counter",
            "istio_xds_connection_terminations_total{reason=\"Reconnect\"} 1",
            "istio_xds_message_total{url=\"type.googleapis.com/istio.workload.Address\"} 1",
            "# UNIT istio_xds_message_bytes bytes",
            "istio_xds_message_bytes_total{url=\"type.googleapis.com/istio.workload.Address\"} 1000",
            "workload_manager_active_proxy_count 3",
            "workload_manager_pending_proxy_count 1",
            "workload_manager_proxies_started_total 1",
            "workload_manager_proxies_stopped_total 0",
            "warren_actor_restarts_total{kind=\"xds\"} 1",
            "istio_on_demand_dns_total{source_workload=\"w\",source_canonical_service=\"unknown\",\
             source_canonical_revision=\"unknown\",source_workload_namespace=\"unknown\",source_principal=\"unknown\",\
             source_app=\"unknown\",source_version=\"unknown\",source_cluster=\"unknown\",hostname=\"db.example.com\"} 1",
        ] {
            has(&text, line);
        }
        assert!(!text.contains("warren_actor_crashes"), "a family without samples is left out");
        assert!(text.lines().any(|line| line.starts_with("process_open_fds ")));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn two_proxies_of_one_process_count_apart() {
        let (a, b) = (Metrics::new("x").unwrap(), Metrics::new("x").unwrap());
        a.pods.started();
        has(&b.encode(), "workload_manager_proxies_started_total 0");
    }

    #[test]
    fn later_parts_add_families_of_their_own() {
        let metrics = Metrics::new("x").unwrap();
        let family = || IntCounter::new("warren_later_total", "Later").unwrap();
        metrics.register(family()).unwrap();
        assert!(metrics.register(family()).is_err(), "the name is taken");
        has(&metrics.encode(), "warren_later_total 0");
    }
}

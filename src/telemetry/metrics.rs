//! All metrics of the process (docs/spec/controlplane.md 5.2).
//!
//! The metrics are one value, shared by reference. There is no global registry, so that two proxies of one test
//! process count separately. Families whose label values are words of the program live in a `prometheus` registry.
//! Families whose label values come from outside are bounded families of this crate, because the registry's families
//! have neither bound nor sweep.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, core::Collector, proto::MetricFamily,
};

pub use super::series::{Declaration, MetricsError};
use super::{
    dns::DnsMetrics,
    events::Events,
    handover::HandoverMetrics,
    openmetrics::Exposition,
    process,
    refusals::Refusals,
    series::{Counter, Family, Group, Timer, declared, gathered},
    setup::SetupMetrics,
    traffic::{SERIES_IDLE, Traffic, TrafficTable},
};
use crate::protocols::labels::{Endpoint, Reporter, TrafficLabels, or_unknown};

/// The number of host names resolved on demand that have their own count.
///
/// Limit: host names with a count of their own, each for an hour: 2000; past it: counted as `unknown`.
const MAX_HOSTNAMES: usize = 2000;
/// The number of type URLs that have their own count. A control plane can name any type.
///
/// Limit: type URLs with a count of their own, each for an hour: 16; past it: counted as `unknown`.
const MAX_TYPE_URLS: usize = 16;

/// The number of pairs of key exchange group and cipher suite that have their own count.
///
/// Limit: pairs of key exchange group and cipher suite with a count of their own: 64; past it: counted as `unknown`.
const MAX_HANDSHAKES: usize = 64;

/// The media type of a scrape for a client that asks for OpenMetrics.
pub const OPENMETRICS: &str = "application/openmetrics-text;charset=utf-8;version=1.0.0";

/// Every metric, with a typed method for each event.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    traffic: TrafficTable,
    sockets: [IntGauge; 2],
    on_demand_dns: Family<Counter>,
    policy_rechecks: IntCounter,
    /// The counters of attempts to reach next hops.
    pub outbound: OutboundMetrics,
    /// The counters of the control-plane connection.
    pub xds: XdsMetrics,
    /// Revoked certificates.
    pub crl: CrlMetrics,
    /// The counters of the DNS proxy.
    pub dns: DnsMetrics,
    /// The counters of connections that move to another process.
    pub(crate) handover: HandoverMetrics,
    /// The counters of pods.
    pub pods: PodMetrics,
    /// The counters of crashes and repairs.
    pub actors: ActorMetrics,
    /// The refused connections that get a line in the access log.
    pub(crate) refusals: Refusals,
    /// The times of the steps that set connections up.
    pub setup: SetupMetrics,
    handshakes: Family<Counter>,
    /// The last events.
    pub events: Arc<Events>,
    gauges: ProcessGauges,
}

/// All metrics at one moment, except that the sets of bounded families go on counting.
pub(super) struct Snapshot {
    /// The bounded families.
    pub(super) groups: Vec<Group>,
    /// The families of the registry.
    pub(super) gathered: Vec<MetricFamily>,
}

/// The counters of attempts to reach next hops.
#[derive(Debug)]
pub struct OutboundMetrics {
    reached: IntCounter,
    attempts: IntCounterVec,
    unroutable: IntCounterVec,
}

/// The reason why a control-plane stream ended (docs/spec/controlplane.md 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Termination {
    /// The stream could not be opened.
    ConnectionError,
    /// The stream failed.
    Error,
    /// The server ended the stream with a routine status.
    Reconnect,
    /// The stream ended without a status.
    Complete,
}

/// The `istio_xds_` families, and this proxy's own beside them.
#[derive(Debug)]
pub struct XdsMetrics {
    terminations: IntCounterVec,
    messages: Family<Counter>,
    message_bytes: Family<Counter>,
    rejections: Family<Counter>,
    applied: Family<Timer>,
}

/// The families of revoked certificates.
#[derive(Debug)]
pub struct CrlMetrics {
    rejections: [IntCounter; 2],
    untracked: [IntCounter; 2],
}

/// The `workload_manager_` families, and this proxy's own beside them.
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

/// The failures and repairs in the process.
#[derive(Debug)]
pub struct ActorMetrics {
    restarts: IntCounterVec,
    crashes: IntCounterVec,
    quarantined: IntGaugeVec,
    task_panics: IntCounterVec,
    panics: IntCounter,
}

/// The gauges whose values are read for each scrape.
#[derive(Debug)]
struct ProcessGauges {
    open_fds: IntGauge,
    max_fds: IntGauge,
    traffic_series: IntGauge,
    traffic_overflow: IntGauge,
    traffic_undescribed: IntGauge,
    log_lines_lost: IntGauge,
}

/// A guard that counts in a gauge for as long as it lives.
#[derive(Debug)]
pub struct GaugeGuard(IntGauge);

/// All families: their names, types, help texts and labels.
pub fn describe() -> &'static [&'static Declaration] {
    declared::ALL
}

// === impl Metrics ===

impl Metrics {
    /// All families at zero. `istio_version` is the tag of `istio_build`.
    ///
    /// # Errors
    /// Two families have one name: a mistake in this file.
    pub fn new(istio_version: &str) -> Result<Arc<Self>, MetricsError> {
        let registry = Registry::new();
        let r = &registry;
        let build = declared::BUILD.gauges(r)?;
        build.with_label_values(&["ztunnel", istio_version]).set(1);
        let sockets = declared::SOCKETS.gauges(r)?;
        let side = |reporter: Reporter| sockets.with_label_values(&[reporter.as_str()]);
        let metrics = Self {
            traffic: TrafficTable::default(),
            sockets: [side(Reporter::Source), side(Reporter::Destination)],
            policy_rechecks: declared::POLICY_RECHECKS.counter(r)?,
            on_demand_dns: Family::new(&[declared::ON_DEMAND_DNS], MAX_HOSTNAMES),
            outbound: OutboundMetrics::new(r)?,
            xds: XdsMetrics::new(r)?,
            crl: CrlMetrics::new(r)?,
            dns: DnsMetrics::new(),
            handover: HandoverMetrics::new(r)?,
            pods: PodMetrics::new(r)?,
            actors: ActorMetrics::new(r)?,
            refusals: Refusals::default(),
            setup: SetupMetrics::default(),
            handshakes: Family::new(&[declared::HANDSHAKES], MAX_HANDSHAKES),
            events: Arc::default(),
            gauges: ProcessGauges::new(r)?,
            registry,
        };
        Ok(Arc::new(metrics))
    }

    /// Counts a connection as opened and hands out its live counters. Allocates nothing for labels seen before.
    pub fn traffic(&self, labels: &TrafficLabels<'_>) -> Traffic {
        self.traffic.open(labels)
    }

    /// The live counters of a connection that is counted as opened or withdrawn later. Allocates nothing for labels seen
    /// before.
    pub fn begun(&self, labels: &TrafficLabels<'_>) -> Traffic {
        self.traffic.begin(labels)
    }

    /// Counts a connection as opened whose peer `identity` describes itself by `labels`. A peer that describes itself in
    /// too many ways is counted by the labels of its identity `alone`.
    pub fn described_traffic(
        &self,
        identity: &str,
        labels: &TrafficLabels<'_>,
        alone: &TrafficLabels<'_>,
    ) -> Traffic {
        self.traffic.begin_described(identity, labels, alone)
    }

    /// Counts an accepted socket as open for as long as the value lives.
    pub fn socket(&self, reporter: Reporter) -> GaugeGuard {
        GaugeGuard::new(of_side(&self.sockets, reporter))
    }

    /// Counts a TLS handshake of a tunnel, with the key exchange group and the cipher suite that were agreed on.
    pub fn handshake(&self, reporter: Reporter, group: Option<&str>, cipher: Option<&str>) {
        self.handshakes.add(&[reporter.as_str(), or_unknown(group), or_unknown(cipher)], 1);
    }

    /// Counts a live connection that policies were asked about again.
    pub fn policy_rechecked(&self) {
        self.policy_rechecks.inc();
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
        self.refusals.sweep(now);
        self.xds.applied.sweep(now, SERIES_IDLE);
    }

    /// The values of a scrape. Reads `/proc`.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.gauges.read(&self.traffic);
        let groups = [self.traffic.group()].into_iter().chain(self.bounded().map(Family::group));
        let groups = groups.chain(self.dns.groups()).chain([self.handover.group()]);
        let groups = groups.chain([self.setup.group(), self.xds.applied.group()]);
        Snapshot { groups: groups.collect(), gathered: self.registry.gather() }
    }

    fn bounded(&self) -> impl Iterator<Item = &Family<Counter>> {
        let xds = [&self.xds.messages, &self.xds.message_bytes, &self.xds.rejections];
        [&self.on_demand_dns, &self.handshakes].into_iter().chain(xds)
    }

    /// The body of a scrape. Reads `/proc`; encoding takes milliseconds if there are thousands of series.
    pub fn encode(&self) -> String {
        let mut body = Exposition::with_capacity(16 * 1024 + self.traffic.len() * 4096);
        let Snapshot { groups, gathered: families } = self.snapshot();
        groups.iter().for_each(|group| group.encode(&mut body));
        families.iter().for_each(|family| gathered(family, &mut body));
        body.finish()
    }

    /// Adds a family of another part of the program. Its name must be free.
    ///
    /// # Errors
    /// The name is taken.
    pub fn register(&self, family: impl Collector + 'static) -> Result<(), MetricsError> {
        Ok(self.registry.register(Box::new(family))?)
    }

    /// Sets the number of log lines lost so far.
    pub fn log_lines_lost(&self, lines: u64) {
        self.gauges.log_lines_lost.set(signed(lines));
    }
}

// === impl OutboundMetrics ===

impl OutboundMetrics {
    fn new(r: &Registry) -> Result<Self, MetricsError> {
        let attempts = declared::ATTEMPTS.counters(r)?;
        let reached = attempts.with_label_values(&["reached", "-"]);
        Ok(Self { reached, attempts, unroutable: declared::UNROUTABLE.counters(r)? })
    }

    /// Counts an attempt that reached its next hop.
    pub fn reached(&self) {
        self.reached.inc();
    }

    /// Counts an attempt that failed, and that another attempt followed.
    pub fn tried_again(&self, reason: &'static str) {
        self.attempts.with_label_values(&["tried_again", reason]).inc();
    }

    /// Counts an attempt that failed, and its connection with it.
    pub fn failed(&self, reason: &'static str) {
        self.attempts.with_label_values(&["failed", reason]).inc();
    }

    /// Counts a connection that had no next hop.
    pub fn unroutable(&self, reason: &'static str) {
        self.unroutable.with_label_values(&[reason]).inc();
    }
}

// === impl Termination ===

impl Termination {
    /// The value of the `reason` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionError => "ConnectionError",
            Self::Error => "Error",
            Self::Reconnect => "Reconnect",
            Self::Complete => "Complete",
        }
    }
}

// === impl CrlMetrics ===

impl CrlMetrics {
    fn new(r: &Registry) -> Result<Self, MetricsError> {
        let (rejections, untracked) =
            (declared::CRL_REJECTED.counters(r)?, declared::CRL_UNTRACKED.counters(r)?);
        let sides = |family: IntCounterVec| {
            [Reporter::Source, Reporter::Destination].map(|side| family.with_label_values(&[side.as_str()]))
        };
        Ok(Self { rejections: sides(rejections), untracked: sides(untracked) })
    }

    /// Counts a peer that was refused, or a tunnel that was cut, for a revoked certificate.
    pub fn rejected(&self, reporter: Reporter) {
        of_side(&self.rejections, reporter).inc();
    }

    /// Counts a tunnel that no revocation list will cut.
    pub fn untracked(&self, reporter: Reporter) {
        of_side(&self.untracked, reporter).inc();
    }
}

/// The one of two metrics that belongs to this side: that of the source comes first.
fn of_side<M>([source, destination]: &[M; 2], reporter: Reporter) -> &M {
    match reporter {
        Reporter::Source => source,
        Reporter::Destination => destination,
    }
}

// === impl XdsMetrics ===

impl XdsMetrics {
    fn new(r: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            terminations: declared::XDS_TERMINATIONS.counters(r)?,
            messages: Family::new(&[declared::XDS_MESSAGES], MAX_TYPE_URLS),
            message_bytes: Family::new(&[declared::XDS_BYTES], MAX_TYPE_URLS),
            rejections: Family::new(&[declared::XDS_REJECTED], MAX_TYPE_URLS),
            applied: Family::new(&[declared::XDS_APPLIED], MAX_TYPE_URLS),
        })
    }

    /// Counts a stream that ended.
    pub fn terminated(&self, why: Termination) {
        self.terminations.with_label_values(&[why.as_str()]).inc();
    }

    /// Counts a response; `bytes` is the sum of its resources' payloads.
    pub fn message(&self, type_url: &str, bytes: u64) {
        self.messages.add(&[type_url], 1);
        self.message_bytes.add(&[type_url], bytes);
    }

    /// Counts the time from the arrival of a response until it is applied.
    pub fn applied(&self, type_url: &str, time: Duration) {
        self.applied.observe(&[type_url], time);
    }

    /// Counts rejected resources of a response.
    pub fn rejected(&self, type_url: &str, resources: u64) {
        self.rejections.add(&[type_url], resources);
    }
}

// === impl PodMetrics ===

impl PodMetrics {
    fn new(r: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            active: declared::ACTIVE.gauge(r)?,
            pending: declared::PENDING.gauge(r)?,
            started: declared::STARTED.counter(r)?,
            stopped: declared::STOPPED.counter(r)?,
            unhealthy: declared::UNHEALTHY.gauges(r)?,
            repairs: declared::REPAIRS.counters(r)?,
            tunnels: declared::TUNNELS.gauge(r)?,
        })
    }

    /// Sets the numbers of pods that are proxied and of pods that wait for a retry.
    pub fn proxies(&self, active: u64, pending: u64) {
        self.active.set(signed(active));
        self.pending.set(signed(pending));
    }

    /// Counts the start of a pod's proxy.
    pub fn started(&self) {
        self.started.inc();
    }

    /// Counts the stop of a pod's proxy.
    pub fn stopped(&self) {
        self.stopped.inc();
    }

    /// Sets the number of pods that have left the mesh for `reason`.
    pub fn unhealthy(&self, reason: &'static str, pods: u64) {
        self.unhealthy.with_label_values(&[reason]).set(signed(pods));
    }

    /// Counts a repair of `what` by an audit.
    pub fn repaired(&self, what: &'static str) {
        self.repairs.with_label_values(&[what]).inc();
    }

    /// Counts a tunnel for as long as the value lives.
    pub fn tunnel(&self) -> GaugeGuard {
        GaugeGuard::new(&self.tunnels)
    }
}

// === impl ActorMetrics ===

impl ActorMetrics {
    fn new(r: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            restarts: declared::RESTARTS.counters(r)?,
            crashes: declared::CRASHES.counters(r)?,
            quarantined: declared::QUARANTINED_INPUT.gauges(r)?,
            task_panics: declared::TASK_PANICS.counters(r)?,
            panics: declared::PANICS.counter(r)?,
        })
    }

    /// Counts the restart of an actor.
    pub fn restarted(&self, kind: &'static str) {
        self.restarts.with_label_values(&[kind]).inc();
    }

    /// Counts an actor that failed or was killed.
    pub fn crashed(&self, kind: &'static str) {
        self.crashes.with_label_values(&[kind]).inc();
    }

    /// Sets the number of quarantined inputs of `kind`.
    pub fn quarantined(&self, kind: &'static str, inputs: u64) {
        self.quarantined.with_label_values(&[kind]).set(signed(inputs));
    }

    /// Counts a task's panic that the task's owner was told.
    pub fn task_panicked(&self, kind: &str) {
        self.task_panics.with_label_values(&[kind]).inc();
    }

    /// Counts a run of the panic hook.
    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }
}

// === impl ProcessGauges ===

impl ProcessGauges {
    fn new(r: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            open_fds: declared::OPEN_FDS.gauge(r)?,
            max_fds: declared::MAX_FDS.gauge(r)?,
            traffic_series: declared::TRAFFIC_SERIES.gauge(r)?,
            traffic_overflow: declared::TRAFFIC_OVERFLOWED.gauge(r)?,
            traffic_undescribed: declared::TRAFFIC_UNDESCRIBED.gauge(r)?,
            log_lines_lost: declared::LOG_LINES_LOST.gauge(r)?,
        })
    }

    fn read(&self, traffic: &TrafficTable) {
        let (open, limit) = process::file_descriptors();
        self.open_fds.set(signed(open.unwrap_or(0)));
        self.max_fds.set(signed(limit.unwrap_or(0)));
        self.traffic_series.set(signed(traffic.len() as u64));
        self.traffic_overflow.set(signed(traffic.overflowed()));
        self.traffic_undescribed.set(signed(traffic.undescribed()));
    }
}

// === impl GaugeGuard ===

impl GaugeGuard {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;

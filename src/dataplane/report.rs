//! The report of a connection to metrics and the access log, exactly once, however the connection ends.

use std::{
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::pod::conns::{ConnInfo, cut};
use crate::{
    protocols::{
        addr::HboneAddr,
        handover::record::{PodPlace, Side},
        hbone::headers::Baggage,
        identity::Identity,
        labels::{Endpoint, Reporter, Security, ServiceName, TrafficLabels},
        mesh::{Service, Workload},
        outcome::{Cut, Failure, Outcome},
        relay::Meter,
    },
    runtime::conns::Conn,
    telemetry::{
        access::{self, AccessRecord, ConnTotals, Party},
        metrics::Metrics,
        refusals::Sample,
        trace::span::{self, Connection},
        traffic::Traffic,
    },
};

/// The metadata of a connection for telemetry.
#[derive(Debug, Default)]
pub(crate) struct ConnMeta {
    /// The client's workload.
    pub(crate) source: Option<Arc<Workload>>,
    /// The client as the client's proxy describes it, if this proxy does not know the client's workload.
    pub(crate) source_baggage: Option<Box<Baggage>>,
    /// The client's identity, by mutual TLS.
    pub(crate) source_identity: Option<Identity>,
    /// The next hop.
    pub(crate) destination: Option<Arc<Workload>>,
    /// The destination behind a gateway, as the destination's proxy describes it.
    pub(crate) destination_baggage: Option<Box<Baggage>>,
    /// The destination's identity, by mutual TLS.
    pub(crate) destination_identity: Option<Identity>,
    /// The service that the client asked for.
    pub(crate) service: Option<Arc<Service>>,
    /// The CONNECT authority.
    pub(crate) authority: Option<HboneAddr>,
    /// Whether mutual TLS carries the connection.
    pub(crate) mtls: bool,
}

/// The destination behind a gateway, as the destination's proxy has answered for it.
#[derive(Debug)]
pub(crate) struct DestinationPeer {
    /// The identity, by mutual TLS of the inner tunnel.
    pub(crate) identity: Option<Identity>,
    /// The workload, if the answer describes it. A waypoint describes none.
    pub(crate) baggage: Option<Box<Baggage>>,
}

/// The report of a live connection. The drop closes the connection's metrics and writes its access log line.
pub(crate) struct ConnReport {
    started: Instant,
    dst: SocketAddr,
    meta: ConnMeta,
    conn: Conn<ConnInfo>,
    /// The other side's place in its set, if this process serves both sides.
    other: Option<Conn<ConnInfo>>,
    traffic: OnceCell<Traffic>,
    /// The metrics in which a peer that describes itself is counted once policies have let the peer in.
    describes_itself: Option<Arc<Metrics>>,
    outcome: RefCell<Option<Outcome>>,
    /// Whether another process has opened the connection, and counted it.
    adopted: bool,
    /// Whether the access log gets a line of the connection.
    sample: Cell<Sample>,
    trace: Option<Box<Connection>>,
}

/// What a connection has done in the process that began it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Past {
    /// How long ago the connection began.
    pub(crate) age: Duration,
    /// The number of bytes from the client and to the client.
    pub(crate) bytes: (u64, u64),
}

/// What metrics have of a peer that describes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    /// What the peer says.
    Known,
    /// The peer's identity alone: policies do not let the peer in, or the peer has described itself too often.
    IdentityAlone,
}

// === impl ConnReport ===

impl ConnReport {
    /// Opens the connection in the metrics. The report is boxed, as several futures of the connection hand it on.
    pub(crate) fn open(
        metrics: &Arc<Metrics>,
        conn: &Conn<ConnInfo>,
        dst: SocketAddr,
        meta: ConnMeta,
    ) -> Box<Self> {
        let mut report = Self::begin(metrics, conn, dst, meta, Instant::now());
        report.opened();
        report
    }

    /// Begins an attempt, which becomes the connection of the metrics and the log unless another attempt follows.
    /// `started` is the time when the connection began.
    pub(crate) fn begin(
        metrics: &Arc<Metrics>,
        conn: &Conn<ConnInfo>,
        dst: SocketAddr,
        meta: ConnMeta,
        started: Instant,
    ) -> Box<Self> {
        let describes_itself = meta.source_baggage.is_some().then(|| metrics.clone());
        let traffic = match &describes_itself {
            Some(_) => OnceCell::new(),
            None => metrics.begun(&labels(conn.info().reporter, &meta, Words::Known)).into(),
        };
        let trace = Connection::current();
        if let Some(trace) = &trace {
            trace.describe(|span| describe(span, dst, &meta));
        }
        Box::new(Self {
            started,
            dst,
            meta,
            conn: conn.clone(),
            other: None,
            traffic,
            describes_itself,
            outcome: RefCell::new(None),
            adopted: false,
            sample: Cell::new(Sample::Written { left_out: 0 }),
            trace,
        })
    }

    /// Opens the connection in the metrics: no other attempt will follow.
    pub(crate) fn opened(&mut self) {
        // A peer that describes itself is opened in the metrics by `authorized`, or at the end.
        let first = self.traffic.get_mut().map_or(self.describes_itself.is_some(), Traffic::open);
        if first && tracing::enabled!(target: "access", tracing::Level::DEBUG) {
            access::opened(&self.record());
        }
    }

    /// Tells that policies have let the connection in. Only from here on metrics have what the peer says of itself.
    pub(crate) fn authorized(&self) {
        let (Some(metrics), Some(identity)) = (&self.describes_itself, &self.meta.source_identity) else {
            return;
        };
        let labels = |words| labels(self.conn.info().reporter, &self.meta, words);
        let (known, alone) = (labels(Words::Known), labels(Words::IdentityAlone));
        self.traffic.get_or_init(|| {
            counted(self.adopted, metrics.described_traffic(identity.as_str(), &known, &alone))
        });
    }

    /// Tells that policies do not let the connection in. The access log has no line of it if too many of the client's
    /// connections are refused.
    pub(crate) fn denied(&self, metrics: &Metrics) {
        self.sample.set(metrics.refusals.sample(self.info().src.ip(), Instant::now()));
    }

    /// The shard that the connection lives on.
    pub(crate) fn shard(&self) -> usize {
        self.conn.id().shard
    }

    /// The connection in its set.
    pub(crate) fn conn(&self) -> &Conn<ConnInfo> {
        &self.conn
    }

    /// The description of the connection.
    pub(crate) fn info(&self) -> &ConnInfo {
        self.conn.info()
    }

    /// Takes note of the destination behind a gateway, before the connection is opened. Telemetry names the destination
    /// in the place of the gateway.
    pub(crate) fn answered_by(&mut self, metrics: &Metrics, peer: DestinationPeer) {
        self.meta.destination_identity = peer.identity;
        self.meta.destination_baggage = Some(peer.baggage.unwrap_or_default());
        let traffic = metrics.begun(&labels(self.conn.info().reporter, &self.meta, Words::Known));
        if let Some(of_gateway) = std::mem::replace(&mut self.traffic, traffic.into()).into_inner() {
            of_gateway.withdraw();
        }
    }

    /// The metadata of the connection.
    pub(crate) fn meta(&self) -> &ConnMeta {
        &self.meta
    }

    /// The next hop's address.
    pub(crate) fn dialled(&self) -> SocketAddr {
        self.dst
    }

    /// Sets `other`, which is the other side's entry of the same connection.
    pub(crate) fn beside(&mut self, other: &Conn<ConnInfo>) {
        self.other = Some(other.clone());
    }

    /// Sets the outcome of the connection. A connection without an outcome was cut.
    pub(crate) fn end(&self, outcome: impl Into<Outcome>) {
        *self.outcome.borrow_mut() = Some(outcome.into());
    }

    /// Ends an attempt that another attempt follows. The attempt is no connection of the metrics and the access log, and
    /// the trace goes on with the next attempt.
    pub(crate) fn tries_again(mut self: Box<Self>, outcome: &Outcome) {
        if let Some(trace) = self.trace.take() {
            trace.tries_again(outcome, self.dst);
        }
        access::tried_again(&self.record(), outcome);
        self.describes_itself = None;
        if let Some(traffic) = self.traffic.take() {
            traffic.withdraw();
        }
    }

    /// Opens the report of a connection that another process has handed over. `dialled`: the next hop's address.
    pub(crate) fn adopt(
        metrics: &Arc<Metrics>,
        conn: &Conn<ConnInfo>,
        dialled: SocketAddr,
        meta: ConnMeta,
        past: Past,
    ) -> Box<Self> {
        let now = Instant::now();
        let started = now.checked_sub(past.age).unwrap_or(now);
        let mut report = Self::begin(metrics, conn, dialled, meta, started);
        report.adopted = true;
        if let Some(traffic) = report.traffic.get_mut() {
            traffic.adopt();
        }
        conn.info().carried.begin_with(past.bytes);
        report
    }

    /// What another process has to know of the connection to go on with the report. The pod is left out.
    pub(crate) fn facts(&self) -> Side {
        let (info, meta) = (self.conn.info(), &self.meta);
        let uid = |workload: &Option<Arc<Workload>>| workload.as_ref().map(|w| w.uid().to_owned());
        let service = meta.service.as_ref();
        Side {
            pod: PodPlace::default(),
            client: info.src,
            destination: info.dst,
            dialled: self.dst,
            identity: info.identity.clone(),
            host: info.host.clone(),
            source_uid: uid(&meta.source),
            source_identity: meta.source_identity.clone(),
            destination_uid: uid(&meta.destination),
            destination_identity: meta.destination_identity.clone(),
            service: service.map(|service| (service.namespace().to_owned(), service.hostname().to_owned())),
            authority: meta.authority.clone(),
            mtls: meta.mtls,
            bytes: (info.carried.received(), info.carried.sent()),
            age_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            trace: self.trace.as_ref().and_then(|trace| trace.trace_parent()),
            baggage: meta.source_baggage.clone(),
        }
    }

    /// Leaves the connection to another process, which writes the line of the access log and counts the end.
    pub(crate) fn handed_over(mut self: Box<Self>) {
        if let Some(trace) = self.trace.take() {
            trace.handed_over();
        }
        self.describes_itself = None;
        if let Some(traffic) = self.traffic.take() {
            traffic.hand_over();
        }
    }

    /// Tells the trace that the next hop is reached and the relay begins.
    pub(crate) fn relaying(&self) {
        self.trace.iter().for_each(|trace| trace.relaying());
    }

    /// Sets the outcome of the connection from the result of the relay.
    pub(crate) fn relayed(&self, result: Result<(), impl Into<Failure>>) {
        match result {
            Ok(()) => self.end(Outcome::Complete),
            Err(error) => self.end(error.into()),
        }
    }

    fn record(&self) -> AccessRecord<'_> {
        let (meta, info) = (&self.meta, self.conn.info());
        let src = party(info.src, meta.source.as_deref(), meta.source_baggage.as_deref());
        let dst = party(
            self.dst,
            meta.destination.as_deref().filter(|_| meta.destination_baggage.is_none()),
            meta.destination_baggage.as_deref(),
        );
        AccessRecord {
            reporter: info.reporter,
            src: Party { identity: meta.source_identity.as_ref().filter(|_| meta.mtls), ..src },
            dst: Party { identity: meta.destination_identity.as_ref().filter(|_| meta.mtls), ..dst },
            hbone_addr: meta.authority.as_ref(),
            service: meta.service.as_deref().map(Service::hostname),
            left_out: match self.sample.get() {
                Sample::Written { left_out } => left_out,
                Sample::LeftOut => 0,
            },
        }
    }

    /// The outcome of a connection for which no outcome was set: the connection was cut, or its task was dropped or
    /// panicked.
    fn unsaid(&self) -> Outcome {
        let other = self.other.as_ref().and_then(Conn::cut_reason);
        match self.conn.cut_reason() {
            Some(cut::POLICY) => Cut::PolicyChange.into(),
            Some(cut::REVOKED) => Cut::Revoked.into(),
            Some(cut::OPERATOR) => Cut::Operator.into(),
            None if other == Some(cut::REVOKED) => Cut::Revoked.into(),
            _ if std::thread::panicking() => Failure::Io("connection task panicked".into()).into(),
            // The other side was cut. A separate proxy would have cancelled the stream, which counts as a normal end.
            None if other.is_some_and(|why| why != cut::DRAIN) => Outcome::Complete,
            _ => Cut::Drain.into(),
        }
    }
}

impl Meter for ConnReport {
    fn forward(&self, n: usize) {
        if n > 0 {
            let n = n as u64;
            self.conn.info().carried.forward(n);
            self.traffic.get().inspect(|traffic| traffic.received(n));
        }
    }

    fn backward(&self, n: usize) {
        if n > 0 {
            let n = n as u64;
            self.conn.info().carried.backward(n);
            self.traffic.get().inspect(|traffic| traffic.sent(n));
        }
    }
}

impl Drop for ConnReport {
    fn drop(&mut self) {
        // An attempt that another one follows has carried nothing.
        let carried = &self.conn.info().carried;
        let (received, sent) = (carried.received(), carried.sent());
        self.conn.leave_behind([received, sent]);
        // What is left behind is counted once, also while the connection is still in its set.
        carried.begin_with((0, 0));
        let refused = |metrics: Arc<Metrics>| {
            let labels = labels(self.conn.info().reporter, &self.meta, Words::IdentityAlone);
            counted(self.adopted, metrics.begun(&labels))
        };
        let traffic = self.traffic.take().or_else(|| self.describes_itself.take().map(refused));
        // Without counters the report was that of an attempt which another one follows.
        let Some(traffic) = traffic else { return };
        let outcome = self.outcome.take().unwrap_or_else(|| self.unsaid());
        traffic.close(outcome.flag());
        let level =
            if matches!(outcome, Outcome::Complete) { tracing::Level::INFO } else { tracing::Level::ERROR };
        let is_wanted =
            level == tracing::Level::ERROR || tracing::enabled!(target: "access", tracing::Level::INFO);
        if is_wanted && self.sample.get() != Sample::LeftOut {
            let carried = ConnTotals { received, sent, duration: self.started.elapsed() };
            let said = || access::complete(&self.record(), &carried, &outcome);
            match &self.trace {
                Some(trace) => trace.within(said),
                None => said(),
            }
        }
        if let Some(trace) = self.trace.take() {
            trace.end(&outcome, received, sent);
        }
    }
}

/// Reports a connection that had no next hop. It is counted if the client is known.
pub(crate) fn unroutable(
    metrics: &Metrics,
    conn: &Conn<ConnInfo>,
    dst: SocketAddr,
    meta: &ConnMeta,
    outcome: &Outcome,
) {
    let info = conn.info();
    if meta.source.is_some() {
        metrics.traffic(&labels(info.reporter, meta, Words::Known)).close(outcome.flag());
    }
    let record = AccessRecord {
        reporter: info.reporter,
        src: party(info.src, meta.source.as_deref(), None),
        dst: Party::at(dst),
        hbone_addr: None,
        service: meta.service.as_deref().map(Service::hostname),
        left_out: 0,
    };
    access::unroutable(&metrics.refusals, record, outcome);
}

/// Counts a connection as opened, by this process or by the one that has handed it over.
fn counted(adopted: bool, mut traffic: Traffic) -> Traffic {
    if adopted {
        traffic.adopt();
    } else {
        traffic.open();
    }
    traffic
}

/// Describes a connection in a trace once the next hop is known.
fn describe(span: span::Attributes<'_>, dst: SocketAddr, meta: &ConnMeta) {
    let name = |workload: &Option<Arc<Workload>>| workload.as_ref().map(|w| w.name().to_owned());
    let id = |id: &Option<Identity>| id.as_ref().filter(|_| meta.mtls).map(ToString::to_string);
    span.addr(span::PEER, dst)
        .set("warren.mtls", meta.mtls)
        .set_option("warren.source.workload", name(&meta.source))
        .set_option("warren.source.identity", id(&meta.source_identity))
        .set_option("warren.destination.workload", name(&meta.destination))
        .set_option("warren.destination.identity", id(&meta.destination_identity))
        .set_option("warren.destination.service", meta.service.as_ref().map(|s| s.hostname().to_owned()))
        .set_option("warren.authority", meta.authority.as_ref().map(ToString::to_string));
}

/// The labels of the series in which a connection counts (docs/spec/controlplane.md 5.3).
fn labels(reporter: Reporter, meta: &ConnMeta, words: Words) -> TrafficLabels<'_> {
    let principal = |id: &'_ Option<Identity>| id.is_some();
    let mut source = match words {
        Words::Known => endpoint(meta.source.as_deref(), meta.source_baggage.as_deref()),
        Words::IdentityAlone => Endpoint {
            namespace: meta.source_identity.as_ref().map(Identity::namespace),
            ..endpoint(meta.source.as_deref(), None)
        },
    };
    source.principal = meta.source_identity.as_ref().filter(|_| meta.mtls).map(Identity::as_str);
    let mut destination = endpoint(
        meta.destination.as_deref().filter(|_| meta.destination_baggage.is_none()),
        meta.destination_baggage.as_deref(),
    );
    // The destination's principal is known even in plaintext if the workload is known.
    destination.principal = if principal(&meta.destination_identity) {
        meta.destination_identity.as_ref().map(Identity::as_str)
    } else {
        meta.destination.as_ref().map(|workload| workload.identity().as_str())
    };
    let service = meta.service.as_deref().map(|service| ServiceName {
        hostname: Some(service.hostname()),
        namespace: Some(service.namespace()),
        name: Some(service.name()),
    });
    TrafficLabels {
        reporter,
        source,
        destination,
        service: service.unwrap_or_default(),
        security: if meta.mtls { Security::MutualTls } else { Security::Unknown },
    }
}

pub(crate) fn endpoint<'a>(workload: Option<&'a Workload>, baggage: Option<&'a Baggage>) -> Endpoint<'a> {
    match (workload, baggage) {
        (Some(workload), _) => Endpoint {
            workload: Some(workload.workload_name()),
            canonical_service: Some(workload.canonical_name()),
            canonical_revision: Some(workload.canonical_revision()),
            namespace: Some(workload.namespace()),
            principal: None,
            app: Some(workload.canonical_name()),
            version: Some(workload.canonical_revision()),
            cluster: Some(workload.cluster_id()),
            region: Some(&workload.place().region),
            zone: Some(&workload.place().zone),
        },
        (None, Some(baggage)) => Endpoint {
            workload: Some(&baggage.workload),
            canonical_service: Some(&baggage.service),
            canonical_revision: Some(&baggage.revision),
            namespace: Some(&baggage.namespace),
            principal: None,
            app: Some(&baggage.workload),
            version: Some(&baggage.revision),
            cluster: Some(&baggage.cluster),
            region: Some(&baggage.region),
            zone: Some(&baggage.zone),
        },
        (None, None) => Endpoint::default(),
    }
}

fn party<'a>(addr: SocketAddr, workload: Option<&'a Workload>, baggage: Option<&'a Baggage>) -> Party<'a> {
    let known = Party::at(addr);
    match (workload, baggage) {
        (Some(workload), _) => Party {
            workload: Some(workload.name()).filter(|n| !n.is_empty()).or(Some(workload.canonical_name())),
            namespace: Some(workload.namespace()),
            cluster: Some(workload.cluster_id()),
            ..known
        },
        (None, Some(baggage)) => Party {
            workload: Some(baggage.workload.as_str()),
            namespace: Some(baggage.namespace.as_str()),
            cluster: Some(baggage.cluster.as_str()),
            ..known
        },
        (None, None) => known,
    }
}

#[cfg(test)]
mod tests;

//! What is said of a connection when it ends: metrics and access log, exactly once, however it ends.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use super::pod::conns::{ConnInfo, cut};
use crate::{
    protocols::{
        addr::HboneAddr,
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
        trace::span::{self, Connection},
        traffic::Traffic,
    },
};

/// What is known of a connection for telemetry.
#[derive(Debug, Default)]
pub(crate) struct ConnMeta {
    /// The client's workload.
    pub(crate) source: Option<Arc<Workload>>,
    /// The client as its own proxy describes it, where it is not known here.
    pub(crate) source_baggage: Option<Box<Baggage>>,
    /// The client's identity, by mutual TLS.
    pub(crate) source_identity: Option<Identity>,
    /// The next hop.
    pub(crate) destination: Option<Arc<Workload>>,
    /// The destination as its own proxy describes it, behind a gateway.
    pub(crate) destination_baggage: Option<Box<Baggage>>,
    /// The destination's identity, by mutual TLS.
    pub(crate) destination_identity: Option<Identity>,
    /// The service meant.
    pub(crate) service: Option<Arc<Service>>,
    /// The CONNECT authority.
    pub(crate) authority: Option<HboneAddr>,
    /// Whether it is carried by mutual TLS.
    pub(crate) mtls: bool,
}

/// A connection under way. Dropping it closes its metrics and writes its access log line.
pub(crate) struct ConnReport {
    started: Instant,
    dst: SocketAddr,
    meta: ConnMeta,
    conn: Conn<ConnInfo>,
    /// The other side's place, where both are served here.
    other: Option<Conn<ConnInfo>>,
    traffic: Option<Traffic>,
    forward: Cell<u64>,
    backward: Cell<u64>,
    outcome: RefCell<Option<Outcome>>,
    trace: Option<Box<Connection>>,
}

// === impl ConnReport ===

impl ConnReport {
    /// Opens the connection in the metrics. Boxed: it is handed on by the futures of the connection.
    pub(crate) fn open(
        metrics: &Metrics,
        conn: &Conn<ConnInfo>,
        dst: SocketAddr,
        meta: ConnMeta,
    ) -> Box<Self> {
        let traffic = Some(metrics.traffic(&labels(conn.info().reporter, &meta)));
        let trace = Connection::current();
        if let Some(trace) = &trace {
            trace.describe(|span| describe(span, dst, &meta));
        }
        let report = Box::new(Self {
            started: Instant::now(),
            dst,
            meta,
            conn: conn.clone(),
            other: None,
            traffic,
            forward: Cell::new(0),
            backward: Cell::new(0),
            outcome: RefCell::new(None),
            trace,
        });
        if tracing::enabled!(target: "access", tracing::Level::DEBUG) {
            access::opened(&report.record());
        }
        report
    }

    /// What is known so far.
    pub(crate) fn meta(&self) -> &ConnMeta {
        &self.meta
    }

    /// The next hop's address.
    pub(crate) fn dialled(&self) -> SocketAddr {
        self.dst
    }

    /// Says that `other` is the same connection, as its other side has it.
    pub(crate) fn beside(&mut self, other: &Conn<ConnInfo>) {
        self.other = Some(other.clone());
    }

    /// Sets how the connection ended; without it, it was cut.
    pub(crate) fn end(&self, outcome: impl Into<Outcome>) {
        *self.outcome.borrow_mut() = Some(outcome.into());
    }

    /// Sets how an attempt ended after which another is made: the trace goes on with that.
    pub(crate) fn tries_again(&mut self, outcome: Outcome) {
        if let Some(trace) = self.trace.take() {
            trace.tries_again(&outcome, self.dst);
        }
        self.end(outcome);
    }

    /// The next hop is reached: bytes are relayed from here on.
    pub(crate) fn relaying(&self) {
        self.trace.iter().for_each(|trace| trace.relaying());
    }

    /// Sets the end of the relay.
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
        }
    }

    /// How it ended although nobody said: it was cut, or its task was dropped or panicked.
    fn unsaid(&self) -> Outcome {
        let other = self.other.as_ref().and_then(Conn::cut_reason);
        match self.conn.cut_reason() {
            Some(cut::POLICY) => Cut::PolicyChange.into(),
            _ if std::thread::panicking() => Failure::Io("connection task panicked".into()).into(),
            // The other side was: its proxy would have cancelled the stream, which is an end like any other.
            None if other.is_some_and(|why| why != cut::DRAIN) => Outcome::Complete,
            _ => Cut::Drain.into(),
        }
    }
}

impl Meter for ConnReport {
    fn forward(&self, n: usize) {
        if n > 0 {
            let n = n as u64;
            self.forward.set(self.forward.get() + n);
            self.traffic.iter().for_each(|traffic| traffic.received(n));
        }
    }

    fn backward(&self, n: usize) {
        if n > 0 {
            let n = n as u64;
            self.backward.set(self.backward.get() + n);
            self.traffic.iter().for_each(|traffic| traffic.sent(n));
        }
    }
}

impl Drop for ConnReport {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| self.unsaid());
        if let Some(traffic) = self.traffic.take() {
            traffic.close(outcome.flag());
        }
        let level =
            if matches!(outcome, Outcome::Complete) { tracing::Level::INFO } else { tracing::Level::ERROR };
        if level == tracing::Level::ERROR || tracing::enabled!(target: "access", tracing::Level::INFO) {
            let carried = ConnTotals {
                received: self.forward.get(),
                sent: self.backward.get(),
                duration: self.started.elapsed(),
            };
            let said = || access::complete(&self.record(), &carried, &outcome);
            match &self.trace {
                Some(trace) => trace.within(said),
                None => said(),
            }
        }
        if let Some(trace) = self.trace.take() {
            trace.end(&outcome, self.forward.get(), self.backward.get());
        }
    }
}

/// What a trace says of a connection once its next hop is known.
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

/// The series a connection counts in (docs/spec/controlplane.md 5.3).
fn labels(reporter: Reporter, meta: &ConnMeta) -> TrafficLabels<'_> {
    let principal = |id: &'_ Option<Identity>| id.is_some();
    let mut source = endpoint(meta.source.as_deref(), meta.source_baggage.as_deref());
    source.principal = meta.source_identity.as_ref().filter(|_| meta.mtls).map(Identity::as_str);
    let mut destination = endpoint(
        meta.destination.as_deref().filter(|_| meta.destination_baggage.is_none()),
        meta.destination_baggage.as_deref(),
    );
    // Known even in plaintext whenever the workload is known.
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

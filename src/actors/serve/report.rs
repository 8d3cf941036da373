//! What is said of a connection when it ends: metrics and access log, exactly once, however it ends.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use crate::{
    actors::{
        node::cut,
        pods::pod::{ConnInfo, Pod},
        telemetry::{
            access::{self, AccessRecord, Carried, Party},
            trace::span::{self, Connection},
            traffic::Traffic,
        },
    },
    protocols::{
        addr::HboneAddr,
        hbone::headers::Baggage,
        identity::Identity,
        labels::{Endpoint, Reporter, Security, ServiceName, TrafficLabels},
        mesh::{Service, Workload},
        outcome::{Cut, Failure, Outcome},
        relay::{Fault, Meter},
    },
    supervisor::Conn,
};

/// What is known of a connection for telemetry.
#[derive(Debug, Default)]
pub struct Facts {
    /// The client's workload.
    pub source: Option<Arc<Workload>>,
    /// The client as its own proxy describes it, where it is not known here.
    pub source_baggage: Option<Box<Baggage>>,
    /// The client's identity, by mutual TLS.
    pub source_identity: Option<Identity>,
    /// The next hop.
    pub destination: Option<Arc<Workload>>,
    /// The destination as its own proxy describes it, behind a gateway.
    pub destination_baggage: Option<Box<Baggage>>,
    /// The destination's identity, by mutual TLS.
    pub destination_identity: Option<Identity>,
    /// The service meant.
    pub service: Option<Arc<Service>>,
    /// The CONNECT authority.
    pub authority: Option<HboneAddr>,
    /// Whether it is carried by mutual TLS.
    pub mtls: bool,
}

/// A connection under way. Dropping it closes its metrics and writes its access log line.
pub struct Report {
    started: Instant,
    dst: SocketAddr,
    facts: Facts,
    conn: Conn<ConnInfo>,
    /// The other side's place, where both are served here.
    other: Option<Conn<ConnInfo>>,
    traffic: Option<Traffic>,
    forward: Cell<u64>,
    backward: Cell<u64>,
    outcome: RefCell<Option<Outcome>>,
    trace: Option<Box<Connection>>,
}

// === impl Report ===

impl Report {
    /// Opens the connection in the metrics. Boxed: it is handed on by the futures of the connection.
    pub fn open(pod: &Pod, conn: &Conn<ConnInfo>, dst: SocketAddr, facts: Facts) -> Box<Self> {
        let traffic = Some(pod.node.metrics.traffic(&labels(conn.info().reporter, &facts)));
        let trace = Connection::current();
        if let Some(trace) = &trace {
            trace.describe(|span| describe(span, dst, &facts));
        }
        let report = Box::new(Self {
            started: Instant::now(),
            dst,
            facts,
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
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The next hop's address.
    pub fn dialled(&self) -> SocketAddr {
        self.dst
    }

    /// Says that `other` is the same connection, as its other side has it.
    pub fn beside(&mut self, other: &Conn<ConnInfo>) {
        self.other = Some(other.clone());
    }

    /// Sets how the connection ended; without it, it was cut.
    pub fn end(&self, outcome: impl Into<Outcome>) {
        *self.outcome.borrow_mut() = Some(outcome.into());
    }

    /// Sets how an attempt ended after which another is made: the trace goes on with that.
    pub fn tries_again(&mut self, outcome: Outcome) {
        if let Some(trace) = self.trace.take() {
            trace.tries_again(&outcome, self.dst);
        }
        self.end(outcome);
    }

    /// The next hop is reached: bytes are relayed from here on.
    pub fn relaying(&self) {
        self.trace.iter().for_each(|trace| trace.relaying());
    }

    /// Sets the end of the relay.
    pub fn relayed(&self, result: &Result<(), Fault>) {
        self.end(match result {
            Ok(()) => Outcome::Complete,
            Err(Fault::Receive(error)) => Failure::Receive(error.to_string().into()).into(),
            Err(Fault::Send(error)) => Failure::Send(error.to_string().into()).into(),
            Err(Fault::PeerReset(reason)) => {
                Failure::H2(format!("stream reset by peer: {reason}").into()).into()
            }
            Err(Fault::Tunnel(error)) => Failure::H2(error.to_string().into()).into(),
        });
    }

    fn record(&self) -> AccessRecord<'_> {
        let (facts, info) = (&self.facts, self.conn.info());
        let src = party(info.src, facts.source.as_deref(), facts.source_baggage.as_deref());
        let dst = party(
            self.dst,
            facts.destination.as_deref().filter(|_| facts.destination_baggage.is_none()),
            facts.destination_baggage.as_deref(),
        );
        AccessRecord {
            reporter: info.reporter,
            src: Party { identity: facts.source_identity.as_ref().filter(|_| facts.mtls), ..src },
            dst: Party { identity: facts.destination_identity.as_ref().filter(|_| facts.mtls), ..dst },
            hbone_addr: facts.authority.as_ref(),
            service: facts.service.as_deref().map(Service::hostname),
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

impl Meter for Report {
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

impl Drop for Report {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| self.unsaid());
        if let Some(traffic) = self.traffic.take() {
            traffic.close(outcome.flag());
        }
        let level =
            if matches!(outcome, Outcome::Complete) { tracing::Level::INFO } else { tracing::Level::ERROR };
        if level == tracing::Level::ERROR || tracing::enabled!(target: "access", tracing::Level::INFO) {
            let carried = Carried {
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
fn describe(span: span::Attributes<'_>, dst: SocketAddr, facts: &Facts) {
    let name = |workload: &Option<Arc<Workload>>| workload.as_ref().map(|w| w.name().to_owned());
    let id = |id: &Option<Identity>| id.as_ref().filter(|_| facts.mtls).map(ToString::to_string);
    span.addr(span::PEER, dst)
        .set("warren.mtls", facts.mtls)
        .maybe("warren.source.workload", name(&facts.source))
        .maybe("warren.source.identity", id(&facts.source_identity))
        .maybe("warren.destination.workload", name(&facts.destination))
        .maybe("warren.destination.identity", id(&facts.destination_identity))
        .maybe("warren.destination.service", facts.service.as_ref().map(|s| s.hostname().to_owned()))
        .maybe("warren.authority", facts.authority.as_ref().map(ToString::to_string));
}

/// The series a connection counts in (docs/spec/controlplane.md 5.3).
fn labels(reporter: Reporter, facts: &Facts) -> TrafficLabels<'_> {
    let principal = |id: &'_ Option<Identity>| id.is_some();
    let mut source = endpoint(facts.source.as_deref(), facts.source_baggage.as_deref());
    source.principal = facts.source_identity.as_ref().filter(|_| facts.mtls).map(Identity::as_str);
    let mut destination = endpoint(
        facts.destination.as_deref().filter(|_| facts.destination_baggage.is_none()),
        facts.destination_baggage.as_deref(),
    );
    // Known even in plaintext whenever the workload is known.
    destination.principal = if principal(&facts.destination_identity) {
        facts.destination_identity.as_ref().map(Identity::as_str)
    } else {
        facts.destination.as_ref().map(|workload| workload.identity().as_str())
    };
    let service = facts.service.as_deref().map(|service| ServiceName {
        hostname: Some(service.hostname()),
        namespace: Some(service.namespace()),
        name: Some(service.name()),
    });
    TrafficLabels {
        reporter,
        source,
        destination,
        service: service.unwrap_or_default(),
        security: if facts.mtls { Security::MutualTls } else { Security::Unknown },
    }
}

pub(super) fn endpoint<'a>(workload: Option<&'a Workload>, baggage: Option<&'a Baggage>) -> Endpoint<'a> {
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
mod tests {
    use super::*;

    /// Every open connection has one; the allocator rounds up to 320 bytes, and from there to 384.
    #[test]
    fn a_report_stays_small() {
        assert!(size_of::<Report>() <= 320, "a report has {} bytes", size_of::<Report>());
    }
}

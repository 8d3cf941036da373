//! The access log: one line for each connection (docs/spec/controlplane.md 6.2).
//!
//! A call is cheap: while the level is off, it is a load and a branch. Values are formatted only for lines that are
//! written.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    refusals::{Refusals, Sample},
    trace::span,
};
use crate::protocols::{
    addr::HboneAddr,
    identity::Identity,
    labels::Reporter,
    outcome::{Outcome, Severity},
};

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party<'a> {
    /// The client's address; for the destination the dialled address, or the `:15008` address inbound.
    pub addr: SocketAddr,
    /// The pod name, else the canonical service.
    pub workload: Option<&'a str>,
    /// Kubernetes namespace.
    pub namespace: Option<&'a str>,
    /// The identity, present only on an mTLS connection.
    pub identity: Option<&'a Identity>,
    /// The id of the cluster.
    pub cluster: Option<&'a str>,
}

/// The facts about a connection when it opens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessRecord<'a> {
    /// The side that this proxy serves.
    pub reporter: Reporter,
    /// The client.
    pub src: Party<'a>,
    /// The next hop.
    pub dst: Party<'a>,
    /// The CONNECT authority.
    pub hbone_addr: Option<&'a HboneAddr>,
    /// Hostname of the service.
    pub service: Option<&'a str>,
    /// The number of the client's refused connections that got no line since its last line.
    pub left_out: u64,
}

/// The totals of a connection, counted as the metrics count them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnTotals {
    /// The number of bytes from client to server.
    pub received: u64,
    /// The number of bytes from server to client.
    pub sent: u64,
    /// The time from accept to close.
    pub duration: Duration,
}

// === impl Party ===

impl Party<'_> {
    /// A party whose address alone is known.
    pub(crate) fn at(addr: SocketAddr) -> Self {
        Self { addr, workload: None, namespace: None, identity: None, cluster: None }
    }
}

/// Logs an event of target `access` with the fields that every line has, followed by the given ones.
macro_rules! line {
    ($level:ident, $record:expr, $message:literal $(, $($name:ident).+ = $value:expr)*) => {
        tracing::event!(
            target: "access",
            tracing::Level::$level,
            src.addr = %$record.src.addr,
            src.workload = some($record.src.workload),
            src.namespace = some($record.src.namespace),
            src.identity = $record.src.identity.map(Identity::as_str),
            src.cluster = some($record.src.cluster),
            dst.addr = %$record.dst.addr,
            dst.hbone_addr = $record.hbone_addr.map(tracing::field::display),
            dst.service = some($record.service),
            dst.workload = some($record.dst.workload),
            dst.namespace = some($record.dst.namespace),
            dst.identity = $record.dst.identity.map(Identity::as_str),
            dst.cluster = some($record.dst.cluster),
            direction = $record.reporter.direction(),
            $($($name).+ = $value,)*
            left_out = Some($record.left_out).filter(|count| *count > 0),
            trace_id = trace_id().as_deref(),
            $message
        )
    };
}

/// Logs at debug that a connection was opened.
pub(crate) fn opened(record: &AccessRecord<'_>) {
    line!(DEBUG, record, "connection opened");
}

/// Logs that a connection ended: at info if it succeeded, else at error.
pub(crate) fn complete(record: &AccessRecord<'_>, carried: &ConnTotals, outcome: &Outcome) {
    // The log counts from the local workload's view.
    let (bytes_sent, bytes_recv) = match record.reporter {
        Reporter::Source => (carried.received, carried.sent),
        Reporter::Destination => (carried.sent, carried.received),
    };
    let duration = || format!("{}ms", carried.duration.as_millis());
    match outcome.severity() {
        Severity::Info => line!(
            INFO,
            record,
            "connection complete",
            bytes_sent = bytes_sent,
            bytes_recv = bytes_recv,
            duration = duration().as_str()
        ),
        Severity::Error => line!(
            ERROR,
            record,
            "connection complete",
            bytes_sent = bytes_sent,
            bytes_recv = bytes_recv,
            duration = duration().as_str(),
            error = outcome.to_string().as_str()
        ),
    }
}

/// Logs at warn that a connection from `src` to `dst` was refused before anything was known about it, unless too many of
/// the client's were.
pub(crate) fn refused(
    refusals: &Refusals,
    reporter: Reporter,
    (src, dst): (SocketAddr, SocketAddr),
    outcome: &Outcome,
) {
    let (src, dst) = (Party::at(src), Party::at(dst));
    let record = AccessRecord { reporter, src, dst, hbone_addr: None, service: None, left_out: 0 };
    unroutable(refusals, record, outcome);
}

/// Logs at warn that a connection had no next hop, unless too many of the client's had none. `record` holds what is known.
pub(crate) fn unroutable(refusals: &Refusals, mut record: AccessRecord<'_>, outcome: &Outcome) {
    match refusals.sample(record.src.addr.ip(), Instant::now()) {
        Sample::Written { left_out } => record.left_out = left_out,
        Sample::LeftOut => return,
    }
    line!(WARN, record, "connection failed", error = outcome.to_string().as_str());
}

/// Logs that an attempt failed and another one follows. The connection goes on.
pub(crate) fn tried_again(record: &AccessRecord<'_>, outcome: &Outcome) {
    tracing::event!(
        target: "conn",
        tracing::Level::INFO,
        src.addr = %record.src.addr,
        dst.addr = %record.dst.addr,
        dst.service = some(record.service),
        dst.workload = some(record.dst.workload),
        error = outcome.to_string().as_str(),
        "attempt failed, another endpoint is tried"
    );
}

/// The trace of the connection, if traces are exported and the connection's is.
fn trace_id() -> Option<String> {
    span::current_trace().map(|id| format!("{id:032x}"))
}

/// The value, if it is not empty.
fn some(value: Option<&str>) -> Option<&str> {
    value.filter(|value| !value.is_empty())
}

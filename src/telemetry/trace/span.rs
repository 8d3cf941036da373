//! The spans of connections: their start, their end, and their propagation across processes.
//!
//! Attributes have the names of the OpenTelemetry semantic conventions where these exist, else `warren.…`.

use std::{
    cell::OnceCell,
    fmt::Display,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use opentelemetry::{
    KeyValue, Value,
    trace::{SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use pin_project_lite::pin_project;
use tracing::{Instrument, Span, instrument::Instrumented};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    protocols::{hbone::headers::TraceParent, outcome::Outcome, peer_text::Clipped},
    telemetry::target::TRACE_TARGET,
};

/// The kinds of spans in the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// The span serves a request from outside the process.
    Server,
    /// The span is a request to another process.
    Client,
    /// The span is inside the process.
    Internal,
}

/// The span of a step. It ends when the value is dropped, even if the work is dropped half-way; it is disabled while
/// traces are off.
#[derive(Debug)]
pub struct Step(Span);

pin_project! {
    /// Work inside its own step, from [`Step::run`]. The step ends with the work, or when the work is dropped.
    #[must_use = "futures do nothing unless polled"]
    pub struct Run<F, D> {
        #[pin]
        work: Instrumented<F>,
        step: Option<Step>,
        describe: Option<D>,
    }
}

/// Writes facts about the output of a step's work into the step's span.
type Describe<T> = fn(Attributes<'_>, &T);

/// The spans around the set-up of a connection.
#[derive(Debug)]
pub struct Spans {
    logged: Span,
    traced: Span,
}

/// The attributes of a span.
#[derive(Clone, Copy)]
pub struct Attributes<'a>(&'a Span);

/// The names of the attributes that hold an address and its port.
#[derive(Clone, Copy, Debug)]
pub struct AddrKeys {
    address: &'static str,
    port: &'static str,
}

/// The trace of a connection, for as long as its report lives.
#[derive(Debug)]
pub struct Connection {
    span: Span,
    relay: OnceCell<Step>,
}

/// Whether traces are exported.
pub fn is_on() -> bool {
    tracing::span_enabled!(target: TRACE_TARGET, tracing::Level::INFO)
}

/// The first span of a connection in this process. It begins a trace, or continues the peer's.
fn connection(name: &'static str, from: Option<TraceParent>) -> Span {
    let span = made(name, SpanKind::Server, Parent::None);
    if let Some(from) = from.filter(|_| !span.is_disabled()) {
        let flags = if from.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let (trace, id) = (TraceId::from(from.trace_id), SpanId::from(from.span_id));
        let parent = SpanContext::new(trace, id, flags, true, TraceState::default());
        let context = opentelemetry::Context::new().with_remote_span_context(parent);
        // The call fails only for a span that has been started, which takes a child.
        let _ = span.set_parent(context);
    }
    span
}

/// The span of the calling task, if the span is one of this module.
pub fn current() -> Option<Span> {
    if !is_on() {
        return None;
    }
    Some(Span::current()).filter(|span| span.metadata().is_some_and(|meta| meta.target() == TRACE_TARGET))
}

/// The trace of the current span, if traces are exported and the span is part of one.
pub fn current_trace() -> Option<u128> {
    if is_on() { trace_of(&Span::current()) } else { None }
}

/// The id of the trace of `span`, if the span is one of this module.
pub fn trace_of(span: &Span) -> Option<u128> {
    span.metadata().filter(|meta| meta.target() == TRACE_TARGET)?;
    let context = span.context().span().span_context().clone();
    context.is_valid().then(|| u128::from_be_bytes(context.trace_id().to_bytes()))
}

/// Writes into the span of the calling task.
pub fn describe(write: impl FnOnce(Attributes<'_>)) {
    if let Some(span) = current() {
        write(Attributes(&span));
    }
}

/// Records that an actor died with a query, and that the query is repeated.
pub fn actor_lost(kind: &'static str) {
    describe(|span| _ = span.event("actor lost", vec![KeyValue::new("warren.actor.kind", kind)]));
}

/// Ends the connection of the calling task before it has been opened.
pub fn refused(outcome: &Outcome) {
    if let Some(span) = current() {
        Attributes(&span).outcome(outcome);
        end(&span);
    }
}

enum Parent<'a> {
    /// The caller's span is the parent.
    Current,
    /// This span is the parent.
    Span(&'a Span),
    /// The span has no parent and begins a trace.
    None,
}

fn made(name: &'static str, kind: SpanKind, parent: Parent<'_>) -> Span {
    let kind = match kind {
        SpanKind::Server => "server",
        SpanKind::Client => "client",
        SpanKind::Internal => "internal",
    };
    match parent {
        Parent::Current => {
            tracing::info_span!(target: TRACE_TARGET, "step", otel.name = name, otel.kind = kind)
        }
        Parent::Span(parent) => {
            tracing::info_span!(target: TRACE_TARGET, parent: parent, "step", otel.name = name, otel.kind = kind)
        }
        Parent::None => {
            tracing::info_span!(target: TRACE_TARGET, parent: None, "step", otel.name = name, otel.kind = kind)
        }
    }
}

/// Ends a span even while a span of the log inside it, which lives longer, still holds it.
fn end(span: &Span) {
    if !span.is_disabled() {
        span.context().span().end();
    }
}

// === impl Spans ===

impl Spans {
    /// The span `logged`, and the exported span inside it. Messages to actors carry the inner one.
    pub fn new(logged: Span, name: &'static str, from: Option<TraceParent>) -> Self {
        let traced = logged.in_scope(|| connection(name, from));
        Self { logged, traced }
    }

    /// Runs `work` inside both spans.
    pub fn around<F: Future>(self, work: F) -> Instrumented<Instrumented<F>> {
        work.instrument(self.traced).instrument(self.logged)
    }
}

// === impl Step ===

impl Step {
    /// A step inside the span of the calling task.
    pub fn new(name: &'static str, kind: SpanKind) -> Self {
        Self(made(name, kind, Parent::Current))
    }

    /// Runs `work` inside its own step, which is inside the span of the calling task.
    pub fn run<F: Future>(name: &'static str, kind: SpanKind, work: F) -> Run<F, Describe<F::Output>> {
        let step = Self::new(name, kind);
        Run { work: step.within(work), step: Some(step), describe: None }
    }

    /// A step inside `parent`; without a parent, the step is the first of a trace.
    pub fn inside(parent: Option<&Span>, name: &'static str, kind: SpanKind) -> Self {
        Self(made(name, kind, parent.map_or(Parent::None, Parent::Span)))
    }

    /// The span, for handing on.
    pub fn span(&self) -> &Span {
        &self.0
    }

    /// Runs `work` inside the step.
    pub fn within<F: Future>(&self, work: F) -> Instrumented<F> {
        work.instrument(self.0.clone())
    }

    /// Writes into the span, if there is one.
    pub fn describe(&self, write: impl FnOnce(Attributes<'_>)) {
        if !self.0.is_disabled() {
            write(Attributes(&self.0));
        }
    }

    /// The trace parent that a peer receives, so that the peer's spans belong to the step.
    pub fn trace_parent(&self) -> Option<TraceParent> {
        trace_parent(&self.0)
    }
}

/// The trace parent of what happens inside `span` elsewhere.
fn trace_parent(span: &Span) -> Option<TraceParent> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context().span().span_context().clone();
    context.is_valid().then(|| TraceParent {
        trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(context.span_id().to_bytes()),
        sampled: context.is_sampled(),
    })
}

impl Drop for Step {
    fn drop(&mut self) {
        end(&self.0);
    }
}

// === impl Run ===

impl<F: Future, D> Run<F, D> {
    /// Lets `describe` write into the step's span once the work is done. While traces are off, `describe` is not
    /// called.
    pub fn describe<E: FnOnce(Attributes<'_>, &F::Output)>(self, describe: E) -> Run<F, E> {
        Run { work: self.work, step: self.step, describe: Some(describe) }
    }
}

impl<F: Future, D: FnOnce(Attributes<'_>, &F::Output)> Future for Run<F, D> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let output = ready!(this.work.poll(cx));
        // The step ends here, although the caller may keep this future for longer.
        if let (Some(step), Some(describe)) = (this.step.take(), this.describe.take()) {
            step.describe(|span| describe(span, &output));
        }
        Poll::Ready(output)
    }
}

// === impl Attributes ===

impl Attributes<'_> {
    /// Sets an attribute.
    pub fn set(self, key: &'static str, value: impl Into<Value>) -> Self {
        self.0.set_attribute(key, value);
        self
    }

    /// Sets an attribute if there is a value.
    pub fn set_option(self, key: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.set(key, value),
            None => self,
        }
    }

    /// Sets an address and its port under `keys`.
    pub fn addr(self, keys: AddrKeys, addr: SocketAddr) -> Self {
        self.set(keys.address, addr.ip().to_string()).set(keys.port, i64::from(addr.port()))
    }

    /// Marks the span as failed.
    pub fn failed(self, kind: &'static str, why: impl Display) -> Self {
        self.0.set_status(Status::error(Clipped::<_>(why).to_string()));
        self.set("error.type", kind)
    }

    /// Marks the span as failed if `result` is.
    pub fn result<T, E: Display>(self, kind: &'static str, result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => self,
            Err(error) => self.failed(kind, error),
        }
    }

    /// Marks the span as failed if `result` is an error, or if the work was given up.
    pub fn timed_result<T, E: Display>(self, kind: &'static str, result: &Option<Result<T, E>>) -> Self {
        match result {
            Some(result) => self.result(kind, result),
            None => self.failed("timeout", "given up for another endpoint"),
        }
    }

    /// Sets the outcome of a connection. A drain is no failure.
    pub fn outcome(self, outcome: &Outcome) -> Self {
        let flag = outcome.flag().as_str();
        let this = self.set("warren.end", outcome.to_string()).set("warren.response_flags", flag);
        if flag == "-" { this } else { this.failed(flag, outcome) }
    }

    /// Adds an event.
    pub fn event(self, name: &'static str, attributes: Vec<KeyValue>) -> Self {
        self.0.add_event(name, attributes);
        self
    }
}

/// Keys of the client's address.
pub const CLIENT: AddrKeys = AddrKeys { address: "client.address", port: "client.port" };
/// Keys of the requested address.
pub const SERVER: AddrKeys = AddrKeys { address: "server.address", port: "server.port" };
/// Keys of the address that the proxy connects to.
pub const PEER: AddrKeys = AddrKeys { address: "network.peer.address", port: "network.peer.port" };

// === impl Connection ===

impl Connection {
    /// The trace of the connection that the calling task sets up; none while traces are off.
    pub fn current() -> Option<Box<Self>> {
        current().map(|span| Box::new(Self { span, relay: OnceCell::new() }))
    }

    /// Writes into the connection's span.
    pub fn describe(&self, write: impl FnOnce(Attributes<'_>)) {
        write(Attributes(&self.span));
    }

    /// Runs `work` inside the connection's span, so that its log lines belong to the span.
    pub fn within(&self, work: impl FnOnce()) {
        self.span.in_scope(work);
    }

    /// Records that the connection relays bytes from here on.
    pub fn relaying(&self) {
        self.relay.get_or_init(|| Step::inside(Some(&self.span), "relay", SpanKind::Internal));
    }

    /// The trace parent that the next process receives, so that its span belongs to the connection's.
    pub fn trace_parent(&self) -> Option<TraceParent> {
        trace_parent(&self.span)
    }

    /// Records that another process goes on with the connection.
    pub fn handed_over(self) {
        Attributes(&self.span).event("handed over", Vec::new());
        drop(self.relay);
        end(&self.span);
    }

    /// Records that an attempt failed and another one is made.
    pub fn tries_again(self, after: &Outcome, to: SocketAddr) {
        let why = KeyValue::new("warren.end", after.to_string());
        let to = KeyValue::new("network.peer.address", to.to_string());
        Attributes(&self.span).event("attempt failed", vec![to, why]);
    }

    /// The connection has ended.
    pub fn end(mut self, outcome: &Outcome, received: u64, sent: u64) {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let write = |span: Attributes<'_>| {
            let span =
                span.set("warren.bytes.received", count(received)).set("warren.bytes.sent", count(sent));
            span.outcome(outcome);
        };
        if let Some(relay) = self.relay.take() {
            relay.describe(write);
        }
        write(Attributes(&self.span));
        end(&self.span);
    }
}

//! The log's events as OTLP log records.

use std::{
    fmt::{self, Debug, Write},
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};
use prost::Message as _;
use tracing::{
    Dispatch, Event, Level, Subscriber,
    dispatcher::WeakDispatch,
    field::{Field, Visit},
    span::{self, Attributes},
};
use tracing_subscriber::{
    Layer,
    layer::Context,
    registry::{LookupSpan, SpanRef},
};

use super::{
    attribute, is_exporter,
    queue::{Item, Queue},
    scope,
};
use crate::telemetry::trace::span::TARGET;

/// Longest text of a record's body or of one of its attributes.
/// Limit: text of a log record or of one of its attributes: 16 KiB; past it: the text is cut.
const TEXT_BYTES: usize = 16 << 10;

/// Makes records of the log's events, and queues them.
#[derive(Debug)]
pub(in crate::telemetry) struct Records {
    queue: Queue<Record>,
    /// Where the events come from, to ask for the traces of their spans.
    dispatch: OnceLock<WeakDispatch>,
}

/// An event to be exported.
#[derive(Debug)]
pub(in crate::telemetry) struct Record {
    target: &'static str,
    record: LogRecord,
}

/// The fields of a span of the log, as attributes of the records inside.
#[derive(Debug, Default)]
struct SpanFields(Vec<KeyValue>);

/// Fields as they are visited.
struct Fields<'a> {
    /// The span they are of, if they are none of the event's own.
    span: Option<&'a str>,
    attributes: &'a mut Vec<KeyValue>,
    message: Option<String>,
}

/// Text up to its bound.
#[derive(Default)]
struct Bounded(String);

// === impl Records ===

impl Records {
    pub(in crate::telemetry) fn new(queue: Queue<Record>) -> Self {
        Self { queue, dispatch: OnceLock::new() }
    }

    /// The trace and the span, and whether the trace is exported.
    fn trace<S: for<'a> LookupSpan<'a>>(&self, span: &SpanRef<'_, S>) -> Option<(Vec<u8>, Vec<u8>, u32)> {
        let dispatch = self.dispatch.get()?.upgrade()?;
        let context = tracing_opentelemetry::get_otel_context(&span.id(), &dispatch)?;
        let context = context.span().span_context().clone();
        let flags = u32::from(context.trace_flags().to_u8());
        let ids = (context.trace_id().to_bytes().to_vec(), context.span_id().to_bytes().to_vec());
        context.is_valid().then_some((ids.0, ids.1, flags))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Records {
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        // The first is the only one.
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &span::Id, cx: Context<'_, S>) {
        let Some(span) = cx.span(id).filter(|span| span.metadata().target() != TARGET) else { return };
        let mut fields = SpanFields::default();
        attributes.record(&mut Fields::of(Some(span.name()), &mut fields.0));
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, cx: Context<'_, S>) {
        let Some(span) = cx.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<SpanFields>() {
            values.record(&mut Fields::of(Some(span.name()), &mut fields.0));
        }
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        if is_exporter() {
            return;
        }
        let mut attributes = Vec::new();
        let mut fields = Fields::of(None, &mut attributes);
        event.record(&mut fields);
        let message = fields.message.unwrap_or_default();
        let mut trace = None;
        for span in cx.event_scope(event).into_iter().flatten() {
            if span.metadata().target() == TARGET {
                trace = trace.or_else(|| self.trace(&span));
            } else if let Some(fields) = span.extensions().get::<SpanFields>() {
                attributes.extend_from_slice(&fields.0);
            }
        }
        let (trace_id, span_id, flags) = trace.unwrap_or_default();
        let (severity, name) = severity(*event.metadata().level());
        let now = nanos(SystemTime::now());
        let record = LogRecord {
            time_unix_nano: now,
            observed_time_unix_nano: now,
            severity_number: severity.into(),
            severity_text: name.to_owned(),
            body: Some(AnyValue { value: Some(Value::StringValue(message)) }),
            attributes,
            flags,
            trace_id,
            span_id,
            ..LogRecord::default()
        };
        self.queue.push(Record { target: event.metadata().target(), record });
    }
}

/// Nanoseconds since 1970.
pub(super) fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The specification's number, and the word of the log's lines.
fn severity(level: Level) -> (SeverityNumber, &'static str) {
    match level {
        Level::ERROR => (SeverityNumber::Error, "error"),
        Level::WARN => (SeverityNumber::Warn, "warn"),
        Level::INFO => (SeverityNumber::Info, "info"),
        Level::DEBUG => (SeverityNumber::Debug, "debug"),
        Level::TRACE => (SeverityNumber::Trace, "trace"),
    }
}

// === impl Record ===

impl Item for Record {
    type Request = ExportLogsServiceRequest;

    fn bytes(&self) -> usize {
        self.record.encoded_len()
    }

    /// Events of one target are one scope.
    fn request(batch: Vec<Self>, resource: &Resource) -> ExportLogsServiceRequest {
        let mut scopes: Vec<(&'static str, ScopeLogs)> = Vec::new();
        for Record { target, record } in batch {
            match scopes.iter_mut().find(|(name, _)| *name == target) {
                Some((_, logs)) => logs.log_records.push(record),
                None => {
                    let log_records = vec![record];
                    let logs = ScopeLogs { scope: Some(scope(target)), log_records, ..ScopeLogs::default() };
                    scopes.push((target, logs));
                }
            }
        }
        let scope_logs = scopes.into_iter().map(|(_, logs)| logs).collect();
        let resource = Some(resource.clone());
        let resource_logs = vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }];
        ExportLogsServiceRequest { resource_logs }
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    fn of(span: Option<&'a str>, attributes: &'a mut Vec<KeyValue>) -> Self {
        Self { span, attributes, message: None }
    }

    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name().strip_prefix("r#").unwrap_or(field.name());
        let key = match self.span {
            Some(span) => format!("{span}.{name}"),
            None => name.to_owned(),
        };
        self.attributes.push(attribute(key, value));
    }

    fn put_text(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        let mut bounded = Bounded::default();
        // Fails once the bound is reached: what is there by then stands.
        let _ = bounded.write_fmt(text);
        if self.span.is_none() && field.name() == "message" {
            self.message = Some(bounded.0);
        } else {
            self.put(field, Value::StringValue(bounded.0));
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put_text(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::IntValue(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.put(field, Value::IntValue(value)),
            Err(_) => self.put_text(field, format_args!("{value}")),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::BoolValue(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::DoubleValue(value));
    }
}

// === impl Bounded ===

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT_BYTES - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let whole = text.floor_char_boundary(room);
        self.0.push_str(text.get(..whole).unwrap_or_default());
        Err(fmt::Error)
    }
}

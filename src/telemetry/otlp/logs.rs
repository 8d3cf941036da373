//! The log's events as OTLP log records.

use std::{
    fmt::{self, Debug, Write},
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use opentelemetry::{
    Key,
    logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity},
    trace::{SpanContext, TraceContextExt as _},
};
use opentelemetry_otlp::LogExporter;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    logs::{LogBatch, LogExporter as _, SdkLogRecord, SdkLogger, SdkLoggerProvider},
};
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
    collector::{Batch, Collector, Transport, build_error},
    http::Answers,
    is_exporter_thread,
    queue::{Item, Queue},
    scope,
};
use crate::telemetry::target::TRACE_TARGET;

/// The longest text of a record's body or of one of its attributes.
///
/// Limit: text of a log record or of one of its attributes: 16 KiB; past it: the text is cut.
const LOG_TEXT_BYTES: usize = 16 << 10;
/// The size that counts for a record besides its texts: times, severity, ids.
///
/// No limit: the fixed part of a record's size.
const LOG_RECORD_BYTES: usize = 64;

/// Makes records of the log's events, and queues the records.
#[derive(Debug)]
pub(in crate::telemetry) struct LogRecordLayer {
    /// Makes empty records. It has no processor, so nothing is emitted.
    logger: SdkLogger,
    queue: Queue<Record>,
    /// The dispatch of the events, which gives the traces of their spans.
    dispatch: OnceLock<WeakDispatch>,
}

/// An event to be exported.
#[derive(Debug)]
pub(in crate::telemetry) struct Record {
    record: SdkLogRecord,
    bytes: usize,
}

/// The fields of a span of the log, as attributes of the records inside.
#[derive(Debug, Default)]
struct SpanFields(Vec<(Key, AnyValue)>);

/// Fields as they are visited.
struct Fields<'a> {
    /// The span that the fields belong to; none for the event's own fields.
    span: Option<&'a str>,
    attributes: &'a mut Vec<(Key, AnyValue)>,
    message: Option<String>,
}

/// A text that is cut at its bound.
#[derive(Default)]
struct BoundedText(String);

// === impl LogRecordLayer ===

impl LogRecordLayer {
    pub(in crate::telemetry) fn new(queue: Queue<Record>) -> Self {
        let logger = SdkLoggerProvider::builder().build().logger("warren");
        Self { logger, queue, dispatch: OnceLock::new() }
    }

    /// The context of the exported span that belongs to `span`.
    fn trace<S: for<'a> LookupSpan<'a>>(&self, span: &SpanRef<'_, S>) -> Option<SpanContext> {
        let dispatch = self.dispatch.get()?.upgrade()?;
        let context = tracing_opentelemetry::get_otel_context(&span.id(), &dispatch)?;
        let context = context.span().span_context().clone();
        context.is_valid().then_some(context)
    }

    fn record(&self, event: &Event<'_>, message: String, attributes: Vec<(Key, AnyValue)>) -> Record {
        let texts = |pair: &(Key, AnyValue)| pair.0.as_str().len() + bytes(&pair.1);
        let bytes = LOG_RECORD_BYTES + message.len() + attributes.iter().map(texts).sum::<usize>();
        let (severity, name) = severity(*event.metadata().level());
        let now = SystemTime::now();
        let mut record = self.logger.create_log_record();
        record.set_target(event.metadata().target());
        record.set_timestamp(now);
        record.set_observed_timestamp(now);
        record.set_severity_number(severity);
        record.set_severity_text(name);
        record.set_body(message.into());
        record.add_attributes(attributes);
        Record { record, bytes }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogRecordLayer {
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        // Only the first dispatch counts.
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &span::Id, cx: Context<'_, S>) {
        let Some(span) = cx.span(id).filter(|span| span.metadata().target() != TRACE_TARGET) else { return };
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
        if is_exporter_thread() {
            return;
        }
        let mut attributes = Vec::new();
        let mut fields = Fields::of(None, &mut attributes);
        event.record(&mut fields);
        let message = fields.message.unwrap_or_default();
        let mut trace = None;
        for span in cx.event_scope(event).into_iter().flatten() {
            if span.metadata().target() == TRACE_TARGET {
                trace = trace.or_else(|| self.trace(&span));
            } else if let Some(fields) = span.extensions().get::<SpanFields>() {
                attributes.extend_from_slice(&fields.0);
            }
        }
        let mut record = self.record(event, message, attributes);
        if let Some(trace) = trace {
            let (id, span, flags) = (trace.trace_id(), trace.span_id(), trace.trace_flags());
            record.record.set_trace_context(id, span, Some(flags));
        }
        self.queue.push(record);
    }
}

/// The specification's severity number, and the word in the log's lines.
fn severity(level: Level) -> (Severity, &'static str) {
    match level {
        Level::ERROR => (Severity::Error, "error"),
        Level::WARN => (Severity::Warn, "warn"),
        Level::INFO => (Severity::Info, "info"),
        Level::DEBUG => (Severity::Debug, "debug"),
        Level::TRACE => (Severity::Trace, "trace"),
    }
}

/// The size of a value that is a text or a number.
fn bytes(value: &AnyValue) -> usize {
    match value {
        AnyValue::String(text) => text.as_str().len(),
        _ => size_of::<u64>(),
    }
}

// === impl Record ===

impl Item for Record {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Batch for Vec<Record> {
    type Exporter = LogExporter;

    fn exporter(collector: &Collector, answers: &Arc<Answers>) -> Result<LogExporter, String> {
        let builder = LogExporter::builder();
        let built = match collector.transport(answers)? {
            Transport::Grpc(grpc) => grpc.configure(builder.with_tonic()).build(),
            Transport::Http(http) => http.configure(builder.with_http()).build(),
        };
        let mut exporter = built.map_err(|error| build_error(&error))?;
        exporter.set_resource(collector.resource());
        Ok(exporter)
    }

    /// The exporter puts all events of one target into one scope.
    async fn export(self, exporter: &LogExporter) -> OTelSdkResult {
        let scope = scope("warren");
        let records: Vec<_> = self.iter().map(|record| (&record.record, &scope)).collect();
        exporter.export(LogBatch::new(&records)).await
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    fn of(span: Option<&'a str>, attributes: &'a mut Vec<(Key, AnyValue)>) -> Self {
        Self { span, attributes, message: None }
    }

    fn put(&mut self, field: &Field, value: impl Into<AnyValue>) {
        let name = field.name().strip_prefix("r#").unwrap_or(field.name());
        let key = match self.span {
            Some(span) => Key::new(format!("{span}.{name}")),
            None => Key::new(name),
        };
        self.attributes.push((key, value.into()));
    }

    fn put_text(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        let mut bounded = BoundedText::default();
        // The write fails once the bound is reached; the text up to the bound stays.
        let _ = bounded.write_fmt(text);
        if self.span.is_none() && field.name() == "message" {
            self.message = Some(bounded.0);
        } else {
            self.put(field, bounded.0);
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
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.put(field, value),
            Err(_) => self.put_text(field, format_args!("{value}")),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

// === impl BoundedText ===

impl Write for BoundedText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LOG_TEXT_BYTES - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let whole = text.floor_char_boundary(room);
        self.0.push_str(text.get(..whole).unwrap_or_default());
        Err(fmt::Error)
    }
}

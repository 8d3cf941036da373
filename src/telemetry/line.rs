//! The two line formats of the log (docs/spec/controlplane.md 6.1).

use std::fmt::{self, Write as _};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::Record,
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use crate::protocols::config::LogFormat;

/// Formats whole lines.
pub(super) struct Lines(pub LogFormat);

/// Formats the fields of spans and of events.
pub(super) struct Fields(pub LogFormat);

/// Writes fields as they are visited, leaving out the message.
struct FieldWriter<'a> {
    out: &'a mut dyn fmt::Write,
    format: LogFormat,
    /// The separator before the next field.
    separator: &'static str,
    result: fmt::Result,
}

/// Writes the message alone.
struct MessageWriter<'a> {
    out: &'a mut dyn fmt::Write,
    format: LogFormat,
    result: fmt::Result,
}

/// Keeps control characters out of a line: a peer's text must not end the line or control a terminal.
struct Bare<'a>(&'a mut dyn fmt::Write);

/// Writes the inside of a JSON string.
struct Quoted<'a>(&'a mut dyn fmt::Write);

// === impl Lines ===

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self.0 {
            LogFormat::Plain => plain(context, &mut out, event),
            LogFormat::Json => json(context, &mut out, event),
        }
    }
}

fn plain<S, N>(context: &FmtContext<'_, S, N>, out: &mut Writer<'_>, event: &Event<'_>) -> fmt::Result
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let metadata = event.metadata();
    SystemTime.format_time(out)?;
    let scope = metadata.target();
    write!(out, "\t{}\t{}", level(metadata), scope.strip_prefix("warren::").unwrap_or(scope))?;
    for span in context.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
        write!(out, ":{}", span.name())?;
        if let Some(fields) = span.extensions().get::<FormattedFields<N>>().filter(|f| !f.is_empty()) {
            write!(out, "{{{fields}}}")?;
        }
    }
    out.write_char('\t')?;
    MessageWriter::write(out, LogFormat::Plain, event)?;
    out.write_char('\t')?;
    FieldWriter::write(out, LogFormat::Plain, "", event)?;
    out.write_char('\n')
}

fn json<S, N>(context: &FmtContext<'_, S, N>, out: &mut Writer<'_>, event: &Event<'_>) -> fmt::Result
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let metadata = event.metadata();
    write!(out, "{{\"level\":\"{}\",\"time\":\"", level(metadata))?;
    SystemTime.format_time(out)?;
    write!(out, "\",\"scope\":\"{}\",\"message\":\"", metadata.target())?;
    MessageWriter::write(out, LogFormat::Json, event)?;
    out.write_char('"')?;
    FieldWriter::write(out, LogFormat::Json, ",", event)?;
    for span in context.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
        write!(out, ",\"{}\":{{", span.name())?;
        if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
            out.write_str(fields.fields.as_str())?;
        }
        out.write_char('}')?;
    }
    out.write_str("}\n")
}

fn level(metadata: &tracing::Metadata<'_>) -> &'static str {
    match *metadata.level() {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG => "debug",
        tracing::Level::TRACE => "trace",
    }
}

// === impl Fields ===

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, mut out: Writer<'w>, fields: R) -> fmt::Result {
        FieldWriter::write(&mut out, self.0, "", fields)
    }

    fn add_fields(&self, current: &'w mut FormattedFields<Self>, fields: &Record<'_>) -> fmt::Result {
        let separator = match (current.is_empty(), self.0) {
            (true, _) => "",
            (false, LogFormat::Plain) => " ",
            (false, LogFormat::Json) => ",",
        };
        FieldWriter::write(&mut current.as_writer(), self.0, separator, fields)
    }
}

// === impl FieldWriter ===

impl<'a> FieldWriter<'a> {
    fn write<R: RecordFields>(
        out: &'a mut dyn fmt::Write,
        format: LogFormat,
        separator: &'static str,
        fields: R,
    ) -> fmt::Result {
        let mut writer = Self { out, format, separator, result: Ok(()) };
        fields.record(&mut writer);
        writer.result
    }

    /// Writes a field; `json` tells how to quote its value.
    fn field(&mut self, field: &Field, value: fmt::Arguments<'_>, is_number: bool) {
        if field.name() == "message" || self.result.is_err() {
            return;
        }
        let name = field.name().strip_prefix("r#").unwrap_or(field.name());
        self.result = match self.format {
            LogFormat::Plain => {
                write!(self.out, "{}{name}=", self.separator).and_then(|()| Bare(self.out).write_fmt(value))
            }
            LogFormat::Json if is_number => write!(self.out, "{}\"{name}\":{value}", self.separator),
            LogFormat::Json => write!(self.out, "{}\"{name}\":\"", self.separator)
                .and_then(|()| Quoted(self.out).write_fmt(value))
                .and_then(|()| self.out.write_char('"')),
        };
        self.separator = match self.format {
            LogFormat::Plain => " ",
            LogFormat::Json => ",",
        };
    }
}

impl Visit for FieldWriter<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, format_args!("{value:?}"), false);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match self.format {
            LogFormat::Plain => self.field(field, format_args!("{value:?}"), false),
            LogFormat::Json => self.field(field, format_args!("{value}"), false),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, format_args!("{value}"), true);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, format_args!("{value}"), true);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, format_args!("{value}"), true);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, format_args!("{value}"), value.is_finite());
    }
}

// === impl MessageWriter ===

impl<'a> MessageWriter<'a> {
    fn write(out: &'a mut dyn fmt::Write, format: LogFormat, event: &Event<'_>) -> fmt::Result {
        let mut writer = Self { out, format, result: Ok(()) };
        event.record(&mut writer);
        writer.result
    }
}

impl Visit for MessageWriter<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != "message" || self.result.is_err() {
            return;
        }
        self.result = match self.format {
            LogFormat::Plain => write!(Bare(self.out), "{value:?}"),
            LogFormat::Json => write!(Quoted(self.out), "{value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

// === impl Bare ===

impl fmt::Write for Bare<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escaped(self.0, text, |c| c.is_control(), |out, c| write!(out, "{}", c.escape_default()))
    }
}

// === impl Quoted ===

impl fmt::Write for Quoted<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escaped(
            self.0,
            text,
            |c| c.is_control() || matches!(c, '"' | '\\'),
            |out, c| match c {
                '"' => out.write_str("\\\""),
                '\\' => out.write_str("\\\\"),
                '\n' => out.write_str("\\n"),
                '\t' => out.write_str("\\t"),
                '\r' => out.write_str("\\r"),
                other => write!(out, "\\u{:04x}", u32::from(other)),
            },
        )
    }
}

/// Writes `text`. The characters that are `special` are written by `escape`, and the runs between them unchanged.
fn escaped(
    out: &mut dyn fmt::Write,
    text: &str,
    special: impl Fn(char) -> bool + Copy,
    escape: impl Fn(&mut dyn fmt::Write, char) -> fmt::Result,
) -> fmt::Result {
    for run in text.split_inclusive(special) {
        match run.chars().next_back().filter(|c| special(*c)) {
            Some(last) => {
                out.write_str(run.strip_suffix(last).unwrap_or(run))?;
                escape(out, last)?;
            }
            None => out.write_str(run)?,
        }
    }
    Ok(())
}

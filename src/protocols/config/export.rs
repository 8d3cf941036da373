//! Which telemetry is exported, and how: the environment variables of the OpenTelemetry specification. It leaves the
//! endpoint at a default of its own; here no endpoint means no export.

use std::time::Duration;

use serde::Serialize;

use super::{
    otlp::{CollectorConfig, CollectorVars, ExportQueue, MILLIS_MAX, Names, QueueVars, resource},
    reader::Reader,
    summary,
    traces::{Sampling, TraceConfig},
    value,
    var::Var,
};

/// Shortest interval of metrics, in milliseconds.
/// Limit: time between two exports of metrics, at least: 100 ms; past it: a shorter setting is refused.
const INTERVAL_MIN: u64 = 100;

/// What is exported by OTLP.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OtlpConfig {
    /// Traces of connections; `None`: there are none.
    pub traces: Option<TraceConfig>,
    /// The lines of the log; `None`: they go to standard output alone.
    pub logs: Option<LogExport>,
    /// What a scrape holds; `None`: it is scraped or not read at all.
    pub metrics: Option<MetricExport>,
    /// What the resource holds besides what is known of the node.
    pub resource: Vec<(String, String)>,
}

/// How log records are exported.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogExport {
    /// The collector that receives the export.
    pub collector: CollectorConfig,
    /// The queue of the exporter.
    pub queue: ExportQueue,
}

/// How metrics are exported.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricExport {
    /// The collector that receives the export.
    pub collector: CollectorConfig,
    /// The interval between two exports.
    #[serde(serialize_with = "summary::duration")]
    pub interval: Duration,
    /// How long one export may take, with all its requests.
    #[serde(serialize_with = "summary::duration")]
    pub timeout: Duration,
}

static TRACES: Names = Names {
    exporter: Var::new(
        "OTEL_TRACES_EXPORTER",
        "`otlp` or `none`",
        "otlp",
        "Traces of connections are exported if there is an endpoint.",
    ),
    always: "none",
    path: "v1/traces",
    collector: CollectorVars::new([
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    ]),
};

static LOGS: Names = Names {
    exporter: Var::new(
        "OTEL_LOGS_EXPORTER",
        "`otlp`, `console`, `none`, or a list",
        "none",
        "With `otlp`, what the log's filter lets through is exported, the access log included. `console` is always on.",
    ),
    always: "console",
    path: "v1/logs",
    collector: CollectorVars::new([
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
        "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
        "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION",
        "OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY",
    ]),
};

static METRICS: Names = Names {
    exporter: Var::new(
        "OTEL_METRICS_EXPORTER",
        "`otlp`, `prometheus`, `none`, or a list",
        "none",
        "With `otlp`, what `/stats/prometheus` has is exported. `prometheus` is always on.",
    ),
    always: "prometheus",
    path: "v1/metrics",
    collector: CollectorVars::new([
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
        "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
        "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
        "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY",
    ]),
};

static SPANS: QueueVars = QueueVars {
    items: Var::number("OTEL_BSP_MAX_QUEUE_SIZE", "2048", "Spans that may wait."),
    batch: Var::number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512", "Spans of one request."),
    delay: Var::new("OTEL_BSP_SCHEDULE_DELAY", "milliseconds", "5000", "How long spans gather."),
};

static RECORDS: QueueVars = QueueVars {
    items: Var::number("OTEL_BLRP_MAX_QUEUE_SIZE", "2048", "Log records that may wait."),
    batch: Var::number("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "512", "Log records of one request."),
    delay: Var::new("OTEL_BLRP_SCHEDULE_DELAY", "milliseconds", "1000", "How long log records gather."),
};

const DISABLED: Var =
    Var::flag("OTEL_SDK_DISABLED", "false", "With `true`, neither traces nor logs nor metrics are exported.");
const INTERVAL: Var = Var::new(
    "OTEL_METRIC_EXPORT_INTERVAL",
    "milliseconds, at least 100",
    "60000",
    "Time from one export of metrics to the next.",
);
const TIMEOUT: Var = Var::new(
    "OTEL_METRIC_EXPORT_TIMEOUT",
    "milliseconds",
    "30000",
    "How long one export of metrics may take.",
);
const PROPAGATORS: Var = Var::new(
    "OTEL_PROPAGATORS",
    "list",
    "tracecontext",
    "The context goes in `traceparent` of CONNECT requests. A list without `tracecontext` is refused.",
);

// === impl OtlpConfig ===

impl OtlpConfig {
    /// Reads all variables, so that each bad variable is reported even if no telemetry is exported.
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let disabled = r.boolean(&DISABLED);
        propagators(r);
        let mut collector = |names: &'static Names, default| {
            let wanted = wanted(r, names);
            let collector = CollectorConfig::read(r, names);
            if wanted == Some(true) && collector.is_none() {
                r.warn(names.exporter.name, "otlp", "nothing is exported: there is no endpoint".into());
            }
            collector.filter(|_| wanted.unwrap_or(default) && !disabled)
        };
        let (traces, logs, metrics) =
            (collector(&TRACES, true), collector(&LOGS, false), collector(&METRICS, false));
        let (sampling, spans) = (Sampling::read(r), ExportQueue::read(r, &SPANS));
        let records = ExportQueue::read(r, &RECORDS);
        let mut millis = |var, least| {
            let millis = r.parse_or_default(var, |text| value::number(text, &(least..=MILLIS_MAX)));
            Duration::from_millis(millis.unwrap_or_default())
        };
        let (interval, timeout) = (millis(&INTERVAL, INTERVAL_MIN), millis(&TIMEOUT, 1));
        Self {
            traces: traces.map(|collector| TraceConfig { collector, sampling, queue: spans }),
            logs: logs.map(|collector| LogExport { collector, queue: records }),
            metrics: metrics.map(|collector| MetricExport { collector, interval, timeout }),
            resource: resource(r),
        }
    }
}

/// Whether the settings ask for an export: a list of exporters.
fn wanted(r: &mut Reader<'_>, names: &'static Names) -> Option<bool> {
    r.parse(&names.exporter, |list| {
        let (mut otlp, always) = (false, names.always);
        for name in list.split(',').map(str::trim) {
            match name {
                "otlp" => otlp = true,
                "none" => {}
                name if name == always => {}
                _ if always == "none" => return Err("not otlp or none".into()),
                _ => return Err(format!("not otlp, {always} or none")),
            }
        }
        Ok(otlp)
    })
}

/// Refuses a list of propagators without `tracecontext`, which is the only propagator.
fn propagators(r: &mut Reader<'_>) {
    let known = |list: &str| list.split(',').any(|name| name.trim() == "tracecontext");
    r.parse(&PROPAGATORS, |list| {
        if known(list) { Ok(()) } else { Err("tracecontext is the only one, and always on".into()) }
    });
}

#[cfg(test)]
mod tests;

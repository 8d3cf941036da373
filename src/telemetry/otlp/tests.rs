//! Log records as a collector gets them over a real socket.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpListener,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
};
use prost::Message as _;

use crate::{
    protocols::config::{self, Inputs, LogFormat},
    telemetry::{
        export::Export,
        log::{LogHandle, Logging},
        metrics::Metrics,
        trace::{
            span::{SpanKind, Step},
            tests::NoTls,
        },
    },
};

/// A collector that answers HTTP requests with these statuses, one after another and then with 200, and gives the bodies
/// of those it took.
fn collector(statuses: &'static [u16]) -> (String, mpsc::Receiver<Vec<u8>>) {
    answering(statuses, Vec::new())
}

/// The same with `answer` as the body of each answer.
fn answering(statuses: &'static [u16], answer: Vec<u8>) -> (String, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (took, taken) = mpsc::channel();
    thread::spawn(move || {
        let mut statuses = statuses.iter().copied();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut read, mut chunk) = (Vec::new(), [0; 4096]);
            let body = loop {
                let n = stream.read(&mut chunk).unwrap();
                read.extend_from_slice(&chunk[..n]);
                let Some(end) = read.windows(4).position(|part| part == b"\r\n\r\n") else { continue };
                let head = String::from_utf8(read[..end].to_vec()).unwrap().to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                if read.len() >= end + 4 + length.parse::<usize>().unwrap() {
                    assert!(head.starts_with("post /v1/"), "{head}");
                    break read.split_off(end + 4);
                }
            };
            let status = statuses.next().unwrap_or(200);
            // Before the answer: with the answer the export ends, and the test looks at what was taken.
            if status == 200 && took.send(body).is_err() {
                return;
            }
            let length = answer.len();
            write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")
                .unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    (endpoint, taken)
}

/// Does `work` with a log whose events are exported; gives the export's metrics once all is done.
fn exported(vars: &[(&str, &str)], filter: &str, work: impl FnOnce(&LogHandle)) -> String {
    let vars: BTreeMap<String, String> =
        vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let config = config::parse(&Inputs {
        vars: &vars,
        mesh_file: None,
        cores: 1,
        memory: Default::default(),
        file_exists: &|_| false,
        fake_ca_allowed: false,
    });
    let config = config.unwrap();
    let mut export = Export::start(&config.process.otlp, &config.node, Arc::new(NoTls)).unwrap().unwrap();
    export.set_flush_within(Duration::from_secs(60));
    let metrics = Metrics::new("x").unwrap();
    export.attach(&metrics).unwrap();
    let made = Logging::with(std::io::sink(), LogFormat::Plain, filter.parse().unwrap(), Some(export));
    let (dispatch, logging) = made.unwrap();
    tracing::dispatcher::with_default(&dispatch, || work(&logging.handle()));
    drop(logging);
    metrics.encode()
}

fn records(bodies: impl IntoIterator<Item = Vec<u8>>) -> Vec<(String, LogRecord)> {
    let bodies = bodies.into_iter().map(|body| ExportLogsServiceRequest::decode(body.as_slice()).unwrap());
    let scopes = bodies.flat_map(|request| request.resource_logs).flat_map(|part| part.scope_logs);
    let named = scopes.flat_map(|logs| {
        let scope = logs.scope.unwrap_or_default().name;
        logs.log_records.into_iter().map(move |record| (scope.clone(), record))
    });
    named.collect()
}

fn body(record: &LogRecord) -> String {
    match record.body.as_ref().and_then(|body| body.value.clone()) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn attribute(record: &LogRecord, key: &str) -> Option<Value> {
    let pair: Option<&KeyValue> = record.attributes.iter().find(|pair| pair.key == key);
    pair.and_then(|pair| pair.value.clone()).and_then(|value| value.value)
}

fn logs_only(endpoint: &str) -> [(&str, &str); 3] {
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_TRACES_EXPORTER", "none"),
    ]
}

#[test]
fn events_become_records_with_their_fields_and_those_of_their_spans() {
    let (endpoint, taken) = collector(&[]);
    let text = exported(&logs_only(&endpoint), "info,conn=debug", |_| {
        let span = tracing::debug_span!(target: "conn", "outbound", peer = 7);
        span.in_scope(|| {
            tracing::warn!(
                target: "access",
                count = 3u64,
                huge = u64::MAX,
                share = 0.5,
                is = true,
                name = "a\tb",
                shown = ?Some(1),
                "said {}",
                "so"
            );
        });
        tracing::debug!(target: "access", "not let through");
        tracing::info!(target: "main", long = "é".repeat(20_000).as_str(), "second");
    });
    let mut records = records(taken.try_iter());
    records.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(records.iter().map(|(scope, _)| scope.as_str()).collect::<Vec<_>>(), ["access", "main"]);
    let first = &records[0].1;
    assert_eq!(
        (body(first).as_str(), first.severity_number, first.severity_text.as_str()),
        ("said so", 13, "warn")
    );
    assert!(first.time_unix_nano > 0 && first.trace_id.is_empty() && first.span_id.is_empty());
    let text_value = |text: &str| Some(Value::StringValue(text.to_owned()));
    for (key, want) in [
        ("count", Some(Value::IntValue(3))),
        ("huge", text_value("18446744073709551615")),
        ("share", Some(Value::DoubleValue(0.5))),
        ("is", Some(Value::BoolValue(true))),
        ("name", text_value("a\tb")),
        ("shown", text_value("Some(1)")),
        ("outbound.peer", Some(Value::IntValue(7))),
        ("message", None),
    ] {
        assert_eq!(attribute(first, key), want, "{key}");
    }
    let Some(Value::StringValue(long)) = attribute(&records[1].1, "long") else { panic!("no text") };
    assert_eq!(long.len(), 16 << 10, "cut");
    assert!(text.contains("\nwarren_log_records_exported_total 2\n"), "{text}");
}

#[test]
fn records_name_their_trace_whatever_the_filter_is() {
    let (endpoint, taken) = collector(&[]);
    let vars = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_LOGS_EXPORTER", "otlp")];
    let mut told = None;
    exported(&vars, "error", |handle| {
        let step = Step::new("policy", SpanKind::Internal);
        step.span().in_scope(|| {
            tracing::info!(target: "conn", "not yet");
            handle.change(false, "conn=info").unwrap();
            tracing::info!(target: "conn", "inside");
        });
        tracing::info!(target: "conn", "outside");
        told = step.trace_parent();
    });
    // Some of the bodies hold spans, of which nothing is a log record's.
    let bodies: Vec<Vec<u8>> = taken.try_iter().collect();
    let decoded = bodies.iter().filter_map(|body| ExportLogsServiceRequest::decode(body.as_slice()).ok());
    let scopes: Vec<_> = decoded.flat_map(|r| r.resource_logs).flat_map(|part| part.scope_logs).collect();
    let logs = scopes.iter().filter(|logs| logs.scope.as_ref().is_some_and(|scope| scope.name == "conn"));
    let records: Vec<&LogRecord> = logs.flat_map(|logs| &logs.log_records).collect();
    let told = told.unwrap();
    let [inside, outside] = records.as_slice() else { panic!("{records:#?}") };
    assert_eq!((body(inside), body(outside)), ("inside".into(), "outside".into()));
    assert_eq!(
        (&inside.trace_id[..], &inside.span_id[..], inside.flags),
        (&told.trace_id.to_be_bytes()[..], &told.span_id.to_be_bytes()[..], 1)
    );
    assert!(outside.trace_id.is_empty() && outside.span_id.is_empty());
}

#[test]
fn what_may_be_taken_later_is_sent_again_and_the_rest_is_counted() {
    let (endpoint, taken) = collector(&[503, 429, 200, 400]);
    let more = [("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "1"), ("OTEL_BLRP_SCHEDULE_DELAY", "1")];
    let vars = [logs_only(&endpoint).as_slice(), &more].concat();
    let mut numbers = Vec::new();
    let text = exported(&vars, "info", |_| {
        for n in 0..3 {
            tracing::info!(target: "main", n, "x");
        }
        // Before the exit, which does not wait long.
        for _ in 0..2 {
            let body = taken.recv_timeout(Duration::from_secs(60)).unwrap();
            numbers.extend(records([body]).iter().map(|(_, record)| attribute(record, "n")));
        }
    });
    assert_eq!(numbers, [Some(Value::IntValue(0)), Some(Value::IntValue(2))]);
    for line in [
        "warren_log_records_exported_total 2",
        "warren_log_records_dropped_total{reason=\"export failed\"} 1",
        "warren_log_export_failures_total 1",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}: {text}");
    }
}

#[test]
fn what_the_collector_leaves_out_is_counted() {
    let partial = ExportLogsPartialSuccess { rejected_log_records: 2, error_message: "too long".into() };
    let answer = ExportLogsServiceResponse { partial_success: Some(partial) };
    let (endpoint, taken) = answering(&[], answer.encode_to_vec());
    let text = exported(&logs_only(&endpoint), "info", |_| {
        for n in 0..3 {
            tracing::info!(target: "main", n, "x");
        }
    });
    assert_eq!(records(taken.try_iter()).len(), 3);
    for line in [
        "warren_log_records_exported_total 1",
        "warren_log_records_dropped_total{reason=\"rejected\"} 2",
        "warren_log_export_failures_total 0",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}: {text}");
    }
}

#[test]
fn records_past_the_bound_are_dropped_and_counted() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{dead}");
    let vars = [
        logs_only(&endpoint).as_slice(),
        &[("OTEL_BLRP_MAX_QUEUE_SIZE", "2"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "1")],
    ]
    .concat();
    let text = exported(&vars, "info", |_| {
        for _ in 0..100 {
            tracing::info!(target: "main", "x");
        }
    });
    let count = |reason: &str| -> u64 {
        let begin = format!("warren_log_records_dropped_total{{reason=\"{reason}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&begin)).map_or(0, |count| count.parse().unwrap())
    };
    assert!(count("queue full") > 0 && count("queue full") + count("export failed") == 100, "{text}");
}

#[test]
fn what_the_exporter_says_is_not_exported() {
    let (endpoint, taken) = collector(&[]);
    exported(&logs_only(&endpoint), "trace", |_| {
        tracing::info!(target: "main", "first");
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        let of_the_exporter = move || {
            super::mark_exporter_thread();
            tracing::dispatcher::with_default(&dispatch, || tracing::info!(target: "main", "second"));
        };
        thread::spawn(of_the_exporter).join().unwrap();
    });
    let bodies: Vec<String> = records(taken.try_iter()).iter().map(|(_, record)| body(record)).collect();
    assert_eq!(bodies, ["first"]);
}

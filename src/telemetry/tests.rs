//! Log lines as the contract shows them.

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    access::{self, AccessRecord, ConnTotals, Party},
    log::{LogError, LogHandle, Logging},
    refusals::Refusals,
};
use crate::protocols::{
    addr::HboneAddr,
    config::LogFormat,
    identity::Identity,
    labels::Reporter,
    outcome::{Cause, Denial, Failure, Outcome},
};

/// A sink whose bytes can be read back.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines `f` logs.
fn logged(format: LogFormat, filter: &str, f: impl FnOnce(&LogHandle)) -> Vec<String> {
    let kept = Kept::default();
    let (dispatch, logging) = Logging::to(kept.clone(), format, filter.parse().unwrap()).unwrap();
    tracing::dispatcher::with_default(&dispatch, || f(&logging.handle()));
    drop(logging);
    let bytes = kept.0.lock().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

/// The columns of a plain line after the time, which is checked.
fn columns(line: &str) -> Vec<&str> {
    let columns: Vec<&str> = line.split('\t').collect();
    let time = columns[0];
    assert!(is_rfc3339_micros(time), "{time}");
    columns[1..].to_vec()
}

fn is_rfc3339_micros(time: &str) -> bool {
    time.len() == "2026-11-22T01:31:57.068598Z".len()
        && time.bytes().zip(b"2026-11-22T01:31:57.068598Z".iter()).all(|(have, want)| match want {
            b'0'..=b'9' => have.is_ascii_digit(),
            other => have == *other,
        })
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn record(reporter: Reporter) -> AccessRecord<'static> {
    AccessRecord {
        reporter,
        src: Party {
            workload: Some("local"),
            namespace: Some("default"),
            cluster: Some(""),
            ..Party::at(addr("127.0.0.1:47372"))
        },
        dst: Party {
            workload: Some("local-tcp"),
            namespace: Some("default"),
            ..Party::at(addr("127.0.0.2:8080"))
        },
        hbone_addr: None,
        service: None,
        left_out: 0,
    }
}

const CARRIED: ConnTotals = ConnTotals { received: 78, sent: 187, duration: Duration::from_micros(7900) };

#[test]
fn the_access_line_of_the_contract() {
    let lines = logged(LogFormat::Plain, "info", |_| {
        access::opened(&record(Reporter::Source));
        access::complete(&record(Reporter::Source), &CARRIED, &Outcome::Complete);
    });
    assert_eq!(lines.len(), 1, "opened is debug");
    assert_eq!(
        columns(&lines[0]),
        [
            "info",
            "access",
            "connection complete",
            "src.addr=127.0.0.1:47372 src.workload=\"local\" src.namespace=\"default\" dst.addr=127.0.0.2:8080 \
             dst.workload=\"local-tcp\" dst.namespace=\"default\" direction=\"outbound\" bytes_sent=78 \
             bytes_recv=187 duration=\"7ms\"",
        ]
    );
}

#[test]
fn a_tunnelled_connection_that_failed_has_every_field() {
    let client = Identity::new("cluster.local", "default", "web").unwrap();
    let server = Identity::new("cluster.local", "shop", "db").unwrap();
    let authority = HboneAddr::Host("db.shop".into(), 5432);
    let mut record = record(Reporter::Destination);
    (record.src.identity, record.src.cluster) = (Some(&client), Some("c1"));
    (record.dst.identity, record.dst.cluster) = (Some(&server), Some("c2"));
    (record.hbone_addr, record.service) = (Some(&authority), Some("db.shop.svc.cluster.local"));
    let denied = Outcome::from(Denial::Explicit("shop/no \"web\"".into()));
    let lines = logged(LogFormat::Plain, "info", |_| access::complete(&record, &CARRIED, &denied));
    assert_eq!(
        columns(&lines[0]),
        [
            "error",
            "access",
            "connection complete",
            "src.addr=127.0.0.1:47372 src.workload=\"local\" src.namespace=\"default\" \
             src.identity=\"spiffe://cluster.local/ns/default/sa/web\" src.cluster=\"c1\" dst.addr=127.0.0.2:8080 \
             dst.hbone_addr=db.shop:5432 dst.service=\"db.shop.svc.cluster.local\" dst.workload=\"local-tcp\" \
             dst.namespace=\"default\" dst.identity=\"spiffe://cluster.local/ns/shop/sa/db\" dst.cluster=\"c2\" \
             direction=\"inbound\" bytes_sent=187 bytes_recv=78 duration=\"7ms\" \
             error=\"connection closed due to policy rejection: explicitly denied by: shop/no \\\"web\\\"\"",
        ]
    );
}

#[test]
fn a_flood_of_refusals_is_a_few_lines_and_a_count() {
    let failed = Outcome::from(Failure::Tls(Cause::from("alert")));
    let lines = logged(LogFormat::Plain, "info", |_| {
        let refusals = Refusals::default();
        for port in 1..=1_000 {
            let ends = (SocketAddr::from(([1, 2, 3, 4], port)), addr("[::1]:15008"));
            access::refused(&refusals, Reporter::Destination, ends, &failed);
        }
        refusals.sweep(Instant::now());
    });
    let (last, lines) = lines.split_last().unwrap();
    let field = |line: &str, name: &str| -> u64 {
        let rest = line.split_once(&format!("{name}=")).map_or("0", |(_, rest)| rest);
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    assert!((10..20).contains(&lines.len()), "{lines:?}");
    let told = lines.iter().map(|line| 1 + field(line, "left_out")).sum::<u64>() + field(last, "left_out");
    assert_eq!(told, 1_000, "{last}");
    assert!(last.contains("refused connections without a line\tsrc.addr=1.2.3.4 "), "{last}");
}

#[test]
fn opened_and_refused_lines() {
    let failed = Outcome::from(Failure::Tls(Cause::from("alert")));
    let lines = logged(LogFormat::Plain, "off,access=debug", |_| {
        access::opened(&record(Reporter::Source));
        let ends = (addr("1.2.3.4:5"), addr("[::1]:15008"));
        access::refused(&Refusals::default(), Reporter::Destination, ends, &failed);
        tracing::error!("filtered");
    });
    let columns: Vec<_> = lines.iter().map(|line| columns(line).join("|")).collect();
    assert_eq!(
        columns,
        [
            "debug|access|connection opened|src.addr=127.0.0.1:47372 src.workload=\"local\" \
             src.namespace=\"default\" dst.addr=127.0.0.2:8080 dst.workload=\"local-tcp\" \
             dst.namespace=\"default\" direction=\"outbound\"",
            "warn|access|connection failed|src.addr=1.2.3.4:5 dst.addr=[::1]:15008 direction=\"inbound\" \
             error=\"tls error: alert\"",
        ]
    );
}

#[test]
fn json_lines_keep_order_numbers_and_spans() {
    let lines = logged(LogFormat::Json, "info", |_| {
        let span = tracing::info_span!("pod", uid = "u\"1", n = 2, late = tracing::field::Empty);
        span.record("late", true);
        let _in_span = span.enter();
        let _inner = tracing::info_span!("step").entered();
        let text = "tab\there\nline \"quoted\" \\ \u{1b}[31m é";
        tracing::warn!(target: "warren::a", peer = %text, count = 3, ratio = 0.5, ok = true, absent = None::<&str>, "said {text}");
    });
    let line = &lines[0];
    let (before, after) = line.split_once("\"time\":\"").unwrap();
    let (time, after) = after.split_once('"').unwrap();
    assert!(is_rfc3339_micros(time), "{time}");
    assert_eq!(
        format!("{before}{after}"),
        "{\"level\":\"warn\",,\"scope\":\"warren::a\",\
         \"message\":\"said tab\\there\\nline \\\"quoted\\\" \\\\ \\u001b[31m é\",\
         \"peer\":\"tab\\there\\nline \\\"quoted\\\" \\\\ \\u001b[31m é\",\"count\":3,\"ratio\":0.5,\"ok\":true,\
         \"pod\":{\"uid\":\"u\\\"1\",\"n\":2,\"late\":true},\"step\":{}}"
    );
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(value["message"], "said tab\there\nline \"quoted\" \\ \u{1b}[31m é");
}

#[test]
fn plain_lines_have_five_columns_whatever_they_carry() {
    let lines = logged(LogFormat::Plain, "info", |_| {
        tracing::info!("no fields");
        let span = tracing::info_span!("xds", id = 3, name = "a b");
        span.in_scope(|| tracing::info!(target: "warren::actors::x", "in span"));
        let evil = "a\tb\nc\u{1b}[2J\u{9b}";
        tracing::info!(display = %evil, text = evil, debug = ?Some(evil), "{evil}");
    });
    assert_eq!(lines.len(), 3);
    assert_eq!(columns(&lines[0]), ["info", "telemetry::tests", "no fields", ""]);
    assert_eq!(columns(&lines[1]), ["info", "actors::x:xds{id=3 name=\"a b\"}", "in span", ""]);
    let evil = "a\\tb\\nc\\u{1b}[2J\\u{9b}";
    let fields = format!("display={evil} text=\"{evil}\" debug=Some(\"{evil}\")");
    assert_eq!(columns(&lines[2])[2..], [evil, &fields]);
}

#[test]
fn the_filter_changes_while_the_process_runs() {
    let lines = logged(LogFormat::Plain, "warn", |log| {
        let say = |text: &str| tracing::info!(target: "access", "{text}");
        say("before");
        assert_eq!(log.change(false, "access=info").unwrap().to_string(), "access=info,ractor=off,warn");
        say("on");
        assert!(matches!(log.change(true, "loud"), Err(LogError::Filter(_))));
        say("still on");
        assert_eq!(log.change(true, "").unwrap().to_string(), "ractor=off,warn");
        say("off again");
        log.set("info".parse().unwrap()).unwrap();
        say("set");
        assert_eq!(log.current().to_string(), "ractor=off,info");
    });
    let said: Vec<_> = lines.iter().map(|line| columns(line)[2]).collect();
    assert_eq!(said, ["on", "still on", "set"]);
}

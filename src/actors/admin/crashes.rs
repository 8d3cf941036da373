//! Crash reports as JSON, for `/crashes`, and as text, for `warren crashes`.

use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    actors::ms,
    console::{Provider, ProviderError, provider},
    draw::{beside, printable},
};
use crate::supervisor::{CrashReport, Handled, TreeHandle};

/// Shows the reports of the tree that `handle` is set to once it is up.
pub(crate) fn of_tree(handle: Arc<OnceLock<TreeHandle>>) -> Provider {
    provider(move || {
        let tree = handle.get().cloned();
        async move {
            let tree = tree.ok_or_else(|| ProviderError("the tree is still starting".to_owned()))?;
            // Symbols are looked up here: not on the control runtime.
            let shown = tokio::task::spawn_blocking(move || {
                let (reports, dropped) = tree.crashes();
                json!({"dropped": dropped, "reports": reports.iter().map(|r| report(r)).collect::<Value>()})
            });
            shown.await.map_err(|error| ProviderError(error.to_string()))
        }
    })
}

fn report(report: &CrashReport) -> Value {
    // Years past 9999 have no RFC 3339 form.
    let at = OffsetDateTime::from(report.at).format(&Rfc3339).unwrap_or_default();
    json!({
        "number": report.number,
        "at": at,
        "path": &*report.path,
        "name": report.shown_as.as_deref(),
        "is": &*report.kind,
        "death": report.death.as_str(),
        "reason": report.reason,
        "again": report.again(),
        "handling": report.handling.map(|(kind, time)| json!({"kind": kind, "ms": ms(time)})),
        "trace": report.trace.map(trace),
        "waiting": report.waiting,
        "messages": report.messages.iter().map(message).collect::<Value>(),
        "location": report.location(),
        "backtrace": report.frames(),
    })
}

fn message(message: &Handled) -> Value {
    json!({
        "kind": message.kind,
        "span": message.span,
        "trace": message.trace.map(trace),
        "agoMs": ms(message.ago),
        "waitedMs": ms(message.waited),
        "tookMs": ms(message.took),
    })
}

/// A trace's id as collectors show it.
fn trace(id: u128) -> String {
    format!("{id:032x}")
}

/// The reports a line each, or the one of this number in full. Nothing if there is no such report.
pub(crate) fn draw(shown: &Value, number: Option<u64>) -> Option<String> {
    let reports = shown["reports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| printable(value.as_str().unwrap_or_default());
    let mut drawn = String::new();
    // Writing to a string does not fail.
    if let Some(number) = number {
        let report = reports.iter().find(|report| report["number"] == number)?;
        const NAMES: [&str; 12] = [
            "number", "at", "path", "name", "is", "death", "reason", "again", "handling", "trace", "waiting",
            "location",
        ];
        for name in NAMES {
            let value = &report[name];
            let value = if value.is_string() { text(value) } else { value.to_string() };
            let _ = writeln!(drawn, "{name:9} {value}");
        }
        for message in report["messages"].as_array().into_iter().flatten() {
            let _ = writeln!(
                drawn,
                "message   {:20} {:>12} ms ago, waited {} ms, took {} ms {} {}",
                text(&message["kind"]),
                message["agoMs"],
                message["waitedMs"],
                message["tookMs"],
                text(&message["span"]),
                text(&message["trace"])
            );
        }
        for frame in report["backtrace"].as_array().into_iter().flatten() {
            let _ = writeln!(drawn, "frame     {}", text(frame));
        }
        return Some(drawn);
    }
    for report in reports {
        let _ = writeln!(
            drawn,
            "{:>4}  {}  {:13}  {}  {}",
            report["number"].to_string(),
            text(&report["at"]),
            text(&report["death"]),
            text(&report["path"]) + &beside(report["name"].as_str()),
            text(&report["reason"])
        );
    }
    let _ = writeln!(drawn, "{} reports, {} older ones dropped", reports.len(), shown["dropped"]);
    Some(drawn)
}

#[cfg(test)]
mod tests;

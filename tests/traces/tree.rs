//! A trace as a text tree.

use std::fmt::Write;

use crate::collector::Span;

/// Attributes that are drawn.
const DRAWN: [&str; 7] = [
    "warren.source.workload",
    "warren.destination.workload",
    "warren.route",
    "warren.identity",
    "http.response.status_code",
    "warren.bytes.received",
    "warren.bytes.sent",
];
/// Columns of the times, which differ from run to run.
pub(crate) const TIMES: usize = 22;

/// Start and duration in milliseconds, then each span inside its parent, in order of their starts.
pub(crate) fn draw(spans: &[Span]) -> String {
    let begin = spans.iter().map(|span| span.start).min().unwrap_or_default();
    let known = |id: &str| spans.iter().any(|span| span.id == id);
    let mut text = String::new();
    for span in sorted(spans.iter().filter(|span| !known(&span.parent))) {
        below(&mut text, spans, span, (begin, 0));
    }
    text
}

fn below(text: &mut String, spans: &[Span], span: &Span, (begin, depth): (u64, usize)) {
    let millis = |nanos: u64| nanos as f64 / 1e6;
    let (start, lasted) = (millis(span.start - begin), millis(span.end - span.start));
    write!(
        text,
        "{start:>9.2} {lasted:>9.2}   {:indent$}{} ({})",
        "",
        span.name,
        span.node(),
        indent = depth * 2
    )
    .unwrap();
    if let Some(peer) = span.attributes.get("network.peer.address") {
        write!(text, " peer={peer}:{}", span.attribute("network.peer.port")).unwrap();
    }
    for key in DRAWN {
        if let Some(value) = span.attributes.get(key) {
            write!(text, " {}={value}", key.strip_prefix("warren.").unwrap_or(key)).unwrap();
        }
    }
    text.push('\n');
    for child in sorted(spans.iter().filter(|child| child.parent == span.id)) {
        below(text, spans, child, (begin, depth + 1));
    }
}

fn sorted<'a>(spans: impl Iterator<Item = &'a Span>) -> Vec<&'a Span> {
    let mut spans: Vec<&Span> = spans.collect();
    spans.sort_by_key(|span| (span.start, span.end));
    spans
}

/// The tree without the times.
pub(crate) fn shape(tree: &str) -> String {
    tree.lines().map(|line| format!("{}\n", line.get(TIMES..).unwrap_or_default())).collect()
}

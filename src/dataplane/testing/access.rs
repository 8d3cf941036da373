//! The access log lines and counters of connections.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// The access log lines of the calling thread.
#[derive(Clone, Default)]
pub(crate) struct AccessLines(Arc<Mutex<Vec<Fields>>>);

#[derive(Default)]
pub(crate) struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber> Layer<S> for AccessLines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target() == "access" && *metadata.level() <= Level::INFO
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.0.lock().push(fields);
    }
}

/// A short form of a line: direction, next hop, outcome, and bytes sent and received if there were any.
fn text(fields: &BTreeMap<&'static str, String>) -> String {
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let how = if field("message") == "connection failed" { " refused" } else { "" };
    let error = fields.get("error").map_or("complete", String::as_str);
    let bytes = match (field("bytes_sent"), field("bytes_recv")) {
        ("" | "0", "" | "0") => String::new(),
        (sent, received) => format!(", {sent} sent, {received} received"),
    };
    format!("{} {}{how}: {error}{bytes}", field("direction"), field("dst.addr"))
}

impl AccessLines {
    /// The fields of the lines since the last call.
    pub(crate) fn take_fields(&self) -> Vec<BTreeMap<&'static str, String>> {
        std::mem::take(&mut *self.0.lock()).into_iter().map(|fields| fields.0).collect()
    }

    /// The lines since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        self.take_fields().iter().map(text).collect()
    }
}

/// The sum of the family's samples in the exposition `text` whose labels contain all of `labels`.
pub(crate) fn sum(text: &str, family: &str, labels: &[&str]) -> u64 {
    let samples = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once('{')?;
        let (of, value) = rest.rsplit_once("} ")?;
        (name == family && labels.iter().all(|label| of.contains(label)))
            .then(|| value.parse::<u64>().unwrap())
    });
    samples.sum()
}

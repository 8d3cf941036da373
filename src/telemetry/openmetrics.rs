//! OpenMetrics text (docs/spec/controlplane.md 5.1; OpenMetrics 1.0).

use std::{fmt::Write as _, time::SystemTime};

use super::series::{Encoder, Exemplar, Header, Kind, Labels, Sample, Value, unit};

/// The body of a scrape under construction.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
}

// === impl Exposition ===

impl Exposition {
    /// A body with room for `bytes`.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes) }
    }

    /// Ends the body.
    pub(crate) fn finish(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }

    /// Adds a line: the family's name with a suffix, the labels, an optional further label, and the value.
    fn line(&mut self, name: &str, suffix: &str, labels: Labels<'_>, more: Option<(&str, &str)>) {
        self.extend(&[name, suffix]);
        let mut separator = "{";
        let mut put = |name: &str, value: &str| {
            self.text.push_str(separator);
            label_into(&mut self.text, name, value);
            separator = ",";
        };
        match labels {
            Labels::Set(set) => set.iter().for_each(|(name, value)| put(name, value)),
            Labels::Pairs(pairs) => pairs.iter().for_each(|pair| put(pair.name(), pair.value())),
        }
        if let Some((name, value)) = more {
            put(name, value);
        }
        self.text.push_str(if separator == "," { "} " } else { " " });
    }

    /// Ends a line of a bucket with its count, and with an observation of the bucket.
    fn bucket(&mut self, count: u64, exemplar: Option<Exemplar>) {
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{count}");
        if let Some(Exemplar { trace, value, at }) = exemplar {
            let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
            let (seconds, millis) = (at / 1000, at % 1000);
            let value = number(value);
            let _ = write!(self.text, " # {{trace_id=\"{trace:032x}\"}} {value} {seconds}.{millis:03}");
        }
        self.text.push('\n');
    }

    fn extend(&mut self, parts: &[&str]) {
        for part in parts {
            self.text.push_str(part);
        }
    }
}

impl Encoder for Exposition {
    fn family(&mut self, header: &Header<'_>) {
        let family = match header.kind {
            Kind::Counter => header.name.strip_suffix("_total").unwrap_or(header.name),
            Kind::Gauge | Kind::Histogram(_) => header.name,
        };
        self.extend(&["# HELP ", family, " "]);
        escape_into(&mut self.text, header.help);
        self.extend(&[".\n# TYPE ", family, " ", header.kind.as_str(), "\n"]);
        if let Some(unit) = unit(family) {
            self.extend(&["# UNIT ", family, " ", unit, "\n"]);
        }
    }

    fn sample(&mut self, header: &Header<'_>, sample: &Sample<'_>) {
        let (name, labels) = (header.name, sample.labels);
        // Writing to a String cannot fail.
        match &sample.value {
            Value::Count(count) => {
                self.line(name, "", labels, None);
                let _ = writeln!(self.text, "{count}");
            }
            Value::Number(value) => {
                self.line(name, "", labels, None);
                let _ = writeln!(self.text, "{}", number(*value));
            }
            Value::Histogram(buckets) => {
                let exemplar = |at: usize| buckets.exemplars.get(at).copied().flatten();
                for (at, (bound, count)) in buckets.up_to.iter().enumerate() {
                    self.line(name, "_bucket", labels, Some(("le", &number(*bound))));
                    self.bucket(*count, exemplar(at));
                }
                self.line(name, "_bucket", labels, Some(("le", "+Inf")));
                self.bucket(buckets.count, exemplar(buckets.up_to.len()));
                self.line(name, "_sum", labels, None);
                let _ = writeln!(self.text, "{}", number(buckets.sum));
                self.line(name, "_count", labels, None);
                let _ = writeln!(self.text, "{}", buckets.count);
            }
        }
    }
}

/// Appends `name="value"`, escaped.
fn label_into(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str("=\"");
    escape_into(text, value);
    text.push('"');
}

/// Appends `value` with backslash, quote and line feed escaped.
fn escape_into(text: &mut String, value: &str) {
    for part in value.split_inclusive(['\\', '"', '\n']) {
        let (plain, escaped) = match part.as_bytes().last() {
            Some(b'\\') => (part.len() - 1, "\\\\"),
            Some(b'"') => (part.len() - 1, "\\\""),
            Some(b'\n') => (part.len() - 1, "\\n"),
            _ => (part.len(), ""),
        };
        text.push_str(part.get(..plain).unwrap_or_default());
        text.push_str(escaped);
    }
}

fn number(value: f64) -> String {
    if value == f64::INFINITY { "+Inf".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests;

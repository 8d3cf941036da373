//! OpenMetrics text (docs/spec/controlplane.md 5.1; OpenMetrics 1.0).

use std::fmt::Write as _;

use super::series::{Encoder, Header, Kind, Labels, Sample, Value, unit};

/// A scrape's body being written.
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

    /// Adds a line: the family's name and a suffix, the labels and one more, the value.
    fn line(&mut self, (name, suffix): (&str, &str), labels: Labels<'_>, more: Option<(&str, &str)>) {
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
                self.line((name, ""), labels, None);
                let _ = writeln!(self.text, "{count}");
            }
            Value::Number(value) => {
                self.line((name, ""), labels, None);
                let _ = writeln!(self.text, "{}", number(*value));
            }
            Value::Histogram(buckets) => {
                for (bound, count) in &buckets.up_to {
                    self.line((name, "_bucket"), labels, Some(("le", &number(*bound))));
                    let _ = writeln!(self.text, "{count}");
                }
                self.line((name, "_bucket"), labels, Some(("le", "+Inf")));
                let _ = writeln!(self.text, "{}", buckets.count);
                self.line((name, "_sum"), labels, None);
                let _ = writeln!(self.text, "{}", number(buckets.sum));
                self.line((name, "_count"), labels, None);
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
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

    use super::*;
    use crate::telemetry::series::gathered;

    #[test]
    fn a_registry_becomes_open_metrics() {
        let registry = Registry::new();
        let gauge = IntGauge::new("process_open_fds", "Number of open file descriptors").unwrap();
        let bytes = IntCounterVec::new(Opts::new("x_bytes_total", "Bytes of X"), &["url"]).unwrap();
        let empty = IntCounterVec::new(Opts::new("empty_total", "Nothing yet"), &["a"]).unwrap();
        let plain = IntCounter::new("started_total", "Starts").unwrap();
        let times =
            Histogram::with_opts(HistogramOpts::new("lookup_seconds", "Time").buckets(vec![0.0005, 1.0]))
                .unwrap();
        registry.register(Box::new(gauge.clone())).unwrap();
        registry.register(Box::new(bytes.clone())).unwrap();
        registry.register(Box::new(empty)).unwrap();
        registry.register(Box::new(plain)).unwrap();
        registry.register(Box::new(times.clone())).unwrap();
        gauge.set(7);
        bytes.with_label_values(&["a\"b\\c\nd"]).inc_by(12_345_678);
        times.observe(0.25);
        times.observe(3.0);

        let mut body = Exposition::default();
        registry.gather().iter().for_each(|family| gathered(family, &mut body));
        let want = [
            "# HELP lookup_seconds Time.",
            "# TYPE lookup_seconds histogram",
            "# UNIT lookup_seconds seconds",
            "lookup_seconds_bucket{le=\"0.0005\"} 0",
            "lookup_seconds_bucket{le=\"1\"} 1",
            "lookup_seconds_bucket{le=\"+Inf\"} 2",
            "lookup_seconds_sum 3.25",
            "lookup_seconds_count 2",
            "# HELP process_open_fds Number of open file descriptors.",
            "# TYPE process_open_fds gauge",
            "process_open_fds 7",
            "# HELP started Starts.",
            "# TYPE started counter",
            "started_total 0",
            "# HELP x_bytes Bytes of X.",
            "# TYPE x_bytes counter",
            "# UNIT x_bytes bytes",
            "x_bytes_total{url=\"a\\\"b\\\\c\\nd\"} 12345678",
            "# EOF",
            "",
        ];
        assert_eq!(body.finish(), want.join("\n"));
    }

    #[test]
    fn label_values_are_escaped() {
        for (value, want) in [
            ("", ""),
            ("plain", "plain"),
            ("\\", "\\\\"),
            ("a\"", "a\\\""),
            ("\n\n", "\\n\\n"),
            ("é\"ü", "é\\\"ü"),
        ] {
            let mut text = String::new();
            escape_into(&mut text, value);
            assert_eq!(text, want);
        }
    }
}

//! OpenMetrics text (docs/spec/controlplane.md 5.1; OpenMetrics 1.0).

use std::fmt::Write as _;

use prometheus::proto::{Metric, MetricFamily, MetricType};

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its samples end in `_total`, its family does not.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by bucket.
    Histogram,
}

/// A scrape's body being written. Families must not come in pieces: call [`Exposition::family`], then add its samples.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

/// One sample of a gathered metric.
struct Sample<'a> {
    /// What follows the family's name.
    suffix: &'a str,
    /// A label after the metric's own.
    extra: Option<(&'a str, &'a str)>,
    value: f64,
}

// === impl Kind ===

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

// === impl Exposition ===

impl Exposition {
    /// A body with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes) }
    }

    /// Begins a family. `name` is the one of its samples; `help` has no full stop, one is added.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let family = match kind {
            Kind::Counter => name.strip_suffix("_total").unwrap_or(name),
            Kind::Gauge | Kind::Histogram => name,
        };
        self.extend(&["# HELP ", family, " "]);
        escape_into(&mut self.text, help);
        self.extend(&[".\n# TYPE ", family, " ", kind.as_str(), "\n"]);
        if let Some(unit) = unit(family) {
            self.extend(&["# UNIT ", family, " ", unit, "\n"]);
        }
    }

    /// Adds a sample whose labels are rendered already: the parts between the braces, one after another.
    pub fn rendered(&mut self, name: &str, labels: &[&str], value: u64) {
        self.extend(&[name, "{"]);
        self.extend(labels);
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "}} {value}");
    }

    /// Adds the families of a registry, leaving out those without samples.
    pub fn gathered(&mut self, families: &[MetricFamily]) {
        for family in families.iter().filter(|family| !family.get_metric().is_empty()) {
            let kind = match family.get_field_type() {
                MetricType::COUNTER => Kind::Counter,
                MetricType::HISTOGRAM => Kind::Histogram,
                _ => Kind::Gauge,
            };
            self.family(family.name(), kind, family.help());
            for metric in family.get_metric() {
                let value = match kind {
                    Kind::Counter => metric.get_counter().get_value(),
                    Kind::Gauge => metric.get_gauge().get_value(),
                    Kind::Histogram => {
                        self.histogram(family.name(), metric);
                        continue;
                    }
                };
                self.sample(family.name(), metric, Sample { suffix: "", extra: None, value });
            }
        }
    }

    /// Ends the body.
    pub fn finish(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }

    fn histogram(&mut self, name: &str, metric: &Metric) {
        let histogram = metric.get_histogram();
        let mut bucket = |bound: &str, count: u64| {
            let value = count as f64;
            self.sample(name, metric, Sample { suffix: "_bucket", extra: Some(("le", bound)), value });
        };
        let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
        for each in finite {
            bucket(&number(each.upper_bound()), each.cumulative_count());
        }
        bucket("+Inf", histogram.get_sample_count());
        let value = histogram.get_sample_sum();
        self.sample(name, metric, Sample { suffix: "_sum", extra: None, value });
        let value = histogram.get_sample_count() as f64;
        self.sample(name, metric, Sample { suffix: "_count", extra: None, value });
    }

    fn sample(&mut self, name: &str, metric: &Metric, sample: Sample<'_>) {
        self.extend(&[name, sample.suffix]);
        let own = metric.get_label().iter().map(|label| (label.name(), label.value()));
        let mut separator = "{";
        for (name, value) in own.chain(sample.extra) {
            self.text.push_str(separator);
            label_into(&mut self.text, name, value);
            separator = ",";
        }
        if separator == "," {
            self.text.push('}');
        }
        self.extend(&[" ", &number(sample.value), "\n"]);
    }

    fn extend(&mut self, parts: &[&str]) {
        for part in parts {
            self.text.push_str(part);
        }
    }
}

/// Appends `name="value"`, escaped.
pub fn label_into(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str("=\"");
    escape_into(text, value);
    text.push('"');
}

/// Reads back what [`label_into`] wrote, with commas between.
pub fn labels(text: &str) -> impl Iterator<Item = (&str, String)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::with_capacity(after.len().min(64));
        let mut chars = after.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    rest = after.get(at + 1..).unwrap_or_default();
                    rest = rest.strip_prefix(',').unwrap_or(rest);
                    return Some((name, value));
                }
                '\\' => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                other => value.push(other),
            }
        }
        None
    })
}

/// Appends `value` with backslash, quote and line feed escaped.
pub fn escape_into(text: &mut String, value: &str) {
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

/// The unit a family's name ends in: OpenMetrics wants it there.
pub fn unit(family: &str) -> Option<&'static str> {
    ["bytes", "seconds"]
        .into_iter()
        .find(|unit| family.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
}

fn number(value: f64) -> String {
    if value == f64::INFINITY { "+Inf".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

    use super::*;

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
        body.gathered(&registry.gather());
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

    proptest::proptest! {
        #[test]
        fn labels_are_read_back_as_they_were(
            values in proptest::collection::vec("([a-z\"\\\\\n,={}é]){0,12}", 0..5)
        ) {
            let mut text = String::new();
            for (n, value) in values.iter().enumerate() {
                if n > 0 {
                    text.push(',');
                }
                label_into(&mut text, "name", value);
            }
            let back: Vec<String> = labels(&text).map(|(name, value)| { assert_eq!(name, "name"); value }).collect();
            proptest::prop_assert_eq!(back, values);
        }
    }
}

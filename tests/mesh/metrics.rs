//! The proxies' metrics (docs/spec/controlplane.md 5).

use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

use crate::support::{LIMIT, Lab, addr, dial_from, eventually};

/// All samples of a node's proxy.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    samples: Vec<Sample>,
    bytes: usize,
}

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// Asks the proxy of `node`.
pub(crate) fn metrics(lab: &Lab, node: &str) -> Metrics {
    let mut stream = dial_from(lab.node(node).unwrap(), addr("127.0.0.1:15020")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(body.trim_end().ends_with("# EOF"), "{body}");
    let samples = body.lines().filter(|line| !line.starts_with('#')).map(Sample::parse).collect();
    Metrics { samples, bytes: body.len() }
}

/// Waits until the metrics of `node` are as `look` wants them.
pub(crate) fn metrics_show(lab: &Lab, node: &str, what: &str, look: impl Fn(&Metrics) -> bool) {
    let mut last = None;
    let deadline = std::time::Instant::now() + LIMIT;
    while last.as_ref().is_none_or(|metrics| !look(metrics)) {
        assert!(std::time::Instant::now() < deadline, "no {what} at {node}:\n{last:#?}");
        last = Some(metrics(lab, node));
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
}

/// Waits until no proxied connection is open at `node`.
pub(crate) fn all_closed(lab: &Lab, node: &str) {
    eventually(&format!("end of the connections at {node}"), || {
        let now = metrics(lab, node);
        let opened = now.sum("istio_tcp_connections_opened_total", &[]);
        (opened == now.sum("istio_tcp_connections_closed_total", &[])).then_some(())
    });
}

impl Sample {
    fn parse(line: &str) -> Self {
        // An exemplar follows the value of a bucket.
        let line = line.split_once(" # {").map_or(line, |(sample, _exemplar)| sample);
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap();
        let mut parsed = BTreeMap::new();
        for pair in labels.split("\",").filter(|pair| !pair.is_empty()) {
            let (key, text) = pair.split_once("=\"").unwrap();
            parsed.insert(key.to_owned(), text.trim_end_matches('"').to_owned());
        }
        Self { name: name.to_owned(), labels: parsed, value: value.parse().unwrap() }
    }
}

impl Metrics {
    /// The samples of `name` with these labels.
    pub(crate) fn find<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        let has = |sample: &Sample| {
            labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        };
        self.samples.iter().filter(move |sample| sample.name == name && has(sample))
    }

    /// The size of the scrape.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Their sum.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).map(|sample| sample.value).sum()
    }
}

use prometheus::Registry;

use super::*;

const BUSY: &Declaration =
    &Declaration { name: "busy_total", kind: Kind::Counter, help: "Busy", labels: &["kind"] };
const DEEP: &Declaration = &Declaration { name: "deep", kind: Kind::Gauge, help: "Deep", labels: &[] };

#[test]
fn samples_are_those_of_the_last_reading() {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    let read = AtomicU32::new(0);
    let computed = Computed::new(&[BUSY, DEEP], move |readings| {
        let now = read.fetch_add(1, Relaxed);
        readings.put(BUSY, &[if now == 0 { "first" } else { "second" }], f64::from(now));
        if now > 0 {
            readings.put(DEEP, &[], 0.5);
        }
    });
    let registry = Registry::new();
    registry.register(Box::new(computed.unwrap())).unwrap();
    let gathered = || {
        let line = |family: &MetricFamily, metric: &Metric| {
            let label = metric.get_label().first().map_or("", LabelPair::value).to_owned();
            (
                family.name().to_owned(),
                label,
                metric.get_counter().get_value(),
                metric.get_gauge().get_value(),
            )
        };
        let all = registry.gather();
        all.iter()
            .flat_map(|family| family.get_metric().iter().map(move |m| line(family, m)))
            .collect::<Vec<_>>()
    };
    assert_eq!(gathered(), [("busy_total".into(), "first".into(), 0.0, 0.0)]);
    let second = [("busy_total".into(), "second".into(), 1.0, 0.0), ("deep".into(), String::new(), 0.0, 0.5)];
    assert_eq!(gathered(), second);
}

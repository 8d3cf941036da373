//! Families that are counted when somebody asks, so that they are never out of date and nothing is kept.

use prometheus::{
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::declaration::{Declaration, Kind, MetricsError};

/// Families of the registry whose samples are what a function reads.
pub struct Computed {
    declarations: &'static [&'static Declaration],
    descs: Vec<Desc>,
    read: Box<dyn Fn(&mut Readings) + Send + Sync>,
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Readings(Vec<(&'static Declaration, Vec<Metric>)>);

// === impl Computed ===

impl Computed {
    /// The families of `declarations`, which `read` fills. Their labels' values are words of the program: they have no
    /// bound.
    ///
    /// # Errors
    /// A name is not valid: a mistake in the declarations.
    pub(crate) fn new(
        declarations: &'static [&'static Declaration],
        read: impl Fn(&mut Readings) + Send + Sync + 'static,
    ) -> Result<Self, MetricsError> {
        let descs = declarations.iter().map(|declaration| declaration.desc());
        Ok(Self { declarations, descs: descs.collect::<Result<_, _>>()?, read: Box::new(read) })
    }
}

impl Collector for Computed {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut readings = Readings(self.declarations.iter().map(|of| (*of, Vec::new())).collect());
        (self.read)(&mut readings);
        readings.0.into_iter().map(|(declaration, metrics)| family(declaration, metrics)).collect()
    }
}

// === impl Readings ===

impl Readings {
    /// Adds a sample to the family of `declaration`, with the values of its labels in their order.
    pub(crate) fn put(&mut self, declaration: &Declaration, values: &[&str], number: f64) {
        let pairs = declaration.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        if declaration.kind == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(number);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(number);
            metric.set_gauge(gauge);
        }
        let family = self.0.iter_mut().find(|(own, _)| own.name == declaration.name);
        if let Some((_, metrics)) = family {
            metrics.push(metric);
        }
    }
}

fn family(declaration: &Declaration, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(declaration.name.to_owned());
    family.set_help(declaration.help.to_owned());
    let is_counter = declaration.kind == Kind::Counter;
    family.set_field_type(if is_counter { MetricType::COUNTER } else { MetricType::GAUGE });
    family.set_metric(metrics);
    family
}

#[cfg(test)]
mod tests {
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
        let second =
            [("busy_total".into(), "second".into(), 1.0, 0.0), ("deep".into(), String::new(), 0.0, 0.5)];
        assert_eq!(gathered(), second);
    }
}

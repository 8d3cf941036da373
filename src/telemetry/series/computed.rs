//! Families that are computed for each scrape, so that they are never out of date and nothing is kept.

use prometheus::{
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::declaration::{Declaration, Kind, MetricsError};

/// Families of the registry whose samples a function reads.
pub struct Computed {
    declarations: &'static [&'static Declaration],
    descs: Vec<Desc>,
    read: Box<dyn Fn(&mut Readings) + Send + Sync>,
}

/// The samples that the function read.
#[derive(Debug)]
pub(crate) struct Readings(Vec<(&'static Declaration, Vec<Metric>)>);

// === impl Computed ===

impl Computed {
    /// The families of `declarations`, which `read` fills. The values of their labels are words of the program, so
    /// they have no bound.
    ///
    /// # Errors
    /// A name is not valid, which is a mistake in the declarations.
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
    /// Adds a sample to the family of `declaration`, with the values of the labels in their order.
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
mod tests;

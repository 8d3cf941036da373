//! The SDK's observable instruments, which read one slice of the metrics at a time.
//!
//! The instruments count and keep nothing: an instrument's callback takes the slice's points of its family. The SDK
//! drops an observed value once it is collected. Only the start time of each family's count stays.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Meter, MeterProvider as _},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{
        InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Stream, Temporality, data::ResourceMetrics,
        reader::MetricReader,
    },
};
use parking_lot::Mutex;

use super::{
    points::{LABEL_SETS, Page, Points},
    scope,
};
use crate::{protocols::outcome::ResponseFlag, telemetry::metrics::describe};

/// The number of points of one family in a slice: a label set has one point for each flag. The SDK keeps room for
/// these points.
///
/// Limit: other points in one request with metrics: 500; past it: another request is made.
const POINTS_PER_REQUEST: usize = LABEL_SETS * ResponseFlag::ALL.len();

/// The instruments of all families, and the reader that collects from them.
pub(super) struct Instruments {
    /// Owns the instruments.
    _provider: SdkMeterProvider,
    reader: Arc<ManualReader>,
    meter: Meter,
    families: HashMap<String, Slot>,
}

/// The place where an instrument's callback finds its next points.
enum Slot {
    Counter(Values<u64>),
    Sum(Values<f64>),
    Gauge(Values<f64>),
}

type Values<T> = Arc<Mutex<Vec<(Vec<KeyValue>, T)>>>;

/// The metric reader, shared by the provider and this module.
#[derive(Debug)]
struct Shared(Arc<ManualReader>);

// === impl Instruments ===

impl Instruments {
    /// The instruments of all declared families, which begin to count now. Exports name `resource`.
    pub(super) fn new(resource: &Resource) -> Self {
        let reader = Arc::new(ManualReader::builder().with_temporality(Temporality::Cumulative).build());
        let provider = SdkMeterProvider::builder()
            .with_reader(Shared(reader.clone()))
            .with_resource(resource.clone())
            .with_view(|_: &_| Stream::builder().with_cardinality_limit(POINTS_PER_REQUEST).build().ok())
            .build();
        let meter = provider.meter_with_scope(scope("warren"));
        let mut instruments = Self { _provider: provider, reader, meter, families: HashMap::new() };
        let declared = describe().iter();
        let pages = declared.flat_map(|family| Page::all(family.name, family.kind, family.help));
        // The SDK's first reading returns the room that its instruments begin with.
        instruments.read(pages.collect());
        instruments
    }

    /// A slice of the metrics in the form of the exporter.
    pub(super) fn read(&mut self, slice: Vec<Page>) -> ResourceMetrics {
        for page in slice {
            self.put(page);
        }
        let mut metrics = ResourceMetrics::default();
        // The call fails only once the provider has been dropped.
        let _ = self.reader.collect(&mut metrics);
        metrics
    }

    fn put(&mut self, page: Page) {
        if !self.families.contains_key(page.name.as_str()) {
            self.families.insert(page.name.clone(), Slot::of(&self.meter, &page));
        }
        match (self.families.get(page.name.as_str()), page.points) {
            (Some(Slot::Counter(values)), Points::Counter(points)) => values.lock().extend(points),
            (Some(Slot::Sum(values)), Points::Sum(points)) => values.lock().extend(points),
            (Some(Slot::Gauge(values)), Points::Gauge(points)) => values.lock().extend(points),
            // This case never happens, because a family keeps its type.
            _ => {}
        }
    }
}

// === impl Slot ===

impl Slot {
    /// Makes the instrument of the page's family.
    fn of(meter: &Meter, page: &Page) -> Self {
        let (name, help) = (page.name.clone(), page.help.clone());
        match page.points {
            Points::Counter(_) => {
                let (values, callback) = values();
                let builder = meter.u64_observable_counter(name).with_description(help);
                builder.with_unit(page.unit).with_callback(callback).build();
                Self::Counter(values)
            }
            Points::Sum(_) => {
                let (values, callback) = values();
                let builder = meter.f64_observable_counter(name).with_description(help);
                builder.with_unit(page.unit).with_callback(callback).build();
                Self::Sum(values)
            }
            Points::Gauge(_) => {
                let (values, callback) = values();
                let builder = meter.f64_observable_gauge(name).with_description(help);
                builder.with_unit(page.unit).with_callback(callback).build();
                Self::Gauge(values)
            }
        }
    }
}

/// The values of a slot, and the callback that takes them out.
fn values<T: Copy + Send + 'static>() -> (Values<T>, impl Fn(&dyn AsyncInstrument<T>) + Send + Sync + 'static)
{
    let values = Values::<T>::default();
    let taken = values.clone();
    let callback = move |instrument: &dyn AsyncInstrument<T>| {
        for (attributes, value) in taken.lock().drain(..) {
            instrument.observe(value, &attributes);
        }
    };
    (values, callback)
}

// === impl Shared ===

impl MetricReader for Shared {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

//! The SDK's observable instruments, which read one slice of the metrics at a time.
//!
//! Nothing is counted here, and nothing is held: an instrument's callback takes the slice's points of its family, and the
//! SDK lets go of an observed value once it is collected. What stays is the time since when each family counts.

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

/// Points of one family in a slice: a label set has one for each flag. The SDK keeps room for them.
///
/// Limit: other points in one request with metrics: 500; past it: another request is made.
const POINTS_PER_REQUEST: usize = LABEL_SETS * ResponseFlag::ALL.len();

/// The instruments of all families, and what reads them.
pub(super) struct Instruments {
    /// Owns the instruments.
    _provider: SdkMeterProvider,
    reader: Arc<ManualReader>,
    meter: Meter,
    families: HashMap<String, Slot>,
}

/// Where an instrument's callback finds the points that it reports next.
enum Slot {
    Counter(Values<u64>),
    Sum(Values<f64>),
    Gauge(Values<f64>),
}

type Values<T> = Arc<Mutex<Vec<(Vec<KeyValue>, T)>>>;

/// The reader is the provider's and ours.
#[derive(Debug)]
struct Shared(Arc<ManualReader>);

// === impl Instruments ===

impl Instruments {
    /// Of all families that are declared, which begin to count now. `resource` is told to the collector.
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
        // The SDK's first reading gives back the room that its instruments begin with.
        instruments.read(pages.collect());
        instruments
    }

    /// A slice of the metrics, as the exporter takes it.
    pub(super) fn read(&mut self, slice: Vec<Page>) -> ResourceMetrics {
        for page in slice {
            self.put(page);
        }
        let mut metrics = ResourceMetrics::default();
        // Fails only once the provider is gone.
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
            // A family keeps its type.
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

/// A slot's values, and the callback that takes them out.
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

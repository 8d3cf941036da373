//! Spans, as the queue and the exporter take them.

use std::sync::Arc;

use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter as _},
};

use super::{
    collector::{Batch, Collector, Transport, build_error},
    http::Answers,
    queue::Item,
};

impl Item for SpanData {
    /// The number of spans is the bound, because this program alone fills the spans.
    fn bytes(&self) -> usize {
        0
    }
}

impl Batch for Vec<SpanData> {
    type Exporter = SpanExporter;

    fn exporter(collector: &Collector, answers: &Arc<Answers>) -> Result<SpanExporter, String> {
        let builder = SpanExporter::builder();
        let built = match collector.transport(answers)? {
            Transport::Grpc(grpc) => grpc.configure(builder.with_tonic()).build(),
            Transport::Http(http) => http.configure(builder.with_http()).build(),
        };
        let mut exporter = built.map_err(|error| build_error(&error))?;
        exporter.set_resource(collector.resource());
        Ok(exporter)
    }

    async fn export(self, exporter: &SpanExporter) -> OTelSdkResult {
        exporter.export(self).await
    }
}

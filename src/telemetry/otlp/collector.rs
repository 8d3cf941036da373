//! The exporters of `opentelemetry-otlp`, over this crate's gRPC channel or HTTP client.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, header::USER_AGENT};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, RetryPolicy, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::{Resource, error::OTelSdkResult};
use tonic::{
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use super::{
    dialer::TlsDialer,
    http::{Answers, Client},
};
use crate::protocols::config::{CollectorConfig, OtlpEndpoint, OtlpProtocol};

/// The pause after the first failed try.
///
/// Limit: pause before a request to the collector is tried again, at first: 100 ms, spread by 20 %; past it: the pause
/// doubles.
const EXPORT_RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest pause, unless the collector asks for a longer one.
///
/// Limit: pause before a request to the collector is tried again, at most: 2 s, spread by 20 %; past it: the pause
/// stays as long.
const EXPORT_RETRY_MAX: Duration = Duration::from_secs(2);
/// The longest random addition to a pause.
///
/// No limit: the spread of a pause.
const EXPORT_RETRY_JITTER: Duration = Duration::from_millis(100);
/// The user agent of the exporter.
const AGENT: &str = concat!("warren/", env!("CARGO_PKG_VERSION"));

/// The collector of one kind of telemetry.
#[derive(Debug)]
pub(in crate::telemetry) struct Collector {
    config: CollectorConfig,
    headers: HeaderMap,
    resource: Resource,
    dialer: Arc<dyn TlsDialer>,
}

/// Telemetry of one kind that is sent in one request.
pub(in crate::telemetry) trait Batch: Send + Sized + 'static {
    /// The exporter that sends the batch.
    type Exporter: Send + Sync;

    /// Makes an exporter to `collector`, which records the collector's replies in `answers`. The exporter belongs to
    /// the runtime that the caller has entered, and connects later.
    ///
    /// # Errors
    /// The endpoint is not valid.
    fn exporter(collector: &Collector, answers: &Arc<Answers>) -> Result<Self::Exporter, String>;

    /// Sends the batch, with retries while the collector may take it and there is time.
    fn export(self, exporter: &Self::Exporter) -> impl Future<Output = OTelSdkResult> + Send;
}

/// The transport of requests.
pub(super) enum Transport {
    Grpc(Grpc),
    Http(Http),
}

/// gRPC over this crate's channel.
pub(super) struct Grpc {
    channel: Channel,
    metadata: MetadataMap,
    timeout: Duration,
}

/// HTTP by this crate's client.
pub(super) struct Http {
    client: Client,
    endpoint: String,
    timeout: Duration,
}

// === impl Collector ===

impl Collector {
    /// The collector of `config`. Requests name `resource`; `dialer` connects to a collector behind TLS.
    pub(in crate::telemetry) fn new(
        config: &CollectorConfig,
        resource: &Resource,
        dialer: Arc<dyn TlsDialer>,
    ) -> Self {
        let mut headers: HeaderMap<HeaderValue> = config.headers.iter().cloned().collect();
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        Self { config: config.clone(), headers, resource: resource.clone(), dialer }
    }

    /// The endpoint of the collector.
    pub(super) fn endpoint(&self) -> &OtlpEndpoint {
        &self.config.endpoint
    }

    /// The time limit of one request, including all its tries.
    pub(super) fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// The resource that identifies the exporting process.
    pub(super) fn resource(&self) -> &Resource {
        &self.resource
    }

    /// A new transport with its own connection, for the runtime that the caller has entered.
    ///
    /// # Errors
    /// The endpoint is not valid.
    pub(super) fn transport(&self, answers: &Arc<Answers>) -> Result<Transport, String> {
        let (endpoint, timeout) = (&self.config.endpoint, self.config.timeout);
        if self.config.protocol == OtlpProtocol::Http {
            let client = Client {
                config: self.config.clone(),
                dialer: self.dialer.clone(),
                headers: self.headers.clone(),
                answers: answers.clone(),
            };
            return Ok(Transport::Http(Http { client, endpoint: endpoint.to_string(), timeout }));
        }
        let channel = if endpoint.tls {
            self.dialer.channel(&self.config).map_err(|error| error.to_string())?
        } else {
            let endpoint = Endpoint::from_shared(endpoint.to_string()).map_err(|error| error.to_string())?;
            endpoint.connect_timeout(timeout).connect_lazy()
        };
        let metadata = MetadataMap::from_headers(self.headers.clone());
        Ok(Transport::Grpc(Grpc { channel, metadata, timeout }))
    }
}

// === impl Grpc ===

impl Grpc {
    /// Passes the channel, the metadata and the bounds to an exporter's builder.
    pub(super) fn configure<B: WithTonicConfig + WithExportConfig>(self, builder: B) -> B {
        let metadata = self.metadata;
        builder
            .with_channel(self.channel)
            .with_timeout(self.timeout)
            .with_retry_policy(retries())
            // The crate also reads headers from the environment, which the settings have read already.
            .with_interceptor(move |mut request: tonic::Request<()>| {
                *request.metadata_mut() = metadata.clone();
                Ok(request)
            })
    }
}

// === impl Http ===

impl Http {
    /// Passes the client and the bounds to an exporter's builder.
    pub(super) fn configure<B: WithHttpConfig + WithExportConfig>(self, builder: B) -> B {
        builder
            .with_http_client(self.client)
            .with_endpoint(self.endpoint)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(self.timeout)
            .with_retry_policy(retries())
    }
}

/// The retry policy: the time of a request bounds its tries, and their number does not.
fn retries() -> RetryPolicy {
    RetryPolicy::recommended()
        .with_max_retries(usize::MAX)
        .with_initial_delay(EXPORT_RETRY_FIRST)
        .with_max_delay(EXPORT_RETRY_MAX)
        .with_max_jitter(EXPORT_RETRY_JITTER)
}

/// The text of an exporter's error of construction.
pub(super) fn build_error(error: &ExporterBuildError) -> String {
    error.to_string()
}

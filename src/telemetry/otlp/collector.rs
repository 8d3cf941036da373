//! The exporters of `opentelemetry-otlp`, over our gRPC channel or our HTTP client.

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

/// Pause after the first try that failed.
///
/// Limit: pause before a request to the collector is tried again, at first: 100 ms, spread by 20 %; past it: the pause
/// doubles.
const EXPORT_RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause, unless the collector asks for a longer one.
///
/// Limit: pause before a request to the collector is tried again, at most: 2 s, spread by 20 %; past it: the pause
/// stays as long.
const EXPORT_RETRY_MAX: Duration = Duration::from_secs(2);
/// Most that chance adds to a pause.
///
/// No limit: the spread of a pause.
const EXPORT_RETRY_JITTER: Duration = Duration::from_millis(100);
/// Name by which the exporter asks.
const AGENT: &str = concat!("warren/", env!("CARGO_PKG_VERSION"));

/// Where one kind of telemetry goes.
#[derive(Debug)]
pub(in crate::telemetry) struct Collector {
    config: CollectorConfig,
    headers: HeaderMap,
    resource: Resource,
    dialer: Arc<dyn TlsDialer>,
}

/// Telemetry of one kind that is sent in one request.
pub(in crate::telemetry) trait Batch: Send + Sized + 'static {
    /// What sends it.
    type Exporter: Send + Sync;

    /// An exporter to `collector`, which writes to `answers` what it is told. Belongs to the runtime that the caller has
    /// entered. Nothing is connected yet.
    ///
    /// # Errors
    /// The endpoint is not valid.
    fn exporter(collector: &Collector, answers: &Arc<Answers>) -> Result<Self::Exporter, String>;

    /// Sends the batch, again and again while the collector may take it and there is time.
    fn export(self, exporter: &Self::Exporter) -> impl Future<Output = OTelSdkResult> + Send;
}

/// How requests are sent.
pub(super) enum Transport {
    Grpc(Grpc),
    Http(Http),
}

/// gRPC, by our channel.
pub(super) struct Grpc {
    channel: Channel,
    metadata: MetadataMap,
    timeout: Duration,
}

/// HTTP, by our client.
pub(super) struct Http {
    client: Client,
    endpoint: String,
    timeout: Duration,
}

// === impl Collector ===

impl Collector {
    /// The collector of `config`, which is told of `resource` and dialled by `dialer` where it is behind TLS.
    pub(in crate::telemetry) fn new(
        config: &CollectorConfig,
        resource: &Resource,
        dialer: Arc<dyn TlsDialer>,
    ) -> Self {
        let mut headers: HeaderMap<HeaderValue> = config.headers.iter().cloned().collect();
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        Self { config: config.clone(), headers, resource: resource.clone(), dialer }
    }

    /// Where requests go.
    pub(super) fn endpoint(&self) -> &OtlpEndpoint {
        &self.config.endpoint
    }

    /// How long one request may take, with all its tries.
    pub(super) fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// Who exports.
    pub(super) fn resource(&self) -> &Resource {
        &self.resource
    }

    /// A new connection's worth of transport, for the runtime that the caller has entered.
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
    /// Gives the channel, the metadata and the bounds to an exporter's builder.
    pub(super) fn configure<B: WithTonicConfig + WithExportConfig>(self, builder: B) -> B {
        let metadata = self.metadata;
        builder
            .with_channel(self.channel)
            .with_timeout(self.timeout)
            .with_retry_policy(retries())
            // The crate reads headers from the environment, too. The settings have read them already.
            .with_interceptor(move |mut request: tonic::Request<()>| {
                *request.metadata_mut() = metadata.clone();
                Ok(request)
            })
    }
}

// === impl Http ===

impl Http {
    /// Gives the client and the bounds to an exporter's builder.
    pub(super) fn configure<B: WithHttpConfig + WithExportConfig>(self, builder: B) -> B {
        builder
            .with_http_client(self.client)
            .with_endpoint(self.endpoint)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(self.timeout)
            .with_retry_policy(retries())
    }
}

/// The time of a request bounds its tries, not their number.
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

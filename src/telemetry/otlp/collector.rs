//! Requests to a collector, by gRPC or HTTP, with what the OTLP specification says of failures.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{RETRY_AFTER, USER_AGENT},
    uri::PathAndQuery,
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
};
use prost::Message;
use rand::Rng;
use tokio::time::{sleep, timeout};
use tonic::{
    Code, Status,
    client::Grpc,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::http::Client;
use crate::{
    actors::control::grpc::{self, GrpcTarget},
    protocols::config::{Address, CollectorConfig, OtlpEndpoint, OtlpProtocol, RootSource, TlsConfig},
};

/// Pause after the first try that failed; each further one doubles it.
/// Limit: pause before a request to the collector is tried again, at first: 100 ms, spread by 20 %; past it: the pause
/// doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause, unless the collector asks for a longer one.
/// Limit: pause before a request to the collector is tried again, at most: 2 s, spread by 20 %; past it: the pause
/// stays as long.
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// Spread of pauses, as a share.
/// No limit: the spread of a pause.
const JITTER: f64 = 0.2;
/// Name by which we ask.
const AGENT: &str = concat!("warren/", env!("CARGO_PKG_VERSION"));

/// Takes requests of one kind of telemetry. Belongs to a runtime.
#[derive(Debug)]
pub(in crate::telemetry) struct Collector {
    config: CollectorConfig,
    headers: HeaderMap,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Grpc(Channel),
    Http(Client),
}

/// A request of the protocol.
pub(in crate::telemetry) trait Request: Message + Clone + 'static {
    /// What it is answered with.
    type Answer: Message + Default + 'static;
    /// The path of the method.
    const METHOD: &'static str;
    /// How many parts the collector did not take, and why.
    fn rejected(answer: Self::Answer) -> Option<Rejected>;
}

/// Parts of a request that the collector did not take.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::telemetry) struct Rejected {
    pub(super) items: u64,
    pub(super) reason: String,
}

/// Why a try failed, and how long to wait at least for another; `None` if there must be none.
#[derive(Debug)]
struct Failed {
    reason: String,
    again: Option<Duration>,
}

/// google.rpc.Status, as far as it is read.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// google.rpc.RetryInfo.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    delay: Option<prost_types::Duration>,
}

// === impl Collector ===

impl Collector {
    /// One of the runtime that the caller has entered. Nothing is connected yet.
    ///
    /// # Errors
    /// The endpoint is none.
    pub(in crate::telemetry) fn new(config: &CollectorConfig) -> Result<Self, String> {
        let mut headers: HeaderMap<HeaderValue> = config.headers.iter().cloned().collect();
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        Ok(Self { way: Way::new(config)?, config: config.clone(), headers })
    }

    /// Where requests go.
    pub(super) fn endpoint(&self) -> &OtlpEndpoint {
        &self.config.endpoint
    }

    /// Sends `request`, again as long as the collector may take it and there is time.
    ///
    /// # Errors
    /// The reason of the last failure.
    pub(super) async fn send<R: Request>(&mut self, request: &R) -> Result<Option<Rejected>, String> {
        let mut last = None;
        let after = self.config.timeout;
        if let Ok(result) = timeout(after, self.tries(request, &mut last)).await {
            return result;
        }
        // It may be gone without a word: the next request finds out by a new connection.
        self.way = Way::new(&self.config)?;
        Err(last.unwrap_or_else(|| format!("no answer within {after:?}")))
    }

    async fn tries<R: Request>(
        &self,
        request: &R,
        last: &mut Option<String>,
    ) -> Result<Option<Rejected>, String> {
        let mut pause = FIRST_PAUSE;
        loop {
            let failed = match self.attempt(request).await {
                Ok(answer) => return Ok(R::rejected(answer)),
                Err(failed) => failed,
            };
            let Some(least) = failed.again else { return Err(failed.reason) };
            *last = Some(failed.reason);
            let spread = rand::rng().random_range(1.0 - JITTER..=1.0 + JITTER);
            sleep(pause.mul_f64(spread).max(least)).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn attempt<R: Request>(&self, request: &R) -> Result<R::Answer, Failed> {
        match &self.way {
            Way::Grpc(channel) => {
                let mut grpc = Grpc::new(channel.clone());
                grpc.ready().await.map_err(|error| Failed::soon(&error))?;
                let mut message = tonic::Request::new(request.clone());
                *message.metadata_mut() = MetadataMap::from_headers(self.headers.clone());
                let codec = ProstCodec::<R, R::Answer>::default();
                let answer = grpc.unary(message, PathAndQuery::from_static(R::METHOD), codec).await;
                answer.map(tonic::Response::into_inner).map_err(|status| Failed::by(&status))
            }
            Way::Http(client) => {
                let answer = client.post(&self.headers, request.encode_to_vec()).await;
                let answer = answer.map_err(|error| Failed::soon(&error))?;
                if answer.status().is_success() {
                    // Some collectors answer with nothing, or with JSON.
                    return Ok(R::Answer::decode(answer.into_body()).unwrap_or_default());
                }
                Err(Failed::with(answer.status(), answer.headers()))
            }
        }
    }
}

// === impl Way ===

impl Way {
    fn new(config: &CollectorConfig) -> Result<Self, String> {
        let endpoint = &config.endpoint;
        if config.protocol == OtlpProtocol::Http {
            let (path, tls) = (endpoint.path.clone(), endpoint.tls);
            return Ok(Self::Http(Client { target: target(config), tls, path }));
        }
        if endpoint.tls {
            return grpc::lazily(&target(config)).map(Self::Grpc).map_err(|error| error.to_string());
        }
        let endpoint = Endpoint::from_shared(endpoint.to_string()).map_err(|error| error.to_string())?;
        Ok(Self::Grpc(endpoint.connect_timeout(config.timeout).connect_lazy()))
    }
}

fn target(config: &CollectorConfig) -> GrpcTarget {
    let (host, port) = (config.endpoint.host.clone(), config.endpoint.port);
    let roots = config.roots.as_ref().map_or(RootSource::System, |path| RootSource::File(path.clone()));
    GrpcTarget {
        tls: TlsConfig { tls12: true, ..TlsConfig::default() },
        connect_timeout: config.timeout,
        ..GrpcTarget::at(Address { host, port }, roots)
    }
}

// === impl Failed ===

impl Failed {
    /// Nobody answered.
    fn soon(error: &dyn std::error::Error) -> Self {
        Self { reason: error.to_string(), again: Some(Duration::ZERO) }
    }

    /// gRPC's answer (the OTLP specification, "Failures" of OTLP/gRPC).
    fn by(status: &Status) -> Self {
        let again = match status.code() {
            Code::ResourceExhausted => retry_delay(status.details()),
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss => Some(retry_delay(status.details()).unwrap_or_default()),
            _ => None,
        };
        let reason = match grpc::cause(status) {
            Some(cause) => cause.to_string(),
            None => format!("{}: {}", status.code(), status.message()),
        };
        Self { reason, again }
    }

    /// HTTP's answer (the OTLP specification, "Failures" of OTLP/HTTP). Of the forms of `Retry-After`, seconds are read.
    fn with(status: StatusCode, headers: &HeaderMap) -> Self {
        let seconds = |name: HeaderName| headers.get(name)?.to_str().ok()?.trim().parse().ok();
        let again = match status.as_u16() {
            429 | 502..=504 => Some(Duration::from_secs(seconds(RETRY_AFTER).unwrap_or_default())),
            _ => None,
        };
        Self { reason: format!("HTTP status {status}"), again }
    }
}

/// How long gRPC's answer asks to wait.
fn retry_delay(details: &[u8]) -> Option<Duration> {
    let details = Details::decode(details).ok()?.details;
    let info = details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    Duration::try_from(RetryInfo::decode(info.value.as_slice()).ok()?.delay?).ok()
}

// === impl Request ===

/// Nothing is rejected, and there is no warning either.
fn rejected(items: i64, reason: String) -> Option<Rejected> {
    let items = u64::try_from(items).unwrap_or_default();
    (items > 0 || !reason.is_empty()).then_some(Rejected { items, reason })
}

impl Request for ExportTraceServiceRequest {
    type Answer = ExportTraceServiceResponse;
    const METHOD: &'static str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

    fn rejected(answer: Self::Answer) -> Option<Rejected> {
        answer.partial_success.and_then(|part| rejected(part.rejected_spans, part.error_message))
    }
}

impl Request for ExportLogsServiceRequest {
    type Answer = ExportLogsServiceResponse;
    const METHOD: &'static str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

    fn rejected(answer: Self::Answer) -> Option<Rejected> {
        answer.partial_success.and_then(|part| rejected(part.rejected_log_records, part.error_message))
    }
}

impl Request for ExportMetricsServiceRequest {
    type Answer = ExportMetricsServiceResponse;
    const METHOD: &'static str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

    fn rejected(answer: Self::Answer) -> Option<Rejected> {
        answer.partial_success.and_then(|part| rejected(part.rejected_data_points, part.error_message))
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Any;

    use super::*;

    #[test]
    fn what_may_be_taken_later_is_told_from_what_never_will() {
        let info = RetryInfo { delay: Some(prost_types::Duration { seconds: 3, nanos: 0 }) };
        let any =
            Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: info.encode_to_vec() };
        let details: bytes::Bytes = Details { details: vec![any] }.encode_to_vec().into();
        let (soon, later) = (Some(Duration::ZERO), Some(Duration::from_secs(3)));
        for (code, plain, delayed) in [
            (Code::Unavailable, soon, later),
            (Code::DeadlineExceeded, soon, later),
            (Code::ResourceExhausted, None, later),
            (Code::InvalidArgument, None, None),
            (Code::Unauthenticated, None, None),
        ] {
            assert_eq!(Failed::by(&Status::new(code, "x")).again, plain, "{code:?}");
            let status = Status::with_details(code, "x", details.clone());
            assert_eq!(Failed::by(&status).again, delayed, "{code:?}");
        }
        let mut headers = HeaderMap::new();
        for (status, plain, delayed) in
            [(503, soon, later), (429, soon, later), (502, soon, later), (400, None, None), (500, None, None)]
        {
            let status = StatusCode::from_u16(status).unwrap();
            headers.remove(RETRY_AFTER);
            assert_eq!(Failed::with(status, &headers).again, plain, "{status}");
            headers.insert(RETRY_AFTER, HeaderValue::from_static("3"));
            assert_eq!(Failed::with(status, &headers).again, delayed, "{status}");
        }
    }

    #[test]
    fn an_answer_without_complaint_rejects_nothing() {
        assert_eq!(rejected(0, String::new()), None);
        assert_eq!(rejected(-1, "odd".into()), Some(Rejected { items: 0, reason: "odd".into() }));
        assert_eq!(rejected(2, String::new()), Some(Rejected { items: 2, reason: String::new() }));
    }
}

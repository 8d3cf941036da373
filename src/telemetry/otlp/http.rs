//! HTTP/1.1 to a collector, with a new connection for each request, because requests are seconds apart.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header, uri::InvalidUri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use parking_lot::Mutex;
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::dialer::{DialError, TlsDialer};
use crate::protocols::config::{CollectorConfig, OtlpEndpoint};

/// The size limit of an answer, equal to that of gRPC.
///
/// Limit: a collector's answer: 4 MiB; past it: the request failed.
const COLLECTOR_ANSWER_BYTES: usize = 4 << 20;

/// Sends requests to one collector. The exporter bounds the time.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) config: CollectorConfig,
    pub(super) dialer: Arc<dyn TlsDialer>,
    pub(super) headers: HeaderMap,
    pub(super) answers: Arc<Answers>,
}

/// The facts about a request that the HTTP client learns and the exporter does not pass on.
#[derive(Debug, Default)]
pub(in crate::telemetry) struct Answers {
    /// The error of the last try without an answer.
    pub(super) error: Mutex<Option<String>>,
    /// The parts of an accepted request that the collector rejected.
    pub(super) rejected: Mutex<Option<Rejected>>,
}

/// The parts of a request that the collector rejected.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    pub(super) items: u64,
    pub(super) reason: String,
}

/// The error of a request without an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    /// The TLS connection failed.
    #[error("{0}")]
    Tls(DialError),
    /// The TCP connection failed.
    #[error("cannot connect: {0}")]
    Tcp(io::Error),
    /// The path is not valid.
    #[error("bad endpoint: {0}")]
    LocalPath(#[from] InvalidUri),
    /// The host is not valid.
    #[error("bad endpoint: {0}")]
    LocalHost(#[from] header::InvalidHeaderValue),
    /// The HTTP exchange broke off.
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// The answer's body broke off, or is too long.
    #[error("answer: {0}")]
    Answer(Box<dyn std::error::Error + Send + Sync>),
}

/// The protocol's answers, which have one shape for spans, log records and metrics (`Export…ServiceResponse`).
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

/// The protocol's `Export…PartialSuccess`.
#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

// === impl Client ===

#[tonic::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        match self.post(request).await {
            Ok(answer) => {
                *self.answers.error.lock() = None;
                if answer.status().is_success() {
                    *self.answers.rejected.lock() = rejected(answer.body());
                }
                Ok(answer)
            }
            Err(error) => {
                *self.answers.error.lock() = Some(error.to_string());
                Err(error.into())
            }
        }
    }
}

impl Client {
    /// Posts the body of `request`, with the headers of the settings.
    async fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, PostError> {
        let mut request = request.map(Full::new);
        let to = &self.config.endpoint;
        *request.uri_mut() = to.path.parse()?;
        let content_type = request.headers_mut().remove(header::CONTENT_TYPE);
        *request.headers_mut() = self.headers.clone();
        let own = request.headers_mut();
        own.insert(header::HOST, HeaderValue::from_str(&authority(to))?);
        own.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Some(content_type) = content_type {
            own.insert(header::CONTENT_TYPE, content_type);
        }
        if to.tls {
            return exchange(self.dialer.http1(&self.config).await.map_err(PostError::Tls)?, request).await;
        }
        let stream = TcpStream::connect((to.host.as_str(), to.port)).await;
        exchange(stream.map_err(PostError::Tcp)?, request).await
    }
}

/// The collector's host and port.
fn authority(to: &OtlpEndpoint) -> String {
    if to.host.contains(':') {
        format!("[{}]:{}", to.host, to.port)
    } else {
        format!("{}:{}", to.host, to.port)
    }
}

async fn exchange<Io: AsyncRead + AsyncWrite + Unpin + Send>(
    io: Io,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, PostError> {
    let (mut send, connection) = http1::handshake(TokioIo::new(io)).await?;
    let answered = async move {
        let (head, body) = send.send_request(request).await?.into_parts();
        let body = Limited::new(body, COLLECTOR_ANSWER_BYTES).collect().await.map_err(PostError::Answer)?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    let (mut answered, mut connection) = (std::pin::pin!(answered), std::pin::pin!(connection));
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        ended = &mut connection => {
            ended?;
            answered.await
        }
    }
}

// === impl Answers ===

impl Answers {
    /// Forgets the answers to earlier requests.
    pub(super) fn clear(&self) {
        *self.error.lock() = None;
        *self.rejected.lock() = None;
    }
}

/// The parts that the collector rejected, and the reason. Some collectors answer with an empty body or JSON, which
/// reject nothing.
fn rejected(answer: &[u8]) -> Option<Rejected> {
    let partial = ExportResponse::decode(answer).ok()?.partial_success?;
    let items = u64::try_from(partial.rejected).unwrap_or_default();
    let reason = partial.error_message;
    (items > 0 || !reason.is_empty()).then_some(Rejected { items, reason })
}

#[cfg(any(test, fuzzing))]
/// What a collector with this connection says to a request: its status, and how many parts it rejected and why.
pub(crate) async fn collector_says<Io: AsyncRead + AsyncWrite + Unpin + Send>(
    io: Io,
) -> Result<(u16, Option<(u64, String)>), String> {
    let answer = exchange(io, Request::new(Full::default())).await.map_err(|error| error.to_string())?;
    let rejected = rejected(answer.body()).map(|rejected| (rejected.items, rejected.reason));
    Ok((answer.status().as_u16(), rejected))
}

#[cfg(test)]
mod tests;

//! HTTP/1.1 to a collector: a connection for each request, which comes every few seconds.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header, uri::InvalidUri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::actors::control::grpc::{self, GrpcError, GrpcTarget};

/// Most bytes of an answer, as gRPC takes.
/// Limit: a collector's answer: 4 MiB; past it: the request failed.
const MAX_ANSWER: usize = 4 << 20;

/// Sends requests to one collector. The caller bounds the time.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) target: GrpcTarget,
    pub(super) tls: bool,
    pub(super) path: String,
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    /// TLS does not stand.
    #[error(transparent)]
    Tls(#[from] GrpcError),
    /// TCP does not stand.
    #[error("cannot connect: {0}")]
    Tcp(io::Error),
    /// The path or the host is none.
    #[error("bad endpoint: {0}")]
    LocalPath(#[from] InvalidUri),
    /// The host is none.
    #[error("bad endpoint: {0}")]
    LocalHost(#[from] header::InvalidHeaderValue),
    /// The exchange broke off.
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// The answer's body broke off, or is too long.
    #[error("answer: {0}")]
    Answer(Box<dyn std::error::Error + Send + Sync>),
}

// === impl Client ===

impl Client {
    /// Posts `body` with `headers`.
    ///
    /// # Errors
    /// See [`PostError`].
    pub(super) async fn post(
        &self,
        headers: &HeaderMap,
        body: Vec<u8>,
    ) -> Result<Response<Bytes>, PostError> {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.parse()?;
        *request.headers_mut() = headers.clone();
        let own = request.headers_mut();
        own.insert(header::HOST, HeaderValue::from_str(&self.target.to_string())?);
        own.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        own.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if self.tls {
            return exchange(grpc::http1(&self.target).await?, request).await;
        }
        let stream = TcpStream::connect((self.target.address.host.as_str(), self.target.address.port)).await;
        exchange(stream.map_err(PostError::Tcp)?, request).await
    }
}

async fn exchange<Io: AsyncRead + AsyncWrite + Unpin + Send>(
    io: Io,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, PostError> {
    let (mut send, connection) = http1::handshake(TokioIo::new(io)).await?;
    let answered = async move {
        let (head, body) = send.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(PostError::Answer)?;
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

//! HTTP/1.1 to a collector: a connection for each request, which comes every few seconds.

use std::{future::Future, pin::Pin};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::actors::grpc::{self, GrpcTarget};

/// Most bytes of an answer, as the exporter's own clients take.
const MAX_ANSWER: usize = 4 << 20;

/// Sends requests to one collector. The caller bounds the time.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) target: GrpcTarget,
    pub(super) tls: bool,
}

// === impl Client ===

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            if self.tls {
                exchange(grpc::http1(&self.target).await?, request).await
            } else {
                exchange(TcpStream::connect((self.target.host.as_str(), self.target.port)).await?, request)
                    .await
            }
        })
    }
}

async fn exchange<Io: AsyncRead + AsyncWrite + Unpin + Send>(
    io: Io,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let (mut send, connection) = http1::handshake(TokioIo::new(io)).await?;
    let (mut head, body) = request.into_parts();
    if let Some(authority) = head.uri.authority() {
        head.headers.insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    }
    head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    head.uri = head.uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
    let answered = async move {
        let (head, body) = send.send_request(Request::from_parts(head, Full::new(body))).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
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

//! Requests and answers of the small HTTP servers.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Response, StatusCode, header, request::Parts};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{mpsc, watch};

use crate::supervisor::OwnedTask;

/// An answer.
pub(crate) type Answer = Response<AnswerBody>;

/// The body of an answer.
#[derive(Debug)]
pub enum AnswerBody {
    /// All of the body, until it is taken.
    Whole(Option<Bytes>),
    /// A body that is still being written.
    Streamed(mpsc::Receiver<Chunk>),
    /// A body that a task writes, which ends with the body.
    Fed(mpsc::Receiver<Chunk>, OwnedTask),
}

/// Whether the server stops. Requests have it among their extensions.
#[derive(Clone, Debug)]
pub(crate) struct Stopping(watch::Receiver<bool>);

/// A piece of a streamed body.
#[derive(Debug)]
pub enum Chunk {
    /// The next bytes.
    Bytes(Bytes),
    /// The body is complete.
    End,
}

/// A streamed body ended before it was complete. The connection is closed without the mark of a complete body.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut short")]
pub struct CutShort;

/// An answer on its way.
pub(crate) type AnswerFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Answers requests. Bodies of requests are not read: no endpoint has use for one.
pub(crate) type Handler = Arc<dyn Fn(Parts) -> AnswerFuture + Send + Sync>;

/// The media type of JSON.
pub(crate) const JSON: &str = "application/json";

/// The media type of text.
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

/// A handler out of an async function.
pub(crate) fn handler<F>(answer: impl Fn(Parts) -> F + Send + Sync + 'static) -> Handler
where
    F: Future<Output = Answer> + Send + 'static,
{
    Arc::new(move |request| Box::pin(answer(request)))
}

/// An answer with a body of the given media type.
pub(crate) fn body(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(AnswerBody::Whole(Some(body.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    answer
}

/// An answer whose body is still being written. The body is complete with [`Chunk::End`].
pub(crate) fn streamed(media_type: &'static str, chunks: mpsc::Receiver<Chunk>) -> Answer {
    let mut answer = Response::new(AnswerBody::Streamed(chunks));
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    answer
}

/// An answer whose body `task` writes. The task ends with the body, whose reader may have gone.
pub(crate) fn fed(media_type: &'static str, chunks: mpsc::Receiver<Chunk>, task: OwnedTask) -> Answer {
    let mut answer = Response::new(AnswerBody::Fed(chunks, task));
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    answer
}

/// An answer of text.
pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    body(status, TEXT, text)
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(AnswerBody::Whole(None));
    *answer.status_mut() = status;
    answer
}

/// Whether the list in `header` names `wanted`, its parameters aside and unless its quality is zero.
pub(crate) fn accepts(headers: &HeaderMap, header: HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(header);
    values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
        let refused = parts.any(|part| {
            part.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()).is_some_and(|q| q <= 0.0)
        });
        named && !refused
    })
}

/// The parameters of a query, decoded. A name without `=` has an empty value.
pub(crate) fn query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// The value of a query: `+` is a space there.
fn decode(text: &str) -> String {
    percent_decode(&text.replace('+', " "))
}

/// Undoes percent encoding; what is not encoded right stays as it is, bytes that are no UTF-8 become U+FFFD.
pub(crate) fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail.split_at_checked(2).and_then(|(hex, tail)| {
            let hex =
                std::str::from_utf8(hex).ok().filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
            Some((u8::from_str_radix(hex, 16).ok()?, tail))
        });
        (rest, _) = match (first, escaped) {
            (b'%', Some((byte, tail))) => (tail, out.push(byte)),
            (byte, _) => (tail, out.push(*byte)),
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}

// === impl Stopping ===

impl Stopping {
    /// Follows `stop`, which is true once the server stops.
    pub(crate) fn new(stop: watch::Receiver<bool>) -> Self {
        Self(stop)
    }

    /// Resolves when the server stops.
    pub(crate) async fn wait(&mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

// === impl AnswerBody ===

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        Poll::Ready(match self.get_mut() {
            Self::Whole(body) => body.take().map(|bytes| Ok(Frame::data(bytes))),
            Self::Streamed(chunks) | Self::Fed(chunks, _) => match ready!(chunks.poll_recv(cx)) {
                Some(Chunk::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(Chunk::End) => None,
                None => Some(Err(CutShort)),
            },
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            Self::Streamed(_) | Self::Fed(..) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests;

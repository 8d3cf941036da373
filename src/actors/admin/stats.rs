//! The scrape endpoint (docs/spec/controlplane.md 5.1).
//!
//! Of the encodings a scraper may ask for, gzip is served; Prometheus asks for no other.

use std::{
    io::{self, Write},
    sync::Arc,
};

use flate2::{Compression, write::GzEncoder};
use http::{
    StatusCode,
    header::{self, HeaderValue},
    request::Parts,
};
use tokio::sync::Semaphore;

use super::http::{Answer, Handler, TEXT, accepts, body, empty, handler, text};
use crate::telemetry::metrics::{Metrics, OPENMETRICS};

/// Why a scrape was not answered.
#[derive(Debug, thiserror::Error)]
enum ScrapeError {
    #[error("the scrape was cut off: {0}")]
    Cut(#[from] tokio::task::JoinError),
    #[error("cannot compress: {0}")]
    Compress(#[from] io::Error),
}

/// Answers `/metrics` and `/stats/prometheus`.
/// Limit: scrapes at a time: 1; past it: the others wait.
pub(crate) fn scrapes(metrics: Arc<Metrics>) -> Handler {
    // A body can take megabytes: one at a time.
    let turns = Arc::new(Semaphore::new(1));
    handler(move |request| answer(request, Arc::clone(&metrics), Arc::clone(&turns)))
}

async fn answer(request: Parts, metrics: Arc<Metrics>, turns: Arc<Semaphore>) -> Answer {
    if !matches!(request.uri.path(), "/metrics" | "/stats/prometheus") {
        return empty(StatusCode::NOT_FOUND);
    }
    let openmetrics = accepts(&request.headers, header::ACCEPT, "application/openmetrics-text");
    let gzip = accepts(&request.headers, header::ACCEPT_ENCODING, "gzip");
    // The semaphore is never closed.
    let _turn = turns.acquire().await;
    match scrape(metrics, gzip).await {
        Ok(bytes) => {
            let mut answer = body(StatusCode::OK, if openmetrics { OPENMETRICS } else { TEXT }, bytes);
            let headers = answer.headers_mut();
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
            if gzip {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            answer
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// The body, made on a thread of its own: thousands of series must not hold up the control runtime.
async fn scrape(metrics: Arc<Metrics>, gzip: bool) -> Result<Vec<u8>, ScrapeError> {
    let made = tokio::task::spawn_blocking(move || {
        let text = metrics.encode();
        if !gzip {
            return Ok(text.into_bytes());
        }
        let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
        encoder.write_all(text.as_bytes())?;
        encoder.finish()
    });
    Ok(made.await??)
}

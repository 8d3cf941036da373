//! The page for people, at `/` of the admin port: what is wrong first, then everything else, as it changes.

mod cells;
mod document;
mod feed;
mod findings;
mod html;
mod rates;
#[cfg(test)]
pub(in crate::actors::admin) mod samples;
mod sections;
mod tables;
#[cfg(test)]
mod tests;
pub(crate) mod view;
mod why;

use http::{HeaderName, StatusCode, header, header::HeaderValue, request::Parts};
use tokio::{sync::mpsc, task::JoinError};

use self::{
    document::document,
    feed::{Feed, VIEWERS},
    view::Look,
    why::Asked,
};
use super::{
    http::{Answer, body, empty, fed, query, text},
    why::Why,
};
use crate::supervisor::OwnedTask;

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const ICON: &str = include_str!("page.svg");

/// What every answer tells a browser: nothing from elsewhere, nothing written into the markup, no frame around it.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// What answers `/` and what belongs to it. A clone is cheap.
#[derive(Clone)]
pub struct Page {
    feed: Feed,
    why: Why,
}

// === impl Page ===

impl Page {
    /// Shows what `look` sees, and has `why` explain connections.
    pub(crate) fn new(look: Look, why: Why) -> Self {
        Self { feed: Feed::new(look), why }
    }

    /// The same with another time between two snapshots.
    #[cfg(test)]
    pub(in crate::actors::admin) fn every(look: Look, why: Why, every: std::time::Duration) -> Self {
        Self { feed: Feed::with(look, every), why }
    }

    /// The number of viewers who could follow now, beside those who do.
    #[cfg(test)]
    pub(in crate::actors::admin) fn free_seats(&self) -> usize {
        let seats: Vec<_> = std::iter::from_fn(|| self.feed.seat()).collect();
        seats.len()
    }

    /// Answers a request for the page or for something that belongs to it.
    pub(super) async fn answer(&self, request: &Parts) -> Answer {
        let mut answer = match request.uri.path() {
            "/" => self.page(request).await,
            "/page.css" => body(StatusCode::OK, "text/css; charset=utf-8", STYLE),
            "/page.js" => body(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT),
            "/page.svg" => body(StatusCode::OK, "image/svg+xml", ICON),
            "/page/updates" => self.updates(request),
            "/page/why" => {
                let asked = self.asked(request).await;
                body(StatusCode::OK, HTML, why::answer(&asked).into_string())
            }
            _ => empty(StatusCode::NOT_FOUND),
        };
        for (name, value) in HEADERS {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    }

    async fn page(&self, request: &Parts) -> Answer {
        let asked = self.asked(request).await;
        match self.feed.current().await {
            Ok(snapshot) => {
                let page = document(&snapshot.view, &snapshot.parts, &asked);
                body(StatusCode::OK, HTML, page.into_string())
            }
            Err(error) => broken(&error),
        }
    }

    /// What the form asks, with the answer.
    async fn asked(&self, request: &Parts) -> Asked {
        let asked = request.uri.query().unwrap_or_default();
        let parameters = query(asked);
        let find = |wanted: &str| {
            let found = parameters.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let (source, destination) = (find("source"), find("destination"));
        if source.is_empty() && destination.is_empty() {
            return Asked::default();
        }
        let explained = self.why.explained(asked).await.map_err(|(_, wrong)| wrong);
        let answer = explained.and_then(|explained| {
            serde_json::from_value(explained).map(Box::new).map_err(|error| error.to_string())
        });
        Asked { source, destination, answer: Some(answer) }
    }

    /// What changes, as it changes.
    fn updates(&self, request: &Parts) -> Answer {
        let Some(seat) = self.feed.seat() else {
            let full =
                format!("{VIEWERS} viewers follow this page already; a reload still shows its state\n");
            return text(StatusCode::SERVICE_UNAVAILABLE, full);
        };
        // Limit: updates of the page that wait for a viewer: 1; past it: the viewer misses some.
        let (viewer, chunks) = mpsc::channel(1);
        let following = self.feed.clone().follow(viewer, request.extensions.get().cloned(), seat);
        fed("text/event-stream", chunks, OwnedTask::spawn("page/viewer", following, |_| {}))
    }
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page").finish_non_exhaustive()
    }
}

fn broken(error: &JoinError) -> Answer {
    text(StatusCode::INTERNAL_SERVER_ERROR, format!("the state cannot be shown: {error}\n"))
}

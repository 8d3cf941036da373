//! The admin endpoints (docs/spec/controlplane.md 7.1 to 7.3).

use std::{net::IpAddr, pin::Pin, sync::Arc};

use http::{HeaderMap, Method, StatusCode, header, request::Parts, uri::Authority};
use serde_json::{Value, json};

use super::{
    chaos::Chaos,
    cut::Cutter,
    dump::Dump,
    events::EventsPage,
    http::{Answer, Handler, JSON, body, empty, handler, query, text},
    page::Page,
    profiles::Profiles,
    why::Why,
};
use crate::{
    protocols::config::FilterError,
    telemetry::log::{LogError, LogHandle},
};

const LOGGING_USAGE: &str = "\
usage: POST /logging\t\t\t\t\t\t(to list current level)
usage: POST /logging?level=<level>\t\t\t\t(to change the global level)
usage: POST /logging?level={mod1}=<level>,{mod2}=<level>\t(to change specific modules)
usage: POST /logging?reset&level=...\t\t\t\t(to go back to the startup levels first)
hint: levels are off, error, warn, info, debug and trace
";

/// What asks a part of the process for what it knows, to be shown as JSON. An error is shown as text.
pub(crate) type Provider =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Value, ProviderError>> + Send>> + Send + Sync>;

/// A part of the process could not say what it knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProviderError(pub String);

/// What the admin endpoints act on.
#[derive(Clone)]
pub struct Console {
    /// The page for people, at `/`.
    pub page: Page,
    /// The log that `/logging` changes.
    pub log: LogHandle,
    /// What `/config_dump` shows.
    pub config_dump: Dump,
    /// What `/actors` shows.
    pub actors: Provider,
    /// What `/crashes` shows.
    pub crashes: Provider,
    /// What `/quarantine` shows.
    pub quarantine: Provider,
    /// What `/live` shows.
    pub live: Dump,
    /// What `/events` shows.
    pub events: EventsPage,
    /// What ends connections on request.
    pub cutter: Cutter,
    /// What explains connections.
    pub why: Why,
    /// What takes profiles.
    pub profiles: Profiles,
    /// What breaks the process on request.
    pub chaos: Chaos,
    /// Begins the shutdown; called by `/quitquitquit`, perhaps more than once.
    pub quit: Arc<dyn Fn() + Send + Sync>,
}

/// A provider out of an async function.
pub(crate) fn provider<F>(ask: impl Fn() -> F + Send + Sync + 'static) -> Provider
where
    F: Future<Output = Result<Value, ProviderError>> + Send + 'static,
{
    Arc::new(move || Box::pin(ask()))
}

/// The version and the build of the program, in the dump and by `warren version -o json`. All values are texts.
pub fn version(istio_version: &str) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "gitRevision": env!("WARREN_GIT_REVISION"),
        "rustVersion": env!("WARREN_RUSTC_VERSION"),
        "buildProfile": env!("WARREN_PROFILE"),
        "buildStatus": "Unknown",
        "target": env!("WARREN_TARGET"),
        "istioVersion": istio_version,
        "cryptoProvider": env!("WARREN_CRYPTO_VERSIONS"),
    })
}

// === impl Console ===

impl Console {
    /// What answers the admin port.
    pub fn handler(self) -> Handler {
        handler(move |request| self.clone().answer(request))
    }

    async fn answer(self, request: Parts) -> Answer {
        if let Err(refused) = check_origin(&request.headers) {
            return text(StatusCode::FORBIDDEN, refused);
        }
        match request.uri.path() {
            "/" | "/page.css" | "/page.js" | "/page.svg" | "/page/updates" | "/page/why" => {
                self.page.answer(&request).await
            }
            "/config_dump" => self.config_dump.answer(&request).await,
            "/actors" => dump(&self.actors).await,
            "/crashes" => dump(&self.crashes).await,
            "/quarantine" => dump(&self.quarantine).await,
            "/live" => self.live.answer(&request).await,
            "/events" => self.events.answer(&request).await,
            "/why" => self.why.answer(&request).await,
            path if path.starts_with("/debug/") => self.profiles.answer(&request).await,
            "/logging" => logging(&self.log, &request),
            "/quitquitquit" if request.method == Method::POST => {
                tracing::info!(target: "admin", "shutdown asked for by /quitquitquit");
                (self.quit)();
                text(StatusCode::OK, "shutdown now\n")
            }
            "/quitquitquit" => text(StatusCode::METHOD_NOT_ALLOWED, "usage: POST /quitquitquit\n"),
            _ => {
                let answer = self.cutter.answer(&request).or_else(|| self.chaos.answer(&request));
                answer.unwrap_or_else(|| empty(StatusCode::NOT_FOUND))
            }
        }
    }
}

/// Refuses requests that a page of another origin has a browser make. Such a page reaches the console by a name that
/// resolves to a loopback address, or it says where it comes from.
fn check_origin(headers: &HeaderMap) -> Result<(), &'static str> {
    let Some(host) = headers.get(header::HOST) else { return Ok(()) };
    let host = host.to_str().unwrap_or_default();
    let name = host.parse::<Authority>().map(|authority| authority.host().to_owned()).unwrap_or_default();
    let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    // A name without a dot belongs to this machine or cluster, and to no stranger.
    if ip.is_err() && (name.is_empty() || name.contains('.')) {
        return Err("the host of a request is an address or a name without dots, such as localhost\n");
    }
    match headers.get(header::ORIGIN) {
        Some(origin)
            if origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://")) != Some(host) =>
        {
            Err("requests from pages of another origin are refused\n")
        }
        _ => Ok(()),
    }
}

/// Pretty JSON with sorted keys: serde_json's maps are sorted.
async fn dump(provider: &Provider) -> Answer {
    let value = match provider().await {
        Ok(value) => value,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    };
    // A hundred thousand workloads take a while to write: not on the control runtime.
    let written = tokio::task::spawn_blocking(move || serde_json::to_string_pretty(&value)).await;
    match written {
        Ok(Ok(text)) => body(StatusCode::OK, JSON, text),
        Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn logging(log: &LogHandle, request: &Parts) -> Answer {
    if request.method != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, format!("Invalid HTTP method\n{LOGGING_USAGE}"));
    }
    let parameters = query(request.uri.query().unwrap_or_default());
    let reset = parameters.iter().any(|(name, _)| name == "reset");
    let levels: Vec<&str> =
        parameters.iter().filter(|(name, _)| name == "level").map(|(_, value)| value.as_str()).collect();
    match log.change(reset, &levels.join(",")) {
        Ok(filter) => text(StatusCode::OK, format!("current log level is {filter}\n")),
        Err(LogError::Filter(error)) => {
            let wrong = match error {
                FilterError::Clause(clause) => clause,
                other => other.to_string(),
            };
            text(StatusCode::BAD_REQUEST, format!("Invalid level provided: {wrong}\n{LOGGING_USAGE}"))
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests;

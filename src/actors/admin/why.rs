//! `/why`: explains what becomes of a connection.
//!
//! `/why?source=POD&destination=SERVICE:PORT` explains a connection. `/why?client=IP&to=IP:PORT`, perhaps with
//! `&identity=` and `&authority=`, explains what arrives at a pod of this node.

use std::{str::FromStr, sync::Arc, time::Duration};

use http::{StatusCode, request::Parts};
use serde_json::Value;
use tokio::{sync::Semaphore, time::timeout};

use super::http::{Answer, JSON, body, query, text};
use crate::protocols::why::Arrival;

/// Limit: time that an explanation waits for others: 2 s; past it: the answer is 503.
const TURN_WITHIN: Duration = Duration::from_secs(2);
/// Limit: explanations at a time: 2; past it: the others wait.
const AT_A_TIME: usize = 2;
const USAGE: &str = "\
usage: /why?source=<pod or address>&destination=<service, pod, name or address>[:port]
usage: /why?client=<address>&to=<address:port>[&identity=<spiffe://...>][&authority=<host:port>]
";

/// What is to be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// A connection from a pod or address to a destination.
    Connection {
        /// Who connects.
        source: String,
        /// What for.
        destination: String,
    },
    /// A connection or stream that arrives at a pod.
    Arrival(Arrival),
}

/// Explains. An error says what does not exist and what does.
pub(crate) type Explain = Arc<dyn Fn(&Question) -> Result<Value, String> + Send + Sync>;

/// What answers `/why`. A clone is cheap.
#[derive(Clone)]
pub struct Why {
    explain: Explain,
    turns: Arc<Semaphore>,
}

// === impl Why ===

impl Why {
    /// Answers by `explain`, which may take as long as a walk over the tables.
    pub(crate) fn new(explain: Explain) -> Self {
        Self { explain, turns: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// Answers a request.
    pub(super) async fn answer(&self, request: &Parts) -> Answer {
        match self.explained(request.uri.query().unwrap_or_default()).await {
            Ok(explanation) => body(StatusCode::OK, JSON, format!("{explanation:#}\n")),
            Err((StatusCode::BAD_REQUEST, wrong)) => {
                text(StatusCode::BAD_REQUEST, format!("{wrong}\n{USAGE}"))
            }
            Err((status, wrong)) => text(status, format!("{wrong}\n")),
        }
    }

    /// Answers the question of a query.
    ///
    /// # Errors
    /// The status and the words of what is wrong with the question, or with whoever answers.
    pub(super) async fn explained(&self, asked: &str) -> Result<Value, (StatusCode, String)> {
        let question = Question::parse(asked).map_err(|wrong| (StatusCode::BAD_REQUEST, wrong))?;
        let Ok(Ok(turn)) = timeout(TURN_WITHIN, self.turns.clone().acquire_owned()).await else {
            let busy = "others are being answered: try again".to_owned();
            return Err((StatusCode::SERVICE_UNAVAILABLE, busy));
        };
        let explain = self.explain.clone();
        let explained = tokio::task::spawn_blocking(move || {
            let explained = explain(&question);
            drop(turn);
            explained
        });
        match explained.await {
            Ok(explained) => explained.map_err(|unknown| (StatusCode::NOT_FOUND, unknown)),
            Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        }
    }
}

impl std::fmt::Debug for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Why").finish_non_exhaustive()
    }
}

// === impl Question ===

impl Question {
    /// The question of a query. An error names the parameter that is wrong or missing.
    fn parse(text: &str) -> Result<Self, String> {
        let parameters = query(text);
        let find = |wanted: &str| {
            let found = parameters.iter().find(|(name, value)| name == wanted && !value.is_empty());
            found.map(|(_, value)| value.as_str())
        };
        if let (Some(client), Some(to)) = (find("client"), find("to")) {
            let identity = find("identity").map(|text| read("identity", text)).transpose()?;
            let authority = find("authority").map(|text| read("authority", text)).transpose()?;
            let (client, to) = (read("client", client)?, read("to", to)?);
            return Ok(Self::Arrival(Arrival { client, identity, to, authority }));
        }
        match (find("source"), find("destination")) {
            (Some(source), Some(destination)) => {
                Ok(Self::Connection { source: source.to_owned(), destination: destination.to_owned() })
            }
            (None, _) => Err("the parameter source is missing".to_owned()),
            (_, None) => Err("the parameter destination is missing".to_owned()),
        }
    }
}

fn read<T: FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("the parameter {name} cannot be {text:?}"))
}

#[cfg(test)]
mod tests;

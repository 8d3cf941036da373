//! `POST /connections/ID/cut`: ends a live connection.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{Method, StatusCode, request::Parts};

use super::http::{Answer, percent_decode, query, text};

/// Ends the connection of an id. `None` if there is none; else which connection it was.
pub(crate) type EndConnection = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What answers `/connections/ID/cut`. A clone is cheap.
#[derive(Clone)]
pub struct Cutter {
    /// Whether faults on purpose are enabled, so that nobody has to say yes.
    enabled: bool,
    end: EndConnection,
}

// === impl Cutter ===

impl Cutter {
    /// Ends connections by `end`, if `enabled` or asked with `?yes=true`.
    pub(crate) fn new(enabled: bool, end: EndConnection) -> Self {
        Self { enabled, end }
    }

    /// The answer, if the request is about a connection to cut.
    pub(super) fn answer(&self, request: &Parts) -> Option<Answer> {
        let path = request.uri.path();
        let id = percent_decode(path.strip_prefix("/connections/")?.strip_suffix("/cut")?);
        if request.method != Method::POST {
            return Some(text(StatusCode::METHOD_NOT_ALLOWED, format!("usage: POST {path}\n")));
        }
        let parameters = query(request.uri.query().unwrap_or_default());
        let says_yes = parameters.iter().any(|(name, value)| name == "yes" && value == "true");
        if !self.enabled && !says_yes {
            let refused = "a connection is cut with --yes (?yes=true), or where WARREN_CHAOS=true is set\n";
            return Some(text(StatusCode::FORBIDDEN, refused));
        }
        Some(match (self.end)(&id) {
            Some(cut) => {
                tracing::warn!(target: "admin", id, connection = cut, "asked to cut a connection");
                text(StatusCode::OK, format!("{cut} is cut\n"))
            }
            None => {
                let unknown =
                    format!("no live connection {id:?}; `warren connections` lists those that there are\n");
                text(StatusCode::NOT_FOUND, unknown)
            }
        })
    }
}

impl std::fmt::Debug for Cutter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cutter").field("enabled", &self.enabled).finish_non_exhaustive()
    }
}

//! How commands ask a proxy.

use std::{io, net::SocketAddr, time::Duration};

use clap::Args;

use crate::actors::admin::client::{AskError, ask};

/// How often a watched tree is drawn.
/// Limit: time between two drawings of `warren tree --watch`: 1 s; past it: the tree is drawn again.
pub(super) const REDRAW_INTERVAL: Duration = Duration::from_secs(1);

/// Where a proxy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct AdminPort {
    /// Address and port of the proxy's admin server [default: 127.0.0.1:15000]
    #[arg(long, value_name = "ADDR")]
    pub(super) admin: Option<SocketAddr>,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the proxy refuses: {0}")]
    Refused(String),
    #[error("{0}")]
    NotThere(String),
    #[error("cannot write YAML: {0}")]
    Yaml(String),
    #[error("there is no crash report {0}, or it is no longer kept")]
    NoReport(u64),
    #[error("the proxy's answer makes no sense: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// The text of an answer that is no refusal.
pub(super) async fn asked(admin: SocketAddr, method: &str, path: &str) -> Result<String, CommandError> {
    match ask(admin, method, path).await? {
        (200, text) => Ok(text),
        (status, text) if text.trim().is_empty() => Err(CommandError::Refused(format!("status {status}"))),
        (404, text) => Err(CommandError::NotThere(text.trim_end().to_owned())),
        (_, text) => Err(CommandError::Refused(text.trim_end().to_owned())),
    }
}

//! One node's proxy as seen from outside: its log, its actors and its metrics.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    apps::{Route, http},
    net::Namespace,
};

/// The time limit for a single answer of a proxy's own ports.
const ANSWER: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);
const ADMIN_PORT: u16 = 15000;
const STATS_PORT: u16 = 15020;

/// A node, and the addresses of its proxy's ports.
#[derive(Clone, Debug)]
pub(super) struct Node {
    name: &'static str,
    namespace: Namespace,
    log: PathBuf,
}

/// An actor of a proxy, as `/actors` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ActorStatus {
    /// The actor's path in the tree.
    pub(super) path: String,
    /// The actor's state; `up` when it works.
    pub(super) state: String,
    /// The number of times that the actor was restarted.
    pub(super) restarts: u64,
    /// The actor's kind, such as `xds` or `capture`.
    pub(super) is: String,
    /// The actor's last unrequested exit or last failed start: its time and its reason.
    pub(super) last_exit: Option<(OffsetDateTime, String)>,
}

/// A proxy's metrics at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(String);

/// A position in a log; later lines are new.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(u64);

// === impl Node ===

impl Node {
    /// The node called `name`, whose proxy logs JSON lines to `log`.
    pub(super) fn new(name: &'static str, namespace: &Namespace, log: PathBuf) -> Self {
        Self { name, namespace: namespace.clone(), log }
    }

    /// The current end of the proxy's log.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.log.metadata().map_or(0, |meta| meta.len()))
    }

    /// Waits for a line of the access log after `since` that `wanted` accepts.
    pub(super) fn access(
        &self,
        since: Mark,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, String> {
        let Mark(mut at) = since;
        let mut last = None;
        let found = wait(limit, || {
            let (lines, end) = self.lines(at).map_err(|error| error.to_string())?;
            at = end;
            for line in lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
                if field(&line, "scope") != "access" {
                    continue;
                }
                if wanted(&line) {
                    return Ok(line);
                }
                last = Some(line);
            }
            Err(String::new())
        });
        found.map_err(|_| match last {
            Some(line) => format!("no such line in the access log of node {}; the last is {line}", self.name),
            None => format!("no new line in the access log of node {}", self.name),
        })
    }

    /// Every actor whose path in the tree `wanted` accepts.
    pub(super) fn actors(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<ActorStatus>, String> {
        let body = self.ask(ADMIN_PORT, "GET /actors")?;
        let tree: Value = serde_json::from_str(&body).map_err(|error| format!("/actors: {error}"))?;
        let mut seen = Vec::new();
        collect(&tree, &wanted, &mut seen);
        Ok(seen)
    }

    /// The one actor whose path `wanted` accepts.
    pub(super) fn actor(&self, wanted: impl Fn(&str) -> bool) -> Result<ActorStatus, String> {
        let mut seen = self.actors(wanted)?;
        match (seen.pop(), seen.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => Err(format!("no such actor on node {}", self.name)),
            (Some(_), others) => Err(format!("{} such actors on node {}", others + 1, self.name)),
        }
    }

    /// Kills the actor at `path`.
    pub(super) fn kill(&self, path: &str) -> Result<(), String> {
        self.harm(path, "kill")
    }

    /// Sends the request `what` to the actor at `path`: `kill`, `hang?ms=1000`.
    pub(super) fn harm(&self, path: &str, what: &str) -> Result<(), String> {
        let path = path.replace('[', "%5B").replace(']', "%5D");
        self.ask(ADMIN_PORT, &format!("POST /actors/{path}/{what}")).map(drop)
    }

    /// Waits until the actor that had the status `before` runs again.
    pub(super) fn back(&self, before: &ActorStatus, limit: Duration) -> Result<ActorStatus, String> {
        wait(limit, || {
            let now = self.actor(|path| path == before.path)?;
            if now.state == "up" && now.restarts > before.restarts {
                return Ok(now);
            }
            Err(format!("{} is {} after {} restarts", now.path, now.state, now.restarts))
        })
    }

    /// The proxy's current metrics.
    pub(super) fn metrics(&self) -> Result<Samples, String> {
        self.ask(STATS_PORT, "GET /metrics").map(Samples)
    }

    fn ask(&self, port: u16, request: &str) -> Result<String, String> {
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let text = format!(
            "{request} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        let answer = http::exchange(&Route::new(&self.namespace, to), &text, ANSWER);
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status {
            200..300 => Ok(answer.body),
            status => Err(format!("node {}: {request}: {status} {}", self.name, answer.body.trim())),
        }
    }

    /// The whole lines of the proxy's log from byte `at` on, and the position of their end.
    fn lines(&self, at: u64) -> io::Result<(String, u64)> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        let end = at + bytes.len() as u64;
        Ok((String::from_utf8_lossy(&bytes).into_owned(), end))
    }
}

// === impl Samples ===

impl Samples {
    /// The sum of the family `name` over the series with all of `labels`, each as `label="value"`.
    pub(super) fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        let of_family = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        };
        let values =
            self.0.lines().filter(of_family).filter_map(|line| line.rsplit(' ').next()?.parse().ok());
        // The counters of the proxy are whole numbers.
        values.map(|value: f64| value as u64).sum()
    }
}

/// Repeats `look` until it succeeds; after `limit`, returns its last error.
pub(super) fn wait<T>(limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => thread::park_timeout(POLL),
            found => return found,
        }
    }
}

/// A text field of a log line; empty if the line lacks the field.
pub(super) fn field<'a>(line: &'a Value, name: &str) -> &'a str {
    line.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn collect(nodes: &Value, wanted: &impl Fn(&str) -> bool, seen: &mut Vec<ActorStatus>) {
    for node in nodes.as_array().into_iter().flatten() {
        let path = field(node, "path");
        if wanted(path) {
            let restarts = node.get("restarts").and_then(Value::as_u64).unwrap_or(0);
            let state = field(node, "state").to_owned();
            let is = field(node, "is").to_owned();
            let last_exit = node.get("lastExit").and_then(|exit| {
                let at = OffsetDateTime::parse(field(exit, "at"), &Rfc3339).ok()?;
                Some((at, field(exit, "reason").to_owned()))
            });
            seen.push(ActorStatus { path: path.to_owned(), state, restarts, is, last_exit });
        }
        collect(node.get("children").unwrap_or(&Value::Null), wanted, seen);
    }
}

#[cfg(test)]
mod tests;

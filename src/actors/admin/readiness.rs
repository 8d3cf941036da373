//! Whether the node's proxy is ready, and what it waits for (docs/spec/controlplane.md 7.4).

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use http::{Method, StatusCode, request::Parts};
use parking_lot::Mutex;

use super::http::{Answer, Handler, empty, handler, text};

/// The task that ends with the first full state from the control plane.
pub(crate) const STATE_MANAGER: &str = "state manager";

/// The task that ends when the data plane is wired up.
pub(crate) const PROXY: &str = "proxy";

/// The task that ends when the DNS proxy is wired up.
pub(crate) const DNS_PROXY: &str = "dns proxy";

/// The task that is done while istio-cni is connected and no pod waits.
pub(crate) const WORKLOAD_PROXY_MANAGER: &str = "workload proxy manager";

/// The heading of pods that are out of the mesh.
pub(crate) const OUT_OF_THE_MESH: &str = "out of the mesh";

/// The heading of identities without a certificate.
pub(crate) const WITHOUT_CERTIFICATE: &str = "without a certificate";

/// The heading of live connections that are left while they move to the next process.
pub(crate) const HAND_OVER: &str = "hand-over";

/// The tasks that must be done for the proxy to be ready. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Tasks>>);

#[derive(Debug, Default)]
struct Tasks {
    waiting: BTreeMap<&'static str, Waiting>,
    /// What is wrong and keeps nobody waiting, by its heading.
    notes: BTreeMap<&'static str, Box<str>>,
}

/// One of the tasks. Clones are the same task; dropping one changes nothing, so that a task whose owner died undone
/// stays pending.
#[derive(Clone, Debug)]
pub struct ReadyTask {
    readiness: Readiness,
    name: &'static str,
}

/// What a task waits for; `Done` for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Waiting {
    Done,
    For(Option<Box<str>>),
}

// === impl Readiness ===

impl Readiness {
    /// No tasks: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// The task of that name, pending if it is new. One that is known keeps its state: an actor that restarts does not
    /// take back what the node was promised, unless it says so by [`ReadyTask::pending`].
    pub fn register(&self, name: &'static str) -> ReadyTask {
        self.0.lock().waiting.entry(name).or_insert(Waiting::For(None));
        ReadyTask { readiness: self.clone(), name }
    }

    /// The tasks not done, sorted, each with its detail in parentheses.
    pub fn pending(&self) -> Vec<String> {
        let tasks = self.0.lock();
        let pending = tasks.waiting.iter().filter_map(|(name, waiting)| match waiting {
            Waiting::Done => None,
            Waiting::For(None) => Some((*name).to_owned()),
            Waiting::For(Some(detail)) => Some(format!("{name} ({detail})")),
        });
        pending.collect()
    }

    /// Whether every task is done.
    pub fn is_ready(&self) -> bool {
        self.0.lock().waiting.values().all(|waiting| *waiting == Waiting::Done)
    }

    /// Says under `heading` what is wrong although the node may be ready; nothing if `note` is empty. Keep it short.
    pub fn note(&self, heading: &'static str, note: &str) {
        let notes = &mut self.0.lock().notes;
        if note.is_empty() {
            notes.remove(heading);
        } else {
            notes.insert(heading, note.into());
        }
    }

    /// What is wrong although the node may be ready, a line each, sorted.
    pub fn notes(&self) -> Vec<String> {
        self.0.lock().notes.iter().map(|(heading, note)| format!("{heading}: {note}")).collect()
    }

    /// What answers the probe.
    pub fn handler(&self) -> Handler {
        let readiness = self.clone();
        handler(move |request| {
            let answer = readiness.answer(&request);
            async { answer }
        })
    }

    fn answer(&self, request: &Parts) -> Answer {
        if request.uri.path() != "/healthz/ready" {
            return empty(StatusCode::NOT_FOUND);
        }
        if request.method != Method::GET {
            return empty(StatusCode::METHOD_NOT_ALLOWED);
        }
        let pending = self.pending();
        let (status, mut body) = if pending.is_empty() {
            (StatusCode::OK, "ready\n".to_owned())
        } else {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("not ready, pending: {}\n", pending.join(", ")))
        };
        for note in self.notes() {
            // Writing to a string does not fail.
            let _ = writeln!(body, "{note}");
        }
        text(status, body)
    }
}

// === impl ReadyTask ===

impl ReadyTask {
    /// It waits for nothing any more.
    pub fn done(&self) {
        self.set(Waiting::Done);
    }

    /// It waits, for `detail` if that is not empty. Keep it short: it goes into the probe's answer.
    pub fn pending(&self, detail: &str) {
        let detail = (!detail.is_empty()).then(|| detail.into());
        self.set(Waiting::For(detail));
    }

    fn set(&self, waiting: Waiting) {
        self.readiness.0.lock().waiting.insert(self.name, waiting);
    }
}

#[cfg(test)]
mod tests;

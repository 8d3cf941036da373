//! Breaking things on purpose, over the admin port: `POST /actors/{id}/kill`, `/hang`, `/panic`, `/slow`, `/fail-starts`,
//! `POST /tasks/{kind}/panic` and `POST /inputs/{name}/panic`. Only where the settings allow it.

use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{Method, StatusCode, request::Parts};

use super::http::{Answer, percent_decode, query, text};
use crate::supervisor::{
    Fault, NodeSnapshot, NodeState, NotReached, TreeHandle,
    faults::{self, TooManyArmed},
};

/// The tasks of the process that can be made to panic, and what each does.
pub(crate) const TASKS: [(&str, &str); 26] = [
    ("admin/accept", "accepts connections of an admin, stats or readiness server"),
    ("audit/look", "audits the pods"),
    ("capture/accept", "accepts connections of a pod on a shard"),
    ("certs/request", "asks the authority for a certificate"),
    ("certs/timer", "wakes the schedule of certificates"),
    ("health/watch", "follows what readiness depends on"),
    ("http", "serves a connection of an admin, stats or readiness server"),
    ("inbound", "serves a stream of a peer's tunnel"),
    ("outbound", "serves a captured outbound connection"),
    ("page/viewer", "tells one who follows the page what changes"),
    ("plaintext", "serves a captured inbound connection without a tunnel"),
    ("policy/watch", "has live connections re-checked when policies change"),
    ("shard/thread", "the thread of a shard itself: its connections go with it"),
    ("shard/watch", "hears of the end of a shard's thread"),
    ("supervisor/backoff", "waits before a restart"),
    ("supervisor/start", "starts an actor"),
    ("supervisor/stop", "sees to it that a stop ends"),
    ("supervisor/watchdog", "looks for actors that hang"),
    ("tunnel", "serves a tunnel accepted from a peer: its streams go with it"),
    ("tunnel/ask", "has a tunnel dialled for a shard"),
    ("tunnel/dial", "dials and drives a tunnel to a peer: its streams go with it"),
    ("xds/stream", "the discovery stream"),
    ("zds/link", "the connection with istio-cni"),
    ("zds/pod", "starts or stops a pod"),
    ("zds/timer", "wakes the hand-over of pods"),
    ("supervisor/witness", "hears of the end of the tree: the process ends with it"),
];

/// How long an actor hangs unless the request says otherwise.
/// Limit: an actor made to hang, unless the order says otherwise: 5 s; past it: the actor goes on.
const DEFAULT_HANG: Duration = Duration::from_secs(5);
/// How long it may be made to hang.
/// Limit: an actor made to hang: 600 s; past it: the order is refused.
const LONGEST_HANG: Duration = Duration::from_secs(600);
/// What is added to each message of an actor made slow, unless the request says otherwise.
/// Limit: delay of each message of an actor made slow, unless the order says otherwise: 100 ms; past it: the message
/// is handled.
const DEFAULT_DRAG: Duration = Duration::from_millis(100);
/// How much may be added.
/// Limit: delay of each message of an actor made slow: 10 s; past it: the order is refused.
const LONGEST_DRAG: Duration = Duration::from_secs(10);
/// How long an actor is slow unless the request says otherwise.
/// Limit: time for which an actor is made slow, unless the order says otherwise: 10 s; past it: the actor is as fast
/// as before.
const DEFAULT_SLOW: Duration = Duration::from_secs(10);
/// How long it may be made slow.
/// Limit: time for which an actor is made slow: 600 s; past it: the order is refused.
const LONGEST_SLOW: Duration = Duration::from_secs(600);
/// How many panics, or failing starts, may be ordered at once.
/// Limit: panics or failing starts that are ordered at once: 1000; past it: the order is refused.
const MAX_PANICS: u32 = 1000;

/// What breaks the process, if it may.
#[derive(Clone, Debug)]
pub struct Chaos {
    enabled: bool,
    tree: Arc<OnceLock<TreeHandle>>,
}

/// What is done to an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChaosAction {
    Kill,
    Inject(Fault),
    FailStarts(u32),
}

/// Why nothing was broken.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("breaking things is not enabled here: start the proxy with WARREN_CHAOS=true")]
    Disabled,
    #[error("the tree is still starting")]
    Starting,
    #[error("no actor is called {0:?}: see /actors")]
    NoSuchActor(String),
    #[error("{id:?} may be any of {}: give more of its path", .paths.join(", "))]
    Ambiguous { id: String, paths: Vec<String> },
    #[error("no task is called {0:?}: see /tasks")]
    NoSuchTask(String),
    #[error("{name} is a whole number from {least} to {most}, not {value:?}")]
    BadNumber { name: &'static str, least: u64, most: u64, value: String },
    #[error(transparent)]
    NotReached(#[from] NotReached),
    #[error(transparent)]
    TooManyArmed(#[from] TooManyArmed),
}

// === impl Chaos ===

impl Chaos {
    /// Acts on the tree that `tree` is set to once it is up; refuses everything unless `enabled`.
    pub fn new(enabled: bool, tree: Arc<OnceLock<TreeHandle>>) -> Self {
        Self { enabled, tree }
    }

    /// The answer if the request is about breaking something, or asks what can be broken.
    pub(super) fn answer(&self, request: &Parts) -> Option<Answer> {
        let path = request.uri.path();
        if path == "/tasks" {
            return Some(text(StatusCode::OK, list()));
        }
        let (what, rest) = path.strip_prefix('/')?.split_once('/')?;
        let (id, verb) = rest.rsplit_once('/')?;
        let id = percent_decode(id);
        let known = matches!(
            (what, verb),
            ("actors", "kill" | "hang" | "panic" | "slow" | "fail-starts") | ("tasks" | "inputs", "panic")
        );
        if !known {
            return None;
        }
        if request.method != Method::POST {
            return Some(text(StatusCode::METHOD_NOT_ALLOWED, format!("usage: POST {path}\n")));
        }
        let parameters = query(request.uri.query().unwrap_or_default());
        let done = match what {
            "tasks" => self.panic_task(&id, &parameters),
            "inputs" => self.panic_over_input(&id, &parameters),
            _ => self.break_actor(&id, verb, &parameters),
        };
        Some(match done {
            Ok(done) => text(StatusCode::OK, format!("{done}\n")),
            Err(refusal) => text(refusal.status(), format!("{refusal}\n")),
        })
    }

    fn break_actor(&self, id: &str, verb: &str, parameters: &[(String, String)]) -> Result<String, Refusal> {
        let tree = self.allowed()?;
        let deed = ChaosAction::asked(verb, parameters)?;
        let (path, state) = resolve(&tree.snapshot(), id)?;
        tracing::warn!(target: "admin", path = %path, ?deed, "asked to break an actor");
        match deed {
            ChaosAction::Kill if state != NodeState::Up => {
                return Err(NotReached::NotUp { path, state }.into());
            }
            ChaosAction::Kill => tree.kill(&path).map_err(NotReached::from)?,
            ChaosAction::Inject(fault) => tree.inject(&path, fault)?,
            ChaosAction::FailStarts(times) => tree.fail_starts(&path, times).map_err(NotReached::from)?,
        }
        Ok(match deed {
            ChaosAction::Kill => format!("{path} is killed"),
            ChaosAction::Inject(Fault::Panic) => format!("{path} panics"),
            ChaosAction::Inject(Fault::Hang(time)) => format!("{path} hangs for {time:?}"),
            ChaosAction::Inject(Fault::Slow { each, lasting }) => {
                format!("{path} handles each message {each:?} later, for {lasting:?}")
            }
            ChaosAction::FailStarts(0) => format!("{path} starts again when it has to"),
            ChaosAction::FailStarts(times) => format!("the next {times} starts of {path} fail"),
        })
    }

    fn panic_task(&self, kind: &str, parameters: &[(String, String)]) -> Result<String, Refusal> {
        self.allowed()?;
        if !TASKS.iter().any(|(known, _)| *known == kind) {
            return Err(Refusal::NoSuchTask(kind.to_owned()));
        }
        let times = number(parameters, "times", 1, 0..=u64::from(MAX_PANICS))?;
        let times = u32::try_from(times).unwrap_or(MAX_PANICS);
        tracing::warn!(target: "admin", kind, times, "asked to break a task");
        faults::arm(kind, times)?;
        Ok(match times {
            0 => format!("no task of kind {kind} panics any more"),
            1 => format!("the next task of kind {kind} that runs panics"),
            _ => format!("tasks of kind {kind} panic the next {times} times that one runs"),
        })
    }

    /// Lets whoever handles the input of this name panic: a resource, a pod, a peer, an identity.
    fn panic_over_input(&self, name: &str, parameters: &[(String, String)]) -> Result<String, Refusal> {
        self.allowed()?;
        let times = number(parameters, "times", 1, 0..=u64::from(MAX_PANICS))?;
        let times = u32::try_from(times).unwrap_or(MAX_PANICS);
        tracing::warn!(target: "admin", name, times, "asked to panic over an input");
        faults::arm(name, times)?;
        Ok(format!("whoever handles {name} panics {times} times"))
    }

    fn allowed(&self) -> Result<&TreeHandle, Refusal> {
        if !self.enabled {
            return Err(Refusal::Disabled);
        }
        self.tree.get().ok_or(Refusal::Starting)
    }
}

// === impl ChaosAction ===

impl ChaosAction {
    fn asked(verb: &str, parameters: &[(String, String)]) -> Result<Self, Refusal> {
        let ms = |default: Duration, longest: Duration| {
            let ms = number(parameters, "ms", default.as_millis() as u64, 1..=longest.as_millis() as u64)?;
            Ok::<_, Refusal>(Duration::from_millis(ms))
        };
        Ok(match verb {
            "kill" => Self::Kill,
            "panic" => Self::Inject(Fault::Panic),
            "slow" => {
                let seconds = number(parameters, "for", DEFAULT_SLOW.as_secs(), 1..=LONGEST_SLOW.as_secs())?;
                let lasting = Duration::from_secs(seconds);
                Self::Inject(Fault::Slow { each: ms(DEFAULT_DRAG, LONGEST_DRAG)?, lasting })
            }
            "fail-starts" => {
                let times = number(parameters, "times", 1, 0..=u64::from(MAX_PANICS))?;
                Self::FailStarts(u32::try_from(times).unwrap_or(MAX_PANICS))
            }
            _ => Self::Inject(Fault::Hang(ms(DEFAULT_HANG, LONGEST_HANG)?)),
        })
    }
}

// === impl Refusal ===

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Disabled => StatusCode::FORBIDDEN,
            Self::NoSuchActor(_) | Self::NoSuchTask(_) | Self::NotReached(NotReached::NoSuchNode(_)) => {
                StatusCode::NOT_FOUND
            }
            Self::Ambiguous { .. } | Self::BadNumber { .. } => StatusCode::BAD_REQUEST,
            Self::NotReached(_) => StatusCode::CONFLICT,
            Self::Starting | Self::TooManyArmed(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Kinds of tasks, a line each.
fn list() -> String {
    let mut lines = String::new();
    for (kind, what) in TASKS {
        // Writing to a string does not fail.
        let _ = match faults::armed(kind) {
            0 => writeln!(lines, "{kind:20} {what}"),
            times => writeln!(lines, "{kind:20} {what} (to panic {times} times)"),
        };
    }
    lines
}

/// The node that `id` names: its whole path, or the last parts of it if no other path ends so.
fn resolve(roots: &[NodeSnapshot], id: &str) -> Result<(Arc<str>, NodeState), Refusal> {
    let mut ending: Vec<&NodeSnapshot> = Vec::new();
    let mut left: Vec<&NodeSnapshot> = roots.iter().collect();
    while let Some(node) = left.pop() {
        if &*node.path == id {
            return Ok((node.path.clone(), node.state));
        }
        if node.path.strip_suffix(id).is_some_and(|before| before.ends_with('/')) {
            ending.push(node);
        }
        left.extend(node.children.iter().rev());
    }
    match ending.as_slice() {
        [] => Err(Refusal::NoSuchActor(id.to_owned())),
        [node] => Ok((node.path.clone(), node.state)),
        many => {
            let paths = many.iter().map(|node| node.path.to_string()).collect();
            Err(Refusal::Ambiguous { id: id.to_owned(), paths })
        }
    }
}

/// The last parameter of this name.
fn number(
    parameters: &[(String, String)],
    name: &'static str,
    default: u64,
    allowed: std::ops::RangeInclusive<u64>,
) -> Result<u64, Refusal> {
    let Some((_, value)) = parameters.iter().rfind(|(known, _)| known == name) else { return Ok(default) };
    let bad =
        || Refusal::BadNumber { name, least: *allowed.start(), most: *allowed.end(), value: value.clone() };
    value.parse().ok().filter(|number| allowed.contains(number)).ok_or_else(bad)
}

//! Crash reports: what died, of what, and what it had been doing.
//!
//! A report is kept in memory, for `/crashes`, and said once as an error, in the span of the message that was being
//! handled.

use std::{
    backtrace::Backtrace,
    cell::RefCell,
    collections::VecDeque,
    panic::PanicHookInfo,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tracing::Span;

use super::{
    faults::kind_of,
    record::{Handled, Last},
    snapshot::Node,
};

/// Reports that are kept, of actors and of tasks each; past it the oldest goes, and is counted.
pub const MAX_REPORTS: usize = 64;
/// Characters kept of a reason.
pub(super) const REASON_CHARS: usize = 512;
/// Frames kept of a backtrace.
pub(super) const MAX_FRAMES: usize = 48;
/// Characters kept of a frame.
const FRAME_CHARS: usize = 200;
/// Frames and messages in a report's log line.
const SAID: usize = 8;

/// How something died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// An actor panicked.
    Panicked,
    /// An actor's handler gave an error, or it ended though it was to run for ever.
    Failed,
    /// An actor was killed.
    Killed,
    /// An actor did not answer, and was killed for it.
    Hung,
    /// An actor did not stop in time, and was killed.
    Unstoppable,
    /// An actor did not start.
    StartFailed,
    /// A task panicked.
    TaskPanicked,
}

/// A report of one death, or of failed starts.
#[derive(Debug)]
pub struct CrashReport {
    /// Its number, from 1 on, in the order of deaths.
    pub number: u64,
    /// When it happened.
    pub at: SystemTime,
    /// The tree path of the actor, or the name of the task.
    pub path: Arc<str>,
    /// The name that people know it by, or know the part of the tree by that it belonged to.
    pub shown_as: Option<Arc<str>>,
    /// What it was: `xds`, `capture`; for tasks `xds/stream`.
    pub kind: Box<str>,
    /// How it died.
    pub death: Death,
    /// The panic's or error's message, or why it was killed.
    pub reason: String,
    /// What it was handling, and for how long.
    pub handling: Option<(&'static str, Duration)>,
    /// The trace that this belonged to.
    pub trace: Option<u128>,
    /// Messages that died in its mailbox.
    pub waiting: usize,
    /// The messages it had handled last, the latest at the end.
    pub messages: Vec<Handled>,
    again: AtomicU64,
    panic: Option<Panic>,
    frames: OnceLock<Vec<String>>,
}

/// Who died, and how.
struct Dead<'a> {
    path: Arc<str>,
    shown_as: Option<Arc<str>>,
    kind: &'a str,
    death: Death,
}

/// What the hook saw of a panic.
#[derive(Debug)]
pub(super) struct Panic {
    location: String,
    backtrace: Backtrace,
}

/// The latest reports: of a tree's actors, or of the process's tasks.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    dropped: u64,
    reports: VecDeque<Arc<CrashReport>>,
}

/// The number of the latest report.
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// Reports of tasks. They may be on any thread, so the list is the process's, like the hook that gives the backtraces.
static OF_TASKS: Reports = Reports(Mutex::new(Kept { dropped: 0, reports: VecDeque::new() }));

/// Whether some thread is looking symbols up. One at a time: it takes the stack walker's lock and tens of milliseconds.
static RESOLVING: AtomicBool = AtomicBool::new(false);

thread_local! {
    static LAST: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// Keeps where this thread panics, for the report. To be called by the process's panic hook; symbols are not looked up
/// here.
pub fn note_panic(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let panic = Panic { location, backtrace: Backtrace::force_capture() };
    LAST.with(|last| last.replace(Some(panic)));
}

/// What the hook saw last on this thread.
pub(super) fn take_panic() -> Option<Panic> {
    LAST.with(RefCell::take)
}

/// Reports the panic of a task that was just caught on this thread. `path`: its place in the tree, or its name.
pub fn report_task_panic(path: &str, kind: &str, message: &str) {
    report_task_panic_as(None, path, kind, message);
}

/// The same, with the name that people know its place in the tree by.
pub fn report_task_panic_as(shown_as: Option<Arc<str>>, path: &str, kind: &str, message: &str) {
    let last = Last { panic: take_panic(), ..Last::default() };
    file(
        &OF_TASKS,
        Dead { path: path.into(), shown_as, kind: kind_of(kind), death: Death::TaskPanicked },
        message,
        last,
    );
}

/// Reports the end of the actor at `node`, whose record is `last`.
pub(super) fn report(node: &Node, death: Death, reason: &str, last: Last) {
    let (path, shown_as) = (node.path.clone(), node.shown_as.clone());
    file(&node.reports, Dead { path, shown_as, kind: node.kind_label, death }, reason, last);
}

fn file(reports: &Reports, dead: Dead<'_>, reason: &str, last: Last) {
    let Dead { path, shown_as, kind, death } = dead;
    // A start that fails is tried again and again: it must not push everything else out.
    if death == Death::StartFailed && reports.know(&path, reason) {
        return;
    }
    let Last { handling, span, trace, messages, waiting, panic, .. } = last;
    let report = Arc::new(CrashReport {
        number: LAST_NUMBER.fetch_add(1, Ordering::Relaxed) + 1,
        at: SystemTime::now(),
        path,
        shown_as,
        kind: kind.into(),
        death,
        reason: cut(reason, REASON_CHARS),
        handling,
        trace,
        waiting,
        messages,
        again: AtomicU64::new(0),
        panic,
        frames: OnceLock::new(),
    });
    reports.keep(report.clone());
    say(report, span.unwrap_or_else(Span::current));
}

/// Logs the report once; with its backtrace if nobody else is looking one up.
fn say(report: Arc<CrashReport>, span: Span) {
    let runtime = tokio::runtime::Handle::try_current();
    match runtime {
        Ok(runtime) if report.panic.is_some() && !RESOLVING.swap(true, Ordering::AcqRel) => {
            // Not on the thread that panicked: it has connections to serve.
            runtime.spawn_blocking(move || {
                report.frames();
                RESOLVING.store(false, Ordering::Release);
                span.in_scope(|| report.log());
            });
        }
        _ => span.in_scope(|| report.log()),
    }
}

// === impl Reports ===

impl Reports {
    fn keep(&self, report: Arc<CrashReport>) {
        let mut kept = self.0.lock();
        if kept.reports.len() >= MAX_REPORTS {
            kept.reports.pop_front();
            kept.dropped += 1;
        }
        kept.reports.push_back(report);
    }

    /// Counts another failed start of the same actor for the same reason. Whether there is a report of one.
    fn know(&self, path: &str, reason: &str) -> bool {
        let reason = cut(reason, REASON_CHARS);
        let kept = self.0.lock();
        let same = kept.reports.iter().rev().find(|report| &*report.path == path);
        let same = same.filter(|report| report.death == Death::StartFailed && report.reason == reason);
        same.inspect(|report| _ = report.again.fetch_add(1, Ordering::Relaxed)).is_some()
    }

    /// Those of a tree and those of all tasks, oldest first, and how many older ones are not kept.
    pub(super) fn with_tasks(&self) -> (Vec<Arc<CrashReport>>, u64) {
        let (mut reports, mut dropped) = (Vec::new(), 0);
        for list in [self, &OF_TASKS] {
            let kept = list.0.lock();
            reports.extend(kept.reports.iter().cloned());
            dropped += kept.dropped;
        }
        reports.sort_by_key(|report| report.number);
        (reports, dropped)
    }
}

// === impl Death ===

impl Death {
    /// How an actor ended, from what its supervisor was told: whether normally, and why.
    pub(super) fn of(exit: (bool, &str), hung: bool, panicked: bool) -> Self {
        match exit {
            _ if hung => Self::Hung,
            _ if panicked => Self::Panicked,
            (false, "killed" | "actor_task_cancelled") => Self::Killed,
            _ => Self::Failed,
        }
    }

    /// As a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Panicked => "panicked",
            Self::Failed => "failed",
            Self::Killed => "killed",
            Self::Hung => "hung",
            Self::Unstoppable => "unstoppable",
            Self::StartFailed => "start-failed",
            Self::TaskPanicked => "task-panicked",
        }
    }
}

// === impl CrashReport ===

impl CrashReport {
    /// How often it has failed to start since, for the same reason.
    pub fn again(&self) -> u64 {
        self.again.load(Ordering::Relaxed)
    }

    /// Where it panicked, if it did: file, line and column.
    pub fn location(&self) -> Option<&str> {
        self.panic.as_ref().map(|panic| panic.location.as_str())
    }

    /// The backtrace of its panic, innermost frame first, without the machinery of the panic. Looking the symbols up
    /// takes tens of milliseconds, once.
    pub fn frames(&self) -> &[String] {
        self.frames.get_or_init(|| {
            self.panic.as_ref().map_or_else(Vec::new, |panic| frames(&panic.backtrace.to_string()))
        })
    }

    fn log(&self) {
        let skipped = self.messages.len().saturating_sub(SAID);
        let messages: Vec<&str> = self.messages.iter().skip(skipped).map(|message| message.kind).collect();
        let ours = |frame: &&String| frame.starts_with("warren::") || frame.starts_with("<warren::");
        let frames: Vec<&str> = self
            .frames
            .get()
            .into_iter()
            .flatten()
            .filter(ours)
            .take(SAID)
            .filter_map(|frame| frame.split(' ').next())
            .collect();
        let (handling, since) = self.handling.unwrap_or(("nothing", Duration::ZERO));
        tracing::error!(
            target: "supervisor",
            report = self.number,
            path = &*self.path,
            name = self.shown_as.as_deref(),
            kind = &*self.kind,
            death = self.death.as_str(),
            reason = self.reason.as_str(),
            handling,
            handling_us = since.as_micros() as u64,
            trace = self.trace.map(|trace| format!("{trace:032x}")),
            waiting = self.waiting,
            messages = messages.join(","),
            location = self.location().unwrap_or_default(),
            backtrace = frames.join(" < "),
            "crash report"
        );
    }
}

/// The frames of a backtrace's text, a line each, from below the machinery of the panic.
pub(super) fn frames(text: &str) -> Vec<String> {
    let mut frames: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(place) = line.strip_prefix("at ") {
            if let Some(frame) = frames.last_mut() {
                *frame = cut(&format!("{frame} at {}", relative(place)), FRAME_CHARS);
            }
        } else if let Some((_, name)) = line.split_once(": ") {
            // The innermost frames are the hook's and the panic's own. What catches panics, further out, is not meant.
            let machinery = [
                "core::panicking::",
                "std::panicking::begin_panic",
                "rust_begin_unwind",
                "__rustc::rust_begin",
            ];
            if machinery.iter().any(|start| name.starts_with(start)) && frames.len() < MAX_FRAMES {
                frames.clear();
            } else if frames.len() < MAX_FRAMES {
                frames.push(cut(name, FRAME_CHARS));
            } else {
                break;
            }
        }
    }
    frames
}

/// A place of this crate from its root on.
fn relative(place: &str) -> &str {
    place
        .find("/src/")
        .and_then(|at| place.get(at + 1..))
        .filter(|_| !place.contains("/.cargo/"))
        .unwrap_or(place)
}

fn cut(text: &str, chars: usize) -> String {
    text.char_indices().nth(chars).and_then(|(at, _)| text.get(..at)).unwrap_or(text).to_owned()
}

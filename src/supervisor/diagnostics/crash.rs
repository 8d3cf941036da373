//! Crash reports: the actor or task that died, the cause, and the work before it.
//!
//! A report is kept in memory, for `/crashes`, and logged once as an error, in the span of the message that was being
//! handled.

use std::{
    collections::VecDeque,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tracing::Span;

use super::{
    panics::{Panic, cut, frames, take_panic},
    record::{Handled, Recorded},
};
use crate::supervisor::faults::kind_of;

/// The number of crash reports kept for actors, and the same number for tasks. A report beyond it displaces the
/// oldest one, which is counted.
/// Limit: crash reports that are kept: 64; past it: the oldest report goes, and is counted.
pub const MAX_REPORTS: usize = 64;
/// The number of characters kept of a reason.
/// Limit: reason in a crash report: 512 characters; past it: the reason is cut.
pub(crate) const REASON_CHARS: usize = 512;
/// The number of frames and of messages in a report's log line.
/// Limit: frames and messages of a crash report in its log line: 8; past it: the rest is at `/crashes`
/// only.
const LOGGED_ENTRIES: usize = 8;

/// The way an actor or a task died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// An actor panicked.
    Panicked,
    /// An actor's handler returned an error, or an actor ended that should run for ever.
    Failed,
    /// An actor was killed.
    Killed,
    /// An actor's handler ran for too long, so the actor was killed.
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
    /// The number of the report, counted from 1 in the order of deaths.
    pub number: u64,
    /// The time of the death.
    pub at: SystemTime,
    /// The tree path of the actor, or the name of the task.
    pub path: Arc<str>,
    /// The name shown to people: the actor's own, or that of its part of the tree.
    pub shown_as: Option<Arc<str>>,
    /// The kind of the actor, such as `xds` or `capture`; the kind of a task is like `xds/stream`.
    pub kind: Box<str>,
    /// The way the actor or task died.
    pub death: Death,
    /// The message of the panic or error, or the reason of the kill.
    pub reason: String,
    /// The kind of the message that was being handled, and how long its handler had run.
    pub handling: Option<(&'static str, Duration)>,
    /// The trace of the message that was being handled.
    pub trace: Option<u128>,
    /// The number of messages that were lost in the mailbox.
    pub waiting: usize,
    /// The messages that were handled last, the latest at the end.
    pub messages: Vec<Handled>,
    again: AtomicU64,
    panic: Option<Panic>,
    frames: OnceLock<Vec<String>>,
}

/// The actor or task that died, and the way.
pub(crate) struct Dead<'a> {
    pub(crate) path: Arc<str>,
    pub(crate) shown_as: Option<Arc<str>>,
    pub(crate) kind: &'a str,
    pub(crate) death: Death,
}

/// The latest reports: of a tree's actors, or of the process's tasks.
#[derive(Debug, Default)]
pub(crate) struct Reports(Mutex<KeptReports>);

#[derive(Debug, Default)]
struct KeptReports {
    dropped: u64,
    reports: VecDeque<Arc<CrashReport>>,
}

/// The number of the latest report.
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// Reports of tasks. A task may be on any thread, so the list belongs to the process, like the hook that gives the
/// backtraces.
static OF_TASKS: Reports = Reports(Mutex::new(KeptReports { dropped: 0, reports: VecDeque::new() }));

/// Whether a thread is looking symbols up. Only one thread may, because the lookup holds the stack walker's lock for
/// tens of milliseconds.
static RESOLVING: AtomicBool = AtomicBool::new(false);

/// Reports the panic of a task that was just caught on this thread. `path` is the task's place in the tree, or its
/// name.
pub fn report_task_panic(path: &str, kind: &str, message: &str) {
    report_task_panic_as(None, path, kind, message);
}

/// Does the same as [`report_task_panic`], with the name shown to people.
pub fn report_task_panic_as(shown_as: Option<Arc<str>>, path: &str, kind: &str, message: &str) {
    let recorded = Recorded { panic: take_panic(), ..Recorded::default() };
    let dead = Dead { path: path.into(), shown_as, kind: kind_of(kind), death: Death::TaskPanicked };
    OF_TASKS.file(dead, message, recorded);
}

/// Logs the report, with its backtrace unless another thread is looking one up.
fn log_once(report: Arc<CrashReport>, span: Span) {
    let runtime = tokio::runtime::Handle::try_current();
    match runtime {
        Ok(runtime) if report.panic.is_some() && !RESOLVING.swap(true, Ordering::AcqRel) => {
            // The lookup runs on another thread, because the thread that panicked has connections to serve.
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
    /// Files a report of a death, with its reason and the messages recorded until then.
    pub(crate) fn file(&self, dead: Dead<'_>, reason: &str, recorded: Recorded) {
        let Dead { path, shown_as, kind, death } = dead;
        // A failing start is retried again and again, so its reports must not displace all others.
        if death == Death::StartFailed && self.counts_again(&path, reason) {
            return;
        }
        let Recorded { handling, span, trace, messages, waiting, panic, .. } = recorded;
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
        self.keep(report.clone());
        log_once(report, span.unwrap_or_else(Span::current));
    }

    fn keep(&self, report: Arc<CrashReport>) {
        let mut kept = self.0.lock();
        if kept.reports.len() >= MAX_REPORTS {
            kept.reports.pop_front();
            kept.dropped += 1;
        }
        kept.reports.push_back(report);
    }

    /// Counts another failed start of the same actor for the same reason if a report of one exists. Returns whether
    /// it exists.
    fn counts_again(&self, path: &str, reason: &str) -> bool {
        let reason = cut(reason, REASON_CHARS);
        let kept = self.0.lock();
        let same = kept.reports.iter().rev().find(|report| &*report.path == path);
        let same = same.filter(|report| report.death == Death::StartFailed && report.reason == reason);
        same.inspect(|report| _ = report.again.fetch_add(1, Ordering::Relaxed)).is_some()
    }

    /// These reports and those of all tasks, oldest first, and the number of older reports that were dropped.
    pub(crate) fn with_tasks(&self) -> (Vec<Arc<CrashReport>>, u64) {
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
    /// The way an actor died. `normal` and `reason` are the values that its supervisor was told.
    pub(crate) fn of(normal: bool, reason: &str, hung: bool, panicked: bool) -> Self {
        match reason {
            _ if hung => Self::Hung,
            _ if panicked => Self::Panicked,
            "killed" | "actor_task_cancelled" if !normal => Self::Killed,
            _ => Self::Failed,
        }
    }

    /// The word for the way of dying.
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
    /// The number of further failed starts for the same reason.
    pub fn again(&self) -> u64 {
        self.again.load(Ordering::Relaxed)
    }

    /// The place of the panic, if there was one: file, line and column.
    pub fn location(&self) -> Option<&str> {
        self.panic.as_ref().map(|panic| panic.location())
    }

    /// The backtrace of the panic, innermost frame first, without the panic's own frames. The first call looks the
    /// symbols up, which takes tens of milliseconds.
    pub fn frames(&self) -> &[String] {
        self.frames
            .get_or_init(|| self.panic.as_ref().map_or_else(Vec::new, |panic| frames(&panic.backtrace())))
    }

    fn log(&self) {
        let skipped = self.messages.len().saturating_sub(LOGGED_ENTRIES);
        let messages: Vec<&str> = self.messages.iter().skip(skipped).map(|message| message.kind).collect();
        let ours = |frame: &&String| frame.starts_with("warren::") || frame.starts_with("<warren::");
        let frames: Vec<&str> = self
            .frames
            .get()
            .into_iter()
            .flatten()
            .filter(ours)
            .take(LOGGED_ENTRIES)
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

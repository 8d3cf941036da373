//! The flight recorder: the messages that each actor handled last, their durations, and the current message.
//!
//! The record belongs to the node, in shared memory, so that a hung or dead actor is read like any other. The record
//! holds kinds and times, and never the contents of a message.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{Metadata, Span};

use super::{
    mailbox_gauge::MailboxGauge,
    panics::{Panic, take_panic},
};

/// Returns the trace of a span, if there is one. The application decides what a trace is.
pub type TraceOf = fn(&Span) -> Option<u128>;

/// The number of messages that an actor's record keeps.
/// Limit: messages that the flight recorder of an actor keeps: 64; past it: the oldest message is
/// forgotten.
pub(crate) const MESSAGES_KEPT: usize = 64;

/// The load of an actor at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// The number of messages in the mailbox, without the one being handled.
    pub depth: usize,
    /// How long the oldest waiting message has waited.
    pub oldest: Duration,
    /// The number of messages that all incarnations of the node have handled.
    pub handled: u64,
    /// The total time of the handlers, awaits included.
    pub busy: Duration,
    /// The longest handler: the kind of its message and its time.
    pub longest: Option<(&'static str, Duration)>,
    /// The kind of the message being handled now, and how long its handler has run.
    pub handling: Option<(&'static str, Duration)>,
}

/// A message that was handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handled {
    /// The kind of the message.
    pub kind: &'static str,
    /// The span from which the message was sent, if there was one.
    pub span: Option<&'static str>,
    /// The trace that span belongs to.
    pub trace: Option<u128>,
    /// How long ago the handler of the message began.
    pub ago: Duration,
    /// How long the message waited in the mailbox.
    pub waited: Duration,
    /// How long the handler took.
    pub took: Duration,
}

/// Sums over all actors of one kind, including actors that have ended.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    handled: AtomicU64,
    busy_us: AtomicU64,
}

/// The totals of a tree by kind. Kinds are words of the program, so they are few.
#[derive(Debug, Default)]
pub(crate) struct HandledByKind(Mutex<Vec<(&'static str, Arc<Totals>)>>);

/// An actor's record, which outlives the actor's incarnations.
#[derive(Debug)]
pub(crate) struct Record {
    totals: Arc<Totals>,
    trace_of: TraceOf,
    state: Mutex<State>,
}

/// The recorded facts about an incarnation that died.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) handling: Option<(&'static str, Duration)>,
    pub(crate) span: Option<Span>,
    pub(crate) trace: Option<u128>,
    pub(crate) messages: Vec<Handled>,
    pub(crate) waiting: usize,
    pub(crate) panicked: bool,
    pub(crate) panic: Option<Panic>,
}

#[derive(Debug, Default)]
struct State {
    gauge: Option<Arc<MailboxGauge>>,
    current: Option<Current>,
    last: VecDeque<Entry>,
    handled: u64,
    busy: Duration,
    longest: Option<(&'static str, Duration)>,
    panicked: bool,
    panic: Option<Panic>,
}

#[derive(Debug)]
struct Current {
    kind: &'static str,
    since: Instant,
    waited: Duration,
    span: Span,
}

/// A line of the record. It is small because a process has hundreds of actors.
#[derive(Debug)]
struct Entry {
    kind: &'static str,
    span: Option<&'static Metadata<'static>>,
    trace: Option<Box<u128>>,
    at: Instant,
    waited_us: u32,
    took_us: u32,
}

/// A handler at work. If it is dropped before it is done, its line stays open for the report of the crash.
pub(crate) struct Handling<'a> {
    record: &'a Record,
}

// === impl HandledByKind ===

impl HandledByKind {
    pub(crate) fn of(&self, kind: &'static str) -> Arc<Totals> {
        let mut kinds = self.0.lock();
        if let Some((_, totals)) = kinds.iter().find(|(known, _)| *known == kind) {
            return totals.clone();
        }
        let totals = Arc::<Totals>::default();
        kinds.push((kind, totals.clone()));
        totals
    }

    /// Each kind, with the number of messages handled and the time of their handlers.
    pub(crate) fn all(&self) -> Vec<(&'static str, u64, Duration)> {
        let read = |(kind, totals): &(&'static str, Arc<Totals>)| {
            let busy = Duration::from_micros(totals.busy_us.load(Ordering::Relaxed));
            (*kind, totals.handled.load(Ordering::Relaxed), busy)
        };
        self.0.lock().iter().map(read).collect()
    }
}

// === impl Record ===

impl Record {
    pub(crate) fn new(totals: Arc<Totals>, trace_of: TraceOf) -> Self {
        Self { totals, trace_of, state: Mutex::default() }
    }

    /// The function that returns the trace of a span.
    pub(crate) fn trace_of(&self) -> TraceOf {
        self.trace_of
    }

    /// Begins another incarnation, with an empty mailbox.
    pub(crate) fn begin(&self) -> Arc<MailboxGauge> {
        let gauge = Arc::<MailboxGauge>::default();
        let mut state = self.state.lock();
        state.gauge = Some(gauge.clone());
        state.current = None;
        state.panicked = false;
        state.panic = None;
        gauge
    }

    /// Records that the start of an incarnation has panicked.
    pub(crate) fn start_panicked(&self, panic: Panic) {
        self.state.lock().panic = Some(panic);
    }

    /// Records that the incarnation has ended, and its mailbox with it.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.gauge = None;
        state.current = None;
        state.panic = None;
    }

    /// Records that a handler begins; its message has waited for `waited`.
    pub(crate) fn handling(&self, kind: &'static str, waited: Duration, span: Span) -> Handling<'_> {
        self.state.lock().current = Some(Current { kind, since: Instant::now(), waited, span });
        Handling { record: self }
    }

    pub(crate) fn load(&self) -> Load {
        let (state, now) = (self.state.lock(), Instant::now());
        let (depth, oldest) = state.gauge.as_ref().map_or((0, Duration::ZERO), |gauge| gauge.load(now));
        Load {
            depth,
            oldest,
            handled: state.handled,
            busy: state.busy,
            longest: state.longest,
            handling: state.current.as_ref().map(|at| (at.kind, now.saturating_duration_since(at.since))),
        }
    }

    /// Takes out the facts that a report of a death needs.
    pub(crate) fn take(&self) -> Recorded {
        let (mut state, now) = (self.state.lock(), Instant::now());
        let handled = |entry: Entry| Handled {
            kind: entry.kind,
            span: entry.span.map(Metadata::name),
            trace: entry.trace.map(|trace| *trace),
            ago: now.saturating_duration_since(entry.at),
            waited: Duration::from_micros(entry.waited_us.into()),
            took: Duration::from_micros(entry.took_us.into()),
        };
        let at = state.current.take();
        Recorded {
            handling: at.as_ref().map(|at| (at.kind, now.saturating_duration_since(at.since))),
            trace: at.as_ref().and_then(|at| (self.trace_of)(&at.span)),
            span: at.map(|at| at.span),
            messages: std::mem::take(&mut state.last).into_iter().map(handled).collect(),
            waiting: state.gauge.as_ref().map_or(0, |gauge| gauge.depth()),
            panicked: std::mem::take(&mut state.panicked),
            panic: state.panic.take(),
        }
    }
}

// === impl Handling ===

impl Handling<'_> {
    /// Records that the handler has returned.
    pub(crate) fn done(self) {
        let (mut state, now) = (self.record.state.lock(), Instant::now());
        let Some(at) = state.current.take() else { return };
        let took = now.saturating_duration_since(at.since);
        state.handled += 1;
        state.busy = state.busy.saturating_add(took);
        if state.longest.is_none_or(|(_, longest)| took > longest) {
            state.longest = Some((at.kind, took));
        }
        if state.last.len() >= MESSAGES_KEPT {
            state.last.pop_front();
        }
        state.last.push_back(Entry {
            kind: at.kind,
            span: at.span.metadata(),
            trace: (self.record.trace_of)(&at.span).map(Box::new),
            at: at.since,
            waited_us: micros(at.waited),
            took_us: micros(took),
        });
        self.record.totals.handled.fetch_add(1, Ordering::Relaxed);
        self.record.totals.busy_us.fetch_add(micros(took).into(), Ordering::Relaxed);
    }

    /// Drops the record of a handler that has returned, so that it is neither counted nor kept.
    pub(crate) fn discard(self) {
        self.record.state.lock().current = None;
    }
}

impl Drop for Handling<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The panic hook has just run on this thread.
            let mut state = self.record.state.lock();
            state.panicked = true;
            state.panic = take_panic();
        }
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

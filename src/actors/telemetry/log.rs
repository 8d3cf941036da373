//! Logging of the process: filter, format and writer put together.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tracing::{Dispatch, Metadata, dispatcher::SetGlobalDefaultError};
use tracing_subscriber::{
    Layer as _, Registry,
    filter::{FilterExt as _, FilterFn, LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    reload,
};

use super::{
    filter::{FilterError, LogFilter},
    line::{Fields, Lines, LogFormat},
    queue::{LogQueue, QueueLimits},
    trace::{Traces, span::TARGET},
};

/// How long the exit waits for lines to be written.
pub const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// The process's log. Keep it until the end of `main`: dropping it writes what is left.
#[derive(Debug)]
pub struct Logging {
    handle: LogHandle,
    queue: LogQueue,
    traces: Option<Traces>,
}

/// Changes what is logged while the process runs; clones act on the same log.
#[derive(Clone)]
pub struct LogHandle(Arc<Inner>);

struct Inner {
    startup: LogFilter,
    current: Mutex<LogFilter>,
    apply: Box<dyn Fn(Targets) -> Result<(), reload::Error> + Send + Sync>,
}

/// Why the log could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The writer's thread could not be started.
    #[error("cannot start the log's thread: {0}")]
    Thread(#[from] io::Error),
    /// The process logs elsewhere already.
    #[error("cannot install the log: {0}")]
    Install(#[from] SetGlobalDefaultError),
    /// A clause of a new filter is none.
    #[error("invalid filter clause {0:?}")]
    Filter(#[from] FilterError),
    /// The log is gone.
    #[error("cannot change the log: {0}")]
    Gone(#[from] reload::Error),
}

// === impl Logging ===

impl Logging {
    /// Makes standard output the log of the whole process, and `traces` the place of its spans.
    ///
    /// # Errors
    /// [`LogError::Thread`]; [`LogError::Install`] when there is a log already.
    pub fn install(format: LogFormat, filter: LogFilter, traces: Option<Traces>) -> Result<Self, LogError> {
        let (dispatch, logging) = Self::with(io::stdout(), format, filter, traces)?;
        tracing::dispatcher::set_global_default(dispatch)?;
        Ok(logging)
    }

    /// A log that writes to `sink`, and where `tracing` is to send events for it.
    ///
    /// # Errors
    /// [`LogError::Thread`].
    pub fn to(
        sink: impl Write + Send + 'static,
        format: LogFormat,
        filter: LogFilter,
    ) -> Result<(Dispatch, Self), LogError> {
        Self::with(sink, format, filter, None)
    }

    /// A log that writes to `sink`, beside `traces`, and where `tracing` is to send events and spans for both.
    ///
    /// # Errors
    /// [`LogError::Thread`].
    pub fn with(
        sink: impl Write + Send + 'static,
        format: LogFormat,
        filter: LogFilter,
        traces: Option<Traces>,
    ) -> Result<(Dispatch, Self), LogError> {
        let queue = LogQueue::start(sink, QueueLimits::default())?;
        let (targets, reload) = reload::Layer::new(filter.to_targets());
        let lines = fmt::layer()
            .event_format(Lines(format))
            .fmt_fields(Fields(format))
            .with_ansi(false)
            .with_writer(queue.clone())
            // Spans that are exported are none of the log's, whatever its filter says.
            .with_filter(targets.and(logged()));
        let subscriber = Registry::default().with(lines);
        // Without traces there is no layer that could ask for their spans: each costs the test of a static.
        let dispatch = match &traces {
            None => Dispatch::new(subscriber),
            Some(traces) => {
                let spans = tracing_opentelemetry::layer()
                    .with_tracer(traces.tracer())
                    .with_location(false)
                    .with_threads(false)
                    .with_target(false)
                    .with_tracked_inactivity(false)
                    .with_context_activation(false);
                Dispatch::new(subscriber.with(spans.with_filter(traced())))
            }
        };
        let handle = LogHandle(Arc::new(Inner {
            startup: filter.clone(),
            current: Mutex::new(filter),
            apply: Box::new(move |targets| reload.reload(targets)),
        }));
        Ok((dispatch, Self { handle, queue, traces }))
    }

    /// What changes the filter.
    pub fn handle(&self) -> LogHandle {
        self.handle.clone()
    }

    /// The export of traces, if there is one.
    pub fn traces(&self) -> Option<&Traces> {
        self.traces.as_ref()
    }

    /// The queue of lines, to see what was lost.
    pub fn queue(&self) -> LogQueue {
        self.queue.clone()
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        // First, so that what it has to say is written.
        drop(self.traces.take());
        self.queue.close(FLUSH_WITHIN);
    }
}

/// What is exported, up to the level of its spans.
fn traced() -> FilterFn {
    FilterFn::new((|metadata| metadata.target() == TARGET) as IsOf).with_max_level_hint(LevelFilter::INFO)
}

/// Everything else. The hint keeps that of the filter beside it in force.
fn logged() -> FilterFn {
    FilterFn::new((|metadata| metadata.target() != TARGET) as IsOf).with_max_level_hint(LevelFilter::TRACE)
}

type IsOf = fn(&Metadata<'_>) -> bool;

// === impl LogHandle ===

impl LogHandle {
    /// The filter in force.
    pub fn current(&self) -> LogFilter {
        self.0.current.lock().clone()
    }

    /// Adds or replaces clauses, after going back to the startup filter if `reset`. Returns the filter now in force.
    ///
    /// # Errors
    /// [`LogError::Filter`] and nothing changes; [`LogError::Gone`] when the log was torn down.
    pub fn change(&self, reset: bool, list: &str) -> Result<LogFilter, LogError> {
        let mut current = self.0.current.lock();
        let mut next = if reset { self.0.startup.clone() } else { current.clone() };
        next.add(list)?;
        (self.0.apply)(next.to_targets())?;
        *current = next.clone();
        Ok(next)
    }

    /// Puts `filter` into force.
    ///
    /// # Errors
    /// [`LogError::Gone`] when the log was torn down.
    pub fn set(&self, filter: LogFilter) -> Result<(), LogError> {
        let mut current = self.0.current.lock();
        (self.0.apply)(filter.to_targets())?;
        *current = filter;
        Ok(())
    }
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogHandle").field(&*self.0.current.lock()).finish()
    }
}

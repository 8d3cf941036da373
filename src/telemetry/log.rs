//! Logging of the process: its filter, format and writer.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tracing::{Dispatch, Metadata, Subscriber, dispatcher::SetGlobalDefaultError};
use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterExt as _, FilterFn, LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
};

use super::{
    export::Export,
    filter,
    line::{Fields, Lines},
    queue::{LogQueue, QueueLimits},
    target::TRACE_TARGET,
};
use crate::protocols::config::{FilterError, LogFilter, LogFormat};

/// How long the exit waits for lines to be written.
/// Limit: flush of the log at exit: 1 s; past it: the lines are lost.
pub const LOG_FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// The process's log. Keep the value until the end of `main`: dropping it writes the remaining lines.
#[derive(Debug)]
pub struct Logging {
    handle: LogHandle,
    queue: LogQueue,
    export: Option<Export>,
}

/// Changes the log's filter while the process runs; clones act on the same log.
#[derive(Clone)]
pub struct LogHandle(Arc<Inner>);

struct Inner {
    startup: LogFilter,
    current: Mutex<LogFilter>,
    apply: Vec<Reload>,
}

/// Applies a filter to the lines, or to the export.
type Reload = Box<dyn Fn(Targets) -> Result<(), reload::Error> + Send + Sync>;

/// The error of a log that could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The writer's thread could not be started.
    #[error("cannot start the log's thread: {0}")]
    Thread(#[from] io::Error),
    /// The process has another log already.
    #[error("cannot install the log: {0}")]
    Install(#[from] SetGlobalDefaultError),
    /// A clause of a new filter is invalid.
    #[error("invalid filter: {0}")]
    Filter(#[from] FilterError),
    /// The log has been torn down.
    #[error("cannot change the log: {0}")]
    Gone(#[from] reload::Error),
}

// === impl Logging ===

impl Logging {
    /// Makes standard output the log of the whole process, and passes its events and spans to `export`.
    ///
    /// # Errors
    /// [`LogError::Thread`]; [`LogError::Install`] when there is a log already.
    pub fn install(format: LogFormat, filter: LogFilter, export: Option<Export>) -> Result<Self, LogError> {
        let (dispatch, logging) = Self::with(io::stdout(), format, filter, export)?;
        tracing::dispatcher::set_global_default(dispatch)?;
        Ok(logging)
    }

    /// Makes a log that writes to `sink`, and returns the dispatch through which `tracing` sends events to it.
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

    /// Makes a log that writes to `sink`, and returns the dispatch through which `tracing` sends events and spans to
    /// the log and to `export`.
    ///
    /// # Errors
    /// [`LogError::Thread`].
    pub fn with(
        sink: impl Write + Send + 'static,
        format: LogFormat,
        filter: LogFilter,
        export: Option<Export>,
    ) -> Result<(Dispatch, Self), LogError> {
        let queue = LogQueue::start(sink, QueueLimits::default())?;
        let (targets, reload) = reload::Layer::new(filter::targets(&filter));
        let lines = fmt::layer()
            .event_format(Lines(format))
            .fmt_fields(Fields(format))
            .with_ansi(false)
            .with_writer(queue.clone())
            // The log leaves out the spans that are exported, whatever its filter says.
            .with_filter(targets.and(logged()));
        let subscriber = Registry::default().with(lines);
        let mut apply: Vec<Reload> = vec![Box::new(move |targets| reload.reload(targets))];
        // Without an export, no layer enables the exported spans, so each such span costs the test of a static.
        let (layer, reload) = match &export {
            None => (None, None),
            Some(export) => exported(export, &filter),
        };
        apply.extend(reload);
        let dispatch = match layer {
            None => Dispatch::new(subscriber),
            Some(layer) => Dispatch::new(subscriber.with(layer)),
        };
        let handle =
            LogHandle(Arc::new(Inner { startup: filter.clone(), current: Mutex::new(filter), apply }));
        Ok((dispatch, Self { handle, queue, export }))
    }

    /// The handle that changes the filter.
    pub fn handle(&self) -> LogHandle {
        self.handle.clone()
    }

    /// The export, if there is one.
    pub fn export(&self) -> Option<&Export> {
        self.export.as_ref()
    }

    /// The queue of lines, which counts lost lines.
    pub fn queue(&self) -> LogQueue {
        self.queue.clone()
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        // The export is dropped first, so that the log still writes its last events.
        drop(self.export.take());
        self.queue.close(LOG_FLUSH_WITHIN);
    }
}

type Boxed<S> = Box<dyn Layer<S> + Send + Sync>;

/// The layer that takes spans and events for `export`, and the function that applies a filter to the events.
fn exported<S>(export: &Export, filter: &LogFilter) -> (Option<Boxed<S>>, Option<Reload>)
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let (mut layer, mut apply): (Option<Boxed<S>>, Option<Reload>) = (None, None);
    let tracer = export.tracer();
    if let Some(records) = export.records() {
        let (targets, reload) = reload::Layer::new(filter::targets(filter));
        apply = Some(Box::new(move |targets| reload.reload(targets)));
        let events = targets.and(logged());
        // LogRecordLayer name the spans they belong to, if there are any.
        layer = Some(match tracer {
            Some(_) => records.with_filter(events.or(traced())).boxed(),
            None => records.with_filter(events).boxed(),
        });
    }
    if let Some(tracer) = tracer {
        let spans = tracing_opentelemetry::layer::<S>()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false);
        let spans = spans.with_filter(traced());
        // The layers are not in a list, because a list would not tell them their dispatch.
        layer = Some(match layer {
            Some(records) => records.and_then(spans).boxed(),
            None => spans.boxed(),
        });
    }
    (layer, apply)
}

/// The filter for exported spans, up to their level.
fn traced() -> FilterFn {
    FilterFn::new((|metadata| metadata.target() == TRACE_TARGET) as IsOf)
        .with_max_level_hint(LevelFilter::INFO)
}

/// The filter for everything but exported spans. Its hint keeps the hint of the filter beside it in force.
fn logged() -> FilterFn {
    FilterFn::new((|metadata| metadata.target() != TRACE_TARGET) as IsOf)
        .with_max_level_hint(LevelFilter::TRACE)
}

type IsOf = fn(&Metadata<'_>) -> bool;

// === impl LogHandle ===

impl LogHandle {
    /// The current filter.
    pub fn current(&self) -> LogFilter {
        self.0.current.lock().clone()
    }

    /// Adds or replaces clauses, after a return to the startup filter if `reset` is set. Returns the new filter.
    ///
    /// # Errors
    /// [`LogError::Filter`] and nothing changes; [`LogError::Gone`] when the log was torn down.
    pub fn change(&self, reset: bool, list: &str) -> Result<LogFilter, LogError> {
        let mut current = self.0.current.lock();
        let mut next = if reset { self.0.startup.clone() } else { current.clone() };
        next.add(list)?;
        self.0.put(&next)?;
        *current = next.clone();
        Ok(next)
    }

    /// Applies `filter`.
    ///
    /// # Errors
    /// [`LogError::Gone`] when the log was torn down.
    pub fn set(&self, filter: LogFilter) -> Result<(), LogError> {
        let mut current = self.0.current.lock();
        self.0.put(&filter)?;
        *current = filter;
        Ok(())
    }
}

impl Inner {
    fn put(&self, filter: &LogFilter) -> Result<(), reload::Error> {
        self.apply.iter().try_for_each(|apply| apply(filter::targets(filter)))
    }
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogHandle").field(&*self.0.current.lock()).finish()
    }
}

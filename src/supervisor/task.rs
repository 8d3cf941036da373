//! Tasks with an owner. A task is aborted when its owner drops it, and the owner hears of its end.
//!
//! An actor's tasks outlive the actor unless its State owns them. A task that dies unheard is how a proxy loses a
//! node's behaviour silently.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::task::AbortHandle;

use super::{
    diagnostics::report_task_panic,
    faults::{Tripwire, kind_of, tripwire},
};

type Observe = dyn Fn(&str) + Send + Sync;

/// What counts the panics of tasks.
static OBSERVER: Mutex<Option<Arc<Observe>>> = Mutex::new(None);

/// A task that ends with its owner.
pub struct OwnedTask {
    name: Arc<str>,
    handle: AbortHandle,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskExit {
    /// Its future completed.
    Done,
    /// Its future panicked.
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// It was aborted, dropped by its owner, or lost with the runtime.
    Aborted,
}

pin_project! {
    /// A future whose panic is its error; see [`watch_panics`].
    #[must_use = "futures do nothing unless polled"]
    pub struct WatchPanics<F> {
        #[pin]
        future: Option<F>,
    }
}

pin_project! {
    // The fields drop in this order: what the work held is free when its end is reported.
    struct Reported<F, R> where R: FnOnce(TaskExit) {
        #[pin]
        work: WatchPanics<Tripwire<Arc<str>, F>>,
        report: Report<R>,
    }
}

/// Calls `on_exit` once: with the exit it is told, or `Aborted` when dropped before.
struct Report<R: FnOnce(TaskExit)> {
    name: Arc<str>,
    on_exit: Option<R>,
}

/// Runs `future`, turning a panic into an error with the panic's message.
///
/// The future is dropped as soon as it completes or panics. It need not be `Send`, and is neither boxed nor copied.
pub fn watch_panics<F: Future>(future: F) -> WatchPanics<F> {
    WatchPanics { future: Some(future) }
}

/// Shows the kind ([`kind_of`]) of every [`OwnedTask`] of the process that panics from now on to `observe`, which takes the
/// place of the observer before. It may count, but not block.
pub fn observe_task_panics(observe: impl Fn(&str) + Send + Sync + 'static) {
    *OBSERVER.lock() = Some(Arc::new(observe));
}

// === impl OwnedTask ===

impl OwnedTask {
    /// Spawns `future` on the current tokio runtime. Names of like tasks share their first two parts: `xds/stream`,
    /// `certs/request/<identity>`. `on_exit` hears of its end exactly once, after the future (and
    /// all it held) is dropped; it runs on the runtime, so it should only pass the news on.
    pub fn spawn(
        name: impl Into<Arc<str>>,
        future: impl Future<Output = ()> + Send + 'static,
        on_exit: impl FnOnce(TaskExit) + Send + 'static,
    ) -> Self {
        let name = name.into();
        let work = watch_panics(tripwire(name.clone(), future));
        let report = Report { name: name.clone(), on_exit: Some(on_exit) };
        #[allow(clippy::disallowed_methods, reason = "this is the owner every other spawn is to use")]
        let handle = tokio::spawn(Reported { work, report }).abort_handle();
        Self { name, handle }
    }

    /// What the task is for.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Ends the task at its next await; `on_exit` is told `Aborted` unless it had ended.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl fmt::Debug for OwnedTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedTask").field("name", &self.name).field("finished", &self.is_finished()).finish()
    }
}

// === impl WatchPanics ===

impl<F: Future> Future for WatchPanics<F> {
    type Output = Result<F::Output, String>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut future = self.project().future;
        let polled = catch_unwind(AssertUnwindSafe(|| match future.as_mut().as_pin_mut() {
            Some(future) => future.poll(cx),
            None => Poll::Pending, // polled after it completed: there is nothing to wait for
        }));
        let output = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(payload) => Err(panic_message(payload)),
        };
        // A future that has panicked may panic again when it is dropped.
        let dropped = catch_unwind(AssertUnwindSafe(|| future.set(None)));
        Poll::Ready(match (output, dropped) {
            (Ok(_), Err(payload)) => Err(panic_message(payload)),
            (output, _) => output,
        })
    }
}

// === impl Reported ===

impl<F: Future<Output = ()>, R: FnOnce(TaskExit)> Future for Reported<F, R> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let exit = match ready!(this.work.poll(cx)) {
            Ok(()) => TaskExit::Done,
            Err(message) => TaskExit::Panicked { message },
        };
        this.report.send(exit);
        Poll::Ready(())
    }
}

// === impl Report ===

impl<R: FnOnce(TaskExit)> Report<R> {
    fn send(&mut self, exit: TaskExit) {
        if let Some(on_exit) = self.on_exit.take() {
            if let TaskExit::Panicked { message } = &exit {
                report_panic(&self.name, message);
            }
            on_exit(exit);
        }
    }
}

impl<R: FnOnce(TaskExit)> Drop for Report<R> {
    fn drop(&mut self) {
        self.send(TaskExit::Aborted);
    }
}

/// Logs, reports and counts the panic of a task.
pub(super) fn report_panic(name: &str, message: &str) {
    tracing::error!(target: "supervisor", task = name, reason = message, "task panicked");
    report_task_panic(name, name, message);
    let observer = OBSERVER.lock().clone();
    if let Some(observer) = observer {
        observer(kind_of(name));
    }
}

/// The message of a caught panic.
pub(super) fn panic_message(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => payload
            .downcast::<&'static str>()
            .map_or_else(|_| "panic without a message".into(), |s| (*s).into()),
    }
}

#[cfg(test)]
mod tests;

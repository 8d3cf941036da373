//! The panic hook, which logs every panic with its place and counts it.

use std::{cell::Cell, panic, sync::Arc};

use crate::{
    supervisor::{note_panic, observe_task_panics},
    telemetry::metrics::Metrics,
};

/// Logs every panic under the target `panic` and counts it in `warren_panics_total`; those of tasks that an actor owns
/// in `warren_task_panics_total` too. Replaces the hook before it.
///
/// The stack is walked here, for the crash report; its symbols, which take tens of milliseconds, are looked up elsewhere.
pub fn install(metrics: Arc<Metrics>) {
    let tasks = metrics.clone();
    observe_task_panics(move |kind| tasks.actors.task_panicked(kind));
    panic::set_hook(Box::new(move |info| {
        metrics.actors.panicked();
        note_panic(info);
        log(info);
    }));
}

fn log(info: &panic::PanicHookInfo<'_>) {
    thread_local!(static LOGGING: Cell<bool> = const { Cell::new(false) });
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let message = message(info.payload());
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    if LOGGING.replace(true) {
        // Logging itself panicked: only the standard error is left.
        eprintln!("thread {thread:?} panicked at {place} while logging a panic: {message}");
    } else {
        tracing::error!(target: "panic", thread, location = place.as_str(), panic = message, "panicked");
    }
    LOGGING.set(false);
}

/// The text a panic was raised with.
fn message(payload: &dyn std::any::Any) -> &str {
    let owned = || payload.downcast_ref::<String>().map(String::as_str);
    payload.downcast_ref::<&'static str>().copied().or_else(owned).unwrap_or("no message")
}

//! Panics of tasks on demand.
//!
//! Whoever wants to see a repair arms a kind of task. The next time a task of that kind is polled, it panics where a bug
//! in it would. The registry is the process's, like the panic hook.

use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use parking_lot::Mutex;
use pin_project_lite::pin_project;

/// Kinds that may be armed at a time.
/// Limit: kinds of tasks that are told to panic: 64; past it: the order is refused.
pub const MAX_ARMED: usize = 64;

/// Whether anything is armed. All that a task looks at while nothing is.
static ANY: AtomicBool = AtomicBool::new(false);
static ARMED: Mutex<Vec<Armed>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Armed {
    kind: Box<str>,
    times: u32,
}

/// Too much is armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_ARMED} kinds of tasks are armed already")]
pub struct TooManyArmed;

pin_project! {
    /// A future that panics when its kind is armed; see [`tripwire`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Tripwire<N, F> {
        name: N,
        #[pin]
        future: Option<F>,
    }
}

/// Drops a future while a panic unwinds, as a panic in its own code would have.
struct Vacate<'a, F>(Pin<&'a mut Option<F>>);

/// The kind of a task: the first two parts of its name, as in `certs/request` for `certs/request/<identity>`.
pub fn kind_of(name: &str) -> &str {
    let second = name.match_indices('/').nth(1);
    second.and_then(|(at, _)| name.get(..at)).unwrap_or(name)
}

/// Lets the next `times` polls of tasks of this kind panic; 0 takes it back. Replaces what was armed for the kind.
///
/// # Errors
/// [`TooManyArmed`] past [`MAX_ARMED`] kinds.
pub fn arm(kind: &str, times: u32) -> Result<(), TooManyArmed> {
    let mut armed = ARMED.lock();
    armed.retain(|armed| &*armed.kind != kind);
    if times > 0 {
        if armed.len() >= MAX_ARMED {
            return Err(TooManyArmed);
        }
        armed.push(Armed { kind: kind.into(), times });
    }
    ANY.store(!armed.is_empty(), Ordering::Relaxed);
    Ok(())
}

/// How many panics of this kind are still to come.
pub fn armed(kind: &str) -> u32 {
    ARMED.lock().iter().find(|armed| &*armed.kind == kind).map_or(0, |armed| armed.times)
}

/// Runs `future`, which panics when the kind of `name` is armed. While nothing is, a poll costs one relaxed load more.
pub fn tripwire<N: AsRef<str>, F: Future>(name: N, future: F) -> Tripwire<N, F> {
    Tripwire { name, future: Some(future) }
}

/// Panics if exactly `name` is armed: for inputs, which have names of their own.
pub(crate) fn trip(name: &str) {
    if ANY.load(Ordering::Relaxed) && spend(name) {
        panic_on_request(name);
    }
}

/// Panics because somebody asked for it.
#[allow(clippy::panic, reason = "a panic is what was ordered")]
pub(super) fn panic_on_request(what: &str) -> ! {
    panic!("{what} was told to panic")
}

/// Takes one of the panics armed for the task's kind.
#[cold]
fn take(name: &str) -> bool {
    spend(kind_of(name))
}

fn spend(kind: &str) -> bool {
    let mut armed = ARMED.lock();
    let Some(at) = armed.iter().position(|armed| &*armed.kind == kind) else { return false };
    let spent = armed.get_mut(at).is_none_or(|armed| {
        armed.times -= 1;
        armed.times == 0
    });
    if spent {
        armed.swap_remove(at);
        ANY.store(!armed.is_empty(), Ordering::Relaxed);
    }
    true
}

impl<N: AsRef<str>, F: Future> Future for Tripwire<N, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        if ANY.load(Ordering::Relaxed) && take((*this.name).as_ref()) {
            let _vacate = Vacate(this.future);
            panic_on_request((*this.name).as_ref());
        }
        match this.future.as_mut().as_pin_mut() {
            Some(future) => future.poll(cx),
            None => Poll::Pending, // polled after it panicked: there is nothing to wait for
        }
    }
}

impl<F> Drop for Vacate<'_, F> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

#[cfg(test)]
mod tests;

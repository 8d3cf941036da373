//! Panics and failed starts on demand, to prove that they are survived.
//!
//! Whoever wants to see a repair arms a kind of task; the next time a task of that kind is polled, it panics where a
//! bug in it would. The registry is the process's, like the panic hook.

use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
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

/// How many of a node's next starts fail, whatever the actor would have made of them.
#[derive(Debug, Default)]
pub(super) struct FailingStarts(AtomicU32);

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
        blow(name);
    }
}

/// Panics because somebody asked for it.
#[allow(clippy::panic, reason = "a panic is what was ordered")]
pub(super) fn blow(what: &str) -> ! {
    panic!("{what} was told to panic")
}

// === impl FailingStarts ===

impl FailingStarts {
    /// Lets the next `times` starts fail; 0 takes it back.
    pub(super) fn order(&self, times: u32) {
        self.0.store(times, Ordering::Relaxed);
    }

    /// Whether this start is one of them.
    pub(super) fn take(&self) -> bool {
        let one_less = |times: u32| times.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
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
            blow((*this.name).as_ref());
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
mod tests {
    use super::*;
    use crate::supervisor::watch_panics;

    #[test]
    fn a_kind_is_the_first_two_parts_of_a_name() {
        for (name, kind) in [
            ("http", "http"),
            ("xds/stream", "xds/stream"),
            ("certs/request/spiffe://td/ns/a/sa/b", "certs/request"),
            ("", ""),
        ] {
            assert_eq!(kind_of(name), kind);
        }
    }

    #[tokio::test]
    async fn an_armed_kind_panics_as_often_as_it_was_told_and_no_other_does() {
        let run = |name: &'static str| watch_panics(tripwire(name, async { 7 }));
        arm("faults/a", 2).expect("room");
        assert_eq!(run("faults/b/1").await, Ok(7));
        assert_eq!(run("faults/a/1").await, Err("faults/a/1 was told to panic".into()));
        assert_eq!(armed("faults/a"), 1);
        assert_eq!(run("faults/a").await, Err("faults/a was told to panic".into()));
        assert_eq!(run("faults/a").await, Ok(7));
        arm("faults/a", 5).expect("room");
        arm("faults/a", 0).expect("room");
        assert_eq!(run("faults/a").await, Ok(7));
    }

    /// Says in which way it was dropped.
    struct Dropped(std::sync::mpsc::Sender<bool>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::panicking());
        }
    }

    #[tokio::test]
    async fn a_task_is_hit_in_its_middle_and_what_it_holds_sees_the_panic() {
        let (tell, told) = std::sync::mpsc::channel();
        let held = Dropped(tell);
        let work = async move {
            let _held = held;
            tokio::task::yield_now().await;
            arm("faults/middle", 1).expect("room");
            tokio::task::yield_now().await;
        };
        let ended = watch_panics(tripwire("faults/middle", work)).await;
        assert_eq!(ended, Err("faults/middle was told to panic".into()));
        assert_eq!(told.try_recv(), Ok(true));
    }
}

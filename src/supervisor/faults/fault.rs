//! Faults of actors, and how they are acted out.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::tripwire::panic_on_request;

/// What an actor is made to suffer. It arrives in the actor's mailbox, and its handler acts it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its handler panics.
    Panic,
    /// Its handler does not return for so long. The actor can be killed meanwhile.
    Hang(Duration),
    /// Every message waits so much longer before it is handled, for so long.
    Slow {
        /// What is added to each message.
        each: Duration,
        /// How long this goes on.
        lasting: Duration,
    },
}

/// How late an actor is with each message, and until when. It belongs to one incarnation.
#[derive(Debug, Default)]
pub(crate) struct Slowness(Option<(Duration, Instant)>);

/// How many of a node's next starts fail, whatever the actor would have made of them.
#[derive(Debug, Default)]
pub(crate) struct FailingStarts(AtomicU32);

// === impl Fault ===

impl Fault {
    /// Breaks the handler that calls this, which is one of the actor at `path`.
    pub(crate) async fn act_out(self, path: &str, slowness: &mut Slowness) {
        match self {
            Self::Panic => panic_on_request(path),
            Self::Hang(time) => sleep(time).await,
            Self::Slow { each, lasting } => slowness.0 = Some((each, Instant::now() + lasting)),
        }
    }
}

// === impl Slowness ===

impl Slowness {
    /// Waits as long as a message is to be late.
    pub(crate) async fn delay(&mut self) {
        self.0 = self.0.filter(|(_, until)| Instant::now() < *until);
        if let Some((each, _)) = self.0 {
            sleep(each).await;
        }
    }
}

// === impl FailingStarts ===

impl FailingStarts {
    /// Lets the next `times` starts fail; 0 takes it back.
    pub(crate) fn order(&self, times: u32) {
        self.0.store(times, Ordering::Relaxed);
    }

    /// Whether this start is one of them.
    pub(crate) fn take(&self) -> bool {
        let one_less = |times: u32| times.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

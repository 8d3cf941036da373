//! A hand-over that is broken on purpose at one step, for tests.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    protocols::config::{HandoverFault, HandoverStep},
    sys::limits,
};

/// The exit status of a process that dies here, which is that of one that a SIGKILL has ended.
const KILLED: u8 = 137;
/// How long a step hangs. The other process gives up before.
/// Limit: time for which a step of the hand-over of connections hangs on purpose: 3 s; past it: it goes on.
const HANG: Duration = Duration::from_secs(3);

/// Breaks the hand-over where it is told to.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    fault: Option<HandoverFault>,
    /// How often the step was reached.
    reached: AtomicU32,
}

// === impl Breaker ===

impl Breaker {
    pub(super) fn new(fault: Option<HandoverFault>) -> Self {
        Self { fault, reached: AtomicU32::new(0) }
    }

    /// The hand-over has reached this step. The process ends here without any more work, as by a SIGKILL, if it is told
    /// to.
    pub(super) async fn reached(&self, step: HandoverStep) {
        let Some(fault) = self.fault.filter(|fault| fault.step == step) else { return };
        if self.reached.fetch_add(1, Relaxed) + 1 != fault.time {
            return;
        }
        if !fault.hangs {
            limits::exit(KILLED);
        }
        sleep(HANG).await;
    }
}

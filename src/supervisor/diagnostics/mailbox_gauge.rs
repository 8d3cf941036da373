//! What waits in a mailbox, and for how long. ractor says nothing of an actor's queue.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Instants that a gauge keeps room for once its mailbox is empty.
/// Limit: room that the books of an empty mailbox keep: 16 messages; past it: the room is given back.
const KEPT_ROOM: usize = 16;

/// When the messages were sent that one incarnation has not begun to handle.
#[derive(Debug, Default)]
pub(crate) struct MailboxGauge(Mutex<VecDeque<Instant>>);

impl MailboxGauge {
    /// A message is about to be sent.
    pub(crate) fn enter(&self) {
        self.0.lock().push_back(Instant::now());
    }

    /// The message was not sent after all.
    pub(crate) fn undo(&self) {
        self.0.lock().pop_back();
    }

    /// The oldest message is about to be handled. Gives when it was sent.
    pub(crate) fn leave(&self) -> Option<Instant> {
        let mut waiting = self.0.lock();
        let sent = waiting.pop_front();
        if waiting.is_empty() && waiting.capacity() > KEPT_ROOM {
            waiting.shrink_to(KEPT_ROOM);
        }
        sent
    }

    /// How many messages wait.
    pub(crate) fn depth(&self) -> usize {
        self.0.lock().len()
    }

    /// How many messages wait, and for how long the oldest has.
    pub(super) fn load(&self, now: Instant) -> (usize, Duration) {
        let waiting = self.0.lock();
        let oldest = waiting.front().map_or(Duration::ZERO, |sent| now.saturating_duration_since(*sent));
        (waiting.len(), oldest)
    }
}

//! The number of messages that wait in a mailbox, and their waiting times. ractor does not report an actor's queue.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The number of instants that a gauge keeps room for once its mailbox is empty.
/// Limit: room that the books of an empty mailbox keep: 16 messages; past it: the room is given back.
const KEPT_ROOM: usize = 16;

/// The send times of the messages that one incarnation has not begun to handle.
#[derive(Debug, Default)]
pub(crate) struct MailboxGauge(Mutex<VecDeque<Instant>>);

impl MailboxGauge {
    /// Records that a message is about to be sent.
    pub(crate) fn enter(&self) {
        self.0.lock().push_back(Instant::now());
    }

    /// Records that the message was not sent after all.
    pub(crate) fn undo(&self) {
        self.0.lock().pop_back();
    }

    /// Records that the oldest message is about to be handled. Returns the time when it was sent.
    pub(crate) fn leave(&self) -> Option<Instant> {
        let mut waiting = self.0.lock();
        let sent = waiting.pop_front();
        if waiting.is_empty() && waiting.capacity() > KEPT_ROOM {
            waiting.shrink_to(KEPT_ROOM);
        }
        sent
    }

    /// The number of waiting messages.
    pub(crate) fn depth(&self) -> usize {
        self.0.lock().len()
    }

    /// The number of waiting messages, and the waiting time of the oldest.
    pub(super) fn load(&self, now: Instant) -> (usize, Duration) {
        let waiting = self.0.lock();
        let oldest = waiting.front().map_or(Duration::ZERO, |sent| now.saturating_duration_since(*sent));
        (waiting.len(), oldest)
    }
}

//! The path of log lines to standard output: a bounded queue, and the thread that empties it
//! (docs/spec/controlplane.md 6.1).
//!
//! The queue and the thread belong to the process and not to an actor, so that no restart loses a line. Nobody waits
//! for room in the queue: a shard that waited for a slow reader of the log would stop the traffic of all its pods. A
//! line without room is counted as lost. The thread logs the count as soon as the reader has caught up.

use std::{
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

use crate::runtime::sync::{Condvar, Mutex};

/// Most lines waiting to be written.
/// Limit: log lines that wait for the reader of standard output: 10,000; past it: lines are lost and
/// counted.
pub(crate) const LOG_QUEUE_LINES: usize = 10_000;
/// Most bytes waiting to be written.
/// Limit: bytes of log lines that wait for the reader of standard output: 16 MiB; past it: lines are lost
/// and counted.
const LOG_QUEUE_BYTES: usize = 16 << 20;
/// How long lines gather: it saves connections from waking the thread, line by line.
/// Limit: gathering of log lines for one write: 5 ms; past it: the lines are written.
const GATHER_DELAY: Duration = Duration::from_millis(5);
/// A buffer that grew larger is not kept.
/// Limit: buffer that the log's writer keeps: 1 MiB; past it: the buffer is given back.
const KEPT_BUFFER: usize = 1 << 20;

/// The queue; clones share one queue.
#[derive(Clone, Debug)]
pub struct LogQueue(Arc<Shared>);

/// Bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// The number of lines that may wait.
    pub lines: usize,
}

/// One line on its way into the queue.
#[derive(Debug)]
pub struct Line<'a>(&'a LogQueue);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notified when the thread has work.
    work: Condvar,
    /// Notified when a batch has been written.
    room: Condvar,
    limits: QueueLimits,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    lines: usize,
    /// The number of lines taken out and not written yet.
    in_flight: usize,
    lost: u64,
    /// The number of lost lines that the log has told of.
    told: u64,
    /// Whether the thread waits for work.
    asleep: bool,
    closed: bool,
}

// === impl QueueLimits ===

impl Default for QueueLimits {
    fn default() -> Self {
        Self { lines: LOG_QUEUE_LINES }
    }
}

// === impl LogQueue ===

impl LogQueue {
    /// A queue and the thread that writes its lines to `sink`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(sink: impl Write + Send + 'static, limits: QueueLimits) -> io::Result<Self> {
        let queue = Self::new(limits);
        let (shared, mut sink) = (Arc::clone(&queue.0), sink);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            // If the sink panics, its lines are lost and the thread goes on.
            while catch_unwind(AssertUnwindSafe(|| shared.run(&mut sink))).is_err() {
                shared.settle(0);
            }
        })?;
        Ok(queue)
    }

    /// A queue that nothing empties yet.
    fn new(limits: QueueLimits) -> Self {
        let (work, room) = (Condvar::new(), Condvar::new());
        Self(Arc::new(Shared { state: Mutex::new(State::default()), work, room, limits }))
    }

    /// Adds one line, which ends in a line feed. A full queue loses the line and counts it.
    pub fn push(&self, line: &[u8]) {
        let shared = &*self.0;
        let mut state = shared.state.lock();
        if state.closed || !shared.has_room(&state) {
            state.lost += 1;
            return;
        }
        state.buffer.extend_from_slice(line);
        state.lines += 1;
        let wanted = state.asleep || state.lines == shared.limits.lines / 2;
        if wanted {
            state.asleep = false;
            drop(state);
            shared.work.notify_one();
        }
    }

    /// Waits until every line that is in the queue now is written. Returns false if that takes longer than `within`.
    pub fn flush(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let shared = &*self.0;
        let mut state = shared.state.lock();
        while state.lines + state.in_flight > 0 {
            shared.work.notify_one();
            if shared.room.wait_until(&mut state, deadline).timed_out() {
                return state.lines + state.in_flight == 0;
            }
        }
        true
    }

    /// Writes the waiting lines within `within`, and ends the thread; later lines are lost.
    pub fn close(&self, within: Duration) -> bool {
        let flushed = self.flush(within);
        self.0.state.lock().closed = true;
        self.0.work.notify_one();
        self.0.room.notify_all();
        flushed
    }

    /// The number of lines lost so far.
    pub fn lost(&self) -> u64 {
        self.0.state.lock().lost
    }
}

// === impl Shared ===

impl Shared {
    fn has_room(&self, state: &State) -> bool {
        state.lines + state.in_flight < self.limits.lines && state.buffer.len() < LOG_QUEUE_BYTES
    }

    /// Writes until the queue is closed.
    fn run(&self, sink: &mut impl Write) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.state.lock();
            while state.lines == 0 {
                if state.closed {
                    return;
                }
                state.asleep = true;
                self.work.wait(&mut state);
            }
            state.asleep = false;
            std::mem::swap(&mut batch, &mut state.buffer);
            state.in_flight = std::mem::take(&mut state.lines);
            let lines = state.in_flight;
            drop(state);

            let written = sink.write_all(&batch).and_then(|()| sink.flush());
            self.settle(if written.is_ok() { lines } else { 0 });
            batch.clear();
            batch.shrink_to(KEPT_BUFFER);
            if let Some(lines) = self.untold() {
                tracing::warn!(target: "log", lines, "log lines were lost: their reader is too slow");
            }

            // The thread is awake meanwhile: lines that come now need not wake it.
            let mut state = self.state.lock();
            if !state.closed && state.lines < self.limits.lines / 2 {
                self.work.wait_for(&mut state, GATHER_DELAY);
            }
        }
    }

    /// The number of lines lost since the log last told of some, once the reader has caught up.
    fn untold(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let lost = state.lost.saturating_sub(state.told);
        if lost == 0 || state.lines > 0 {
            return None;
        }
        state.told = state.lost;
        Some(lost)
    }

    /// Ends the batch in flight, of which `written` lines were written.
    fn settle(&self, written: usize) {
        let mut state = self.state.lock();
        let taken = std::mem::take(&mut state.in_flight);
        state.lost += taken.saturating_sub(written) as u64;
        drop(state);
        self.room.notify_all();
    }
}

// === impl Line ===

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

#[cfg(test)]
mod tests;

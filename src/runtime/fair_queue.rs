//! Lanes: the connections of one pod, or the streams of one tunnel, on one shard.
//!
//! A shard's runtime takes its tasks in the order in which they became ready. With a task for each connection, a pod
//! that opens them as fast as it can would have the others wait behind all of its own. So each of these crowds is one
//! task: its lane, which goes a few steps when its turn comes and then stands in line again.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use slab::Slab;

/// Steps of a lane in one turn of its shard.
/// Limit: steps of a fair queue in one turn: 4; past it: other tasks of the shard go first.
const STEPS_PER_TURN: usize = 4;
/// For how long whoever sends on what a crowd brings waits for more of it.
/// Limit: wait of a tunnel for more to send: 200 µs; past it: the tunnel sends what there is.
const FLUSH_DELAY: Duration = Duration::from_micros(200);
/// Room of the books of a lane that is kept when nothing is in them.
/// Limit: room that the books of an empty fair queue keep: 16 connections; past it: the room is given back.
const KEPT_CAPACITY: usize = 16;

type Work = Pin<Box<dyn Future<Output = ()>>>;

/// Lanes that have more to do than one turn. Whoever sends on what they bring does better to wait for it: the tunnel of a
/// crowd sends once for all of it.
#[derive(Clone, Debug, Default)]
pub struct Backlog(Rc<Cell<usize>>);

/// The patience of one that sends on what a crowd brings.
#[derive(Debug)]
pub struct FlushDelay {
    backlog: Backlog,
    /// The beginning of the wait.
    since: Option<Instant>,
}

/// A lane's part in a [`Backlog`].
struct BacklogShare {
    of: Backlog,
    counted: bool,
}

/// Where work is put on a lane. The lane ends once all of these are dropped and its work is done.
pub struct FairQueue {
    arrivals: Rc<RefCell<Vec<Work>>>,
    ready: Arc<ReadyQueue>,
}

/// Drives what is on a lane.
pub(crate) struct Driver {
    arrivals: Rc<RefCell<Vec<Work>>>,
    ready: Arc<ReadyQueue>,
    tasks: Slab<Task>,
    share: BacklogShare,
}

struct Task {
    work: Work,
    task_waker: Arc<TaskWaker>,
    /// The bell's: making one for each step would cost more than keeping it.
    waker: Waker,
}

/// Wakes one member, from any thread.
struct TaskWaker {
    ready: Arc<ReadyQueue>,
    key: usize,
    /// It stands in line already.
    queued: AtomicBool,
}

/// Who is ready, in the order in which they became so.
#[derive(Default)]
struct ReadyQueue(Mutex<ReadyState>);

#[derive(Default)]
struct ReadyState {
    ready: VecDeque<usize>,
    /// The driver's, while it waits.
    driver: Option<Waker>,
}

/// A lane and what drives it.
pub(crate) fn fair_queue(of: Backlog) -> (FairQueue, Driver) {
    let (arrivals, ready) = (Rc::default(), Arc::default());
    let fair_queue = FairQueue { arrivals: Rc::clone(&arrivals), ready: Arc::clone(&ready) };
    (fair_queue, Driver { arrivals, ready, tasks: Slab::new(), share: BacklogShare { of, counted: false } })
}

// === impl Backlog ===

impl Backlog {
    /// Whether a lane stands in line for its next turn.
    fn is_there(&self) -> bool {
        self.0.get() > 0
    }

    /// For one that sends on what these lanes bring.
    pub fn flush_delay(&self) -> FlushDelay {
        FlushDelay { backlog: self.clone(), since: None }
    }
}

// === impl FlushDelay ===

impl FlushDelay {
    /// Whether to send later, as more is about to come. Not for longer than 200 µs in a row.
    pub fn waits(&mut self) -> bool {
        let waits =
            self.backlog.is_there() && self.since.get_or_insert_with(Instant::now).elapsed() < FLUSH_DELAY;
        if !waits {
            self.since = None;
        }
        waits
    }
}

// === impl BacklogShare ===

impl BacklogShare {
    fn count(&mut self, counted: bool) {
        if self.counted != counted {
            self.counted = counted;
            let count = &self.of.0;
            count.set(if counted { count.get() + 1 } else { count.get() - 1 });
        }
    }
}

impl Drop for BacklogShare {
    fn drop(&mut self) {
        self.count(false);
    }
}

// === impl FairQueue ===

impl FairQueue {
    /// Puts `work` on the lane. Panics are its own business.
    pub fn put(&self, work: impl Future<Output = ()> + 'static) {
        self.arrivals.borrow_mut().push(Box::pin(work));
        self.ready.wake_driver();
    }
}

impl Drop for FairQueue {
    fn drop(&mut self) {
        self.ready.wake_driver();
    }
}

// === impl ReadyQueue ===

impl ReadyQueue {
    fn wake_driver(&self) {
        let driver = self.0.lock().driver.take();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    fn join(&self, key: usize) {
        let mut waiting = self.0.lock();
        waiting.ready.push_back(key);
        let driver = waiting.driver.take();
        drop(waiting);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Whether somebody is in line; if not, `driver` is woken by the next that joins.
    fn is_waiting(&self, driver: &Waker) -> bool {
        let mut waiting = self.0.lock();
        if waiting.ready.is_empty() {
            waiting.driver = Some(driver.clone());
        }
        !waiting.ready.is_empty()
    }

    /// The next in line; if there is none, `driver` is woken by the next that joins.
    fn next(&self, driver: &Waker) -> Option<usize> {
        let mut waiting = self.0.lock();
        let next = waiting.ready.pop_front();
        if next.is_none() {
            waiting.driver = Some(driver.clone());
            if waiting.ready.capacity() > KEPT_CAPACITY {
                waiting.ready.shrink_to(KEPT_CAPACITY);
            }
        }
        next
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.join(self.key);
        }
    }
}

// === impl Driver ===

impl Driver {
    fn admit(&mut self) {
        let mut arrivals = self.arrivals.borrow_mut();
        for work in arrivals.drain(..) {
            let entry = self.tasks.vacant_entry();
            let (ready, key) = (self.ready.clone(), entry.key());
            let task_waker = Arc::new(TaskWaker { ready, key, queued: AtomicBool::new(true) });
            entry.insert(Task { work, waker: Waker::from(task_waker.clone()), task_waker });
            self.ready.join(key);
        }
    }

    fn step(&mut self, key: usize) {
        // One that has ended may have been woken once more.
        let Some(task) = self.tasks.get_mut(key) else { return };
        // Before it is polled: what wakes it meanwhile counts.
        task.task_waker.queued.store(false, Ordering::Release);
        if task.work.as_mut().poll(&mut Context::from_waker(&task.waker)).is_ready() {
            // Taken out first: dropping it may put new work on the lane.
            let ended = self.tasks.remove(key);
            drop(ended);
        }
        if self.tasks.is_empty() {
            self.tasks.shrink_to_fit();
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        for _ in 0..STEPS_PER_TURN {
            this.admit();
            match this.ready.next(cx.waker()) {
                Some(key) => this.step(key),
                // No other holder of the arrivals is left to bring any.
                None if this.tasks.is_empty() && Rc::strong_count(&this.arrivals) == 1 => {
                    return Poll::Ready(());
                }
                None => {
                    this.share.count(false);
                    return Poll::Pending;
                }
            }
        }
        this.admit();
        let more = this.ready.is_waiting(cx.waker());
        this.share.count(more);
        // An empty lane ends in its next turn.
        if more || this.tasks.is_empty() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;

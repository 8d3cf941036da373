//! Fair queues: the connections of one pod, or the streams of one tunnel, on one shard.
//!
//! A shard's runtime polls its tasks in the order in which the tasks became ready. If each connection were a task of
//! the runtime, the connections of other pods would wait behind all connections of a busy pod. So the connections of
//! a pod and kind, or the streams of a tunnel, share one task: the driver of a fair queue. The driver takes a few
//! steps in a turn and then waits for its next turn.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use slab::Slab;

use super::sync::{AtomicBool, Mutex};

/// The number of steps that a fair queue takes in one turn of its shard.
/// Limit: steps of a fair queue in one turn: 4; past it: other tasks of the shard go first.
const STEPS_PER_TURN: usize = 4;
/// The longest time that a tunnel waits for more to send while its fair queues have a backlog.
/// Limit: wait of a tunnel for more to send: 200 µs; past it: the tunnel sends what there is.
const FLUSH_DELAY: Duration = Duration::from_micros(200);
/// The capacity that the ready queue of a fair queue keeps when the ready queue is empty.
/// Limit: capacity that the ready queue of an empty fair queue keeps: 16 connections; past it: the memory is given
/// back.
const KEPT_CAPACITY: usize = 16;

type Work = Pin<Box<dyn Future<Output = ()>>>;

/// The number of fair queues that have more ready tasks than one turn takes. A tunnel that carries the bytes of these
/// tasks waits for more bytes while a backlog exists, and then sends all bytes at once.
#[derive(Clone, Debug, Default)]
pub struct Backlog(Rc<Cell<usize>>);

/// The flush delay of a tunnel: whether the tunnel sends now or waits for more bytes.
#[derive(Debug)]
pub struct FlushDelay {
    backlog: Backlog,
    /// The beginning of the wait, if the tunnel waits.
    since: Option<Instant>,
}

/// The part of one fair queue in a [`Backlog`].
struct BacklogShare {
    of: Backlog,
    counted: bool,
}

/// The handle that puts tasks on a fair queue. The `Driver` ends once the handle is dropped and all tasks have
/// ended.
pub struct FairQueue {
    arrivals: Rc<RefCell<Vec<Work>>>,
    ready: Arc<ReadyQueue>,
}

/// The future that polls the tasks of a fair queue.
pub(crate) struct Driver {
    arrivals: Rc<RefCell<Vec<Work>>>,
    ready: Arc<ReadyQueue>,
    tasks: Slab<Task>,
    share: BacklogShare,
}

struct Task {
    work: Work,
    task_waker: Arc<TaskWaker>,
    /// The waker made of `task_waker`. A new waker for each step would cost more than the kept one.
    waker: Waker,
}

/// Puts one task into the ready queue, from any thread.
struct TaskWaker {
    ready: Arc<ReadyQueue>,
    key: usize,
    /// Whether the task is in the ready queue already.
    queued: AtomicBool,
}

/// The keys of the ready tasks, in the order in which the tasks became ready.
#[derive(Default)]
struct ReadyQueue(Mutex<ReadyState>);

#[derive(Default)]
struct ReadyState {
    ready: VecDeque<usize>,
    /// The waker of the driver, while the driver waits for a ready task.
    driver: Option<Waker>,
}

/// Makes a fair queue, part of the backlog `of`, and the driver of the fair queue.
pub(crate) fn fair_queue(of: Backlog) -> (FairQueue, Driver) {
    let (arrivals, ready) = (Rc::default(), Arc::default());
    let fair_queue = FairQueue { arrivals: Rc::clone(&arrivals), ready: Arc::clone(&ready) };
    (fair_queue, Driver { arrivals, ready, tasks: Slab::new(), share: BacklogShare { of, counted: false } })
}

// === impl Backlog ===

impl Backlog {
    /// Whether a fair queue has ready tasks left for its next turn.
    fn is_there(&self) -> bool {
        self.0.get() > 0
    }

    /// Makes the flush delay of a tunnel that carries the bytes of these fair queues.
    pub fn flush_delay(&self) -> FlushDelay {
        FlushDelay { backlog: self.clone(), since: None }
    }
}

// === impl FlushDelay ===

impl FlushDelay {
    /// Whether the tunnel should send later, as more bytes are about to come. The answer is true for at most 200 µs
    /// in a row.
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
    /// Puts `work` on the fair queue as a task. The fair queue does not catch a panic of `work`.
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

    /// Whether a task is ready. If no task is ready, the next task that becomes ready wakes `driver`.
    fn is_waiting(&self, driver: &Waker) -> bool {
        let mut waiting = self.0.lock();
        if waiting.ready.is_empty() {
            waiting.driver = Some(driver.clone());
        }
        !waiting.ready.is_empty()
    }

    /// Takes the next ready task. If no task is ready, the next task that becomes ready wakes `driver`.
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
        // A task that has ended may have been woken once more.
        let Some(task) = self.tasks.get_mut(key) else { return };
        // The flag is cleared before the poll, so that a wake-up during the poll counts.
        task.task_waker.queued.store(false, Ordering::Release);
        if task.work.as_mut().poll(&mut Context::from_waker(&task.waker)).is_ready() {
            // The task is removed before the drop: the drop may put new tasks on the fair queue.
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
                // The handle of the fair queue is dropped, so no task can arrive.
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
        // An empty fair queue may end in its next turn.
        if more || this.tasks.is_empty() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;

//! Shards are threads that run connections and other tasks that actors place there.
//!
//! A shard is an OS thread with its own single-threaded runtime. A connection is set up, relayed and closed on one
//! shard, so nothing on the byte path wakes another thread. Actors reach shards through [`Shards`] only: they place a
//! task, keep it as a [`Placed`], and hear of its end.

use std::{
    any::{Any, TypeId},
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    thread,
};

use atomic_waker::AtomicWaker;
use foldhash::HashMap;
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    time::timeout,
};

use super::{
    balancer::{Balancer, HandedOver, LoadGuard, ShardStats},
    fair_queue::{Backlog, FairQueue, fair_queue},
};
use crate::{
    protocols::tls::buffer::Buffers,
    supervisor::{
        TaskExit, WatchPanics,
        faults::{Tripwire, tripwire},
        report_task_panic, report_task_panic_as, watch_panics,
    },
    sys::{
        cputime::ThreadTime,
        memory::{self, Tidy},
        netns::NetNs,
        splice::Pipes,
    },
};

/// The number of placements that may wait until a shard takes them.
/// Limit: placements that wait for a shard: 1024; past it: refused: a dial fails, and a connection stays where it was
/// accepted.
const PLACEMENT_QUEUE: usize = 1024;
/// The number of placements that a shard takes before its other tasks get a turn. A connection that another shard
/// hands over is a placement, too.
/// Limit: placements that a shard takes in one turn: 8; past it: other tasks of the shard go first.
const PLACEMENTS_PER_TURN: u32 = 8;
/// The number of task turns after which a busy shard polls its sockets. A turn of a fair queue is several steps, and
/// no connection is ready before the poll of its socket.
/// Limit: turns of a busy shard between two looks at its sockets: 4; past it: the shard looks at its sockets.
const EVENT_INTERVAL: u32 = 4;

type Job = Box<dyn FnOnce(&Shard) + Send>;

/// All shards of the process. Clones share the shards.
#[derive(Clone)]
pub struct Shards(Arc<All>);

struct All {
    slots: Box<[Slot]>,
    balance: Balancer,
    /// The number of threads that all slots have had.
    replaced: watch::Sender<u64>,
}

/// A shard as other threads see it. The slot outlives the thread of the shard, which may be replaced.
struct Slot {
    jobs: Mutex<mpsc::Sender<Job>>,
    /// Jobs that free what a shard holds and found the queue full. The shard takes them with its next placements.
    frees: Mutex<Vec<Job>>,
    load: Arc<ShardStats>,
    /// Whether a thread serves the slot.
    alive: Arc<watch::Sender<bool>>,
}

/// The calling thread's own shard, with the state that its tasks share. Clones share the state.
#[derive(Clone)]
pub struct Shard(Rc<Local>);

/// The state of one shard thread.
pub struct Local {
    index: usize,
    /// The buffers of this thread.
    pub buffers: Buffers,
    /// The pipes that move bytes between sockets of this thread.
    pub pipes: Pipes,
    /// The random numbers of this thread.
    pub rng: RefCell<SmallRng>,
    /// The network namespace of the process.
    pub home: NetNs,
    /// All shards. A connection may be handed over to another shard before the connection begins.
    pub shards: Shards,
    /// One value of each type that users of the shard keep; see [`Shard::local`].
    locals: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
    load: Arc<ShardStats>,
}

/// The owner of a task on a shard: the task ends when the owner is dropped.
#[derive(Debug)]
pub struct Placed {
    lease: Arc<TaskLease>,
}

#[derive(Debug, Default)]
struct TaskLease {
    released: AtomicBool,
    ended: AtomicBool,
    waker: AtomicWaker,
}

/// The reason why a task was not placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The shard has too many placements waiting.
    #[error("shard {0} has more than {PLACEMENT_QUEUE} placements waiting")]
    Busy(usize),
    /// The shard's thread is down and not yet replaced.
    #[error("shard {0} is down")]
    Down(usize),
}

pin_project! {
    /// A task that ends with `None` when its owner is dropped.
    struct LeasedTask<F> {
        #[pin]
        future: Option<F>,
        lease: Arc<TaskLease>,
    }
}

pin_project! {
    /// A placed task that reports how the task has ended. The future has a name for the same reason as [`Watched`].
    ///
    /// The fields drop in this order, so that all values of the task are dropped when its end is reported.
    struct PlacedTask<F> {
        #[pin]
        task: WatchPanics<LeasedTask<F>>,
        shard: usize,
        kind: &'static str,
        report: Option<ExitReport>,
    }
}

pin_project! {
    /// A task whose panic is reported. The future has a name because an `async` block would hold the work twice.
    struct Watched<F, P> {
        #[pin]
        work: WatchPanics<Tripwire<&'static str, F>>,
        on_panic: Option<P>,
    }
}

/// Sets the flag of a slot to false when its thread ends, also by a panic.
struct Alive(Arc<watch::Sender<bool>>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

/// Reports the end of a task once. A drop without a report reports `Aborted`.
struct ExitReport(Option<Box<dyn FnOnce(TaskExit) + Send>>);

// === impl Shards ===

impl Shards {
    /// Makes `count` shards without threads: [`Shards::serve`] starts the threads. A `count` of 0 counts as 1.
    pub fn new(count: usize) -> Self {
        let slot = |_| {
            let (jobs, _) = mpsc::channel(1);
            let alive = Arc::new(watch::Sender::new(false));
            Slot { jobs: Mutex::new(jobs), frees: Mutex::default(), load: Arc::default(), alive }
        };
        let slots: Box<[Slot]> = (0..count.max(1)).map(slot).collect();
        let balance = Balancer::new(slots.iter().map(|slot| slot.load.clone()));
        Self(Arc::new(All { slots, balance, replaced: watch::Sender::new(0) }))
    }

    /// The number of shards.
    pub fn count(&self) -> usize {
        self.0.slots.len()
    }

    /// The load of each shard.
    pub fn loads(&self) -> impl Iterator<Item = &ShardStats> {
        self.0.slots.iter().map(|slot| &*slot.load)
    }

    /// The balancer, which chooses the shard of a connection and samples the processor time of shards.
    pub fn balance(&self) -> &Balancer {
        &self.0.balance
    }

    /// A number that changes when a shard gets another thread. Tasks of the former thread must be placed again.
    pub fn replaced(&self) -> watch::Receiver<u64> {
        self.0.replaced.subscribe()
    }

    /// Whether shard `index` has a thread. The value is false once the thread has ended, for whatever reason. `None`:
    /// no such shard.
    pub fn alive(&self, index: usize) -> Option<watch::Receiver<bool>> {
        self.0.slots.get(index).map(|slot| slot.alive.subscribe())
    }

    /// The number of shards that have a thread.
    pub fn living(&self) -> usize {
        self.0.slots.iter().filter(|slot| *slot.alive.borrow()).count()
    }

    /// Starts the thread of shard `index`, replacing a dead one.
    ///
    /// # Errors
    /// The thread or its runtime cannot be started.
    pub fn serve(&self, index: usize) -> io::Result<()> {
        let Some(slot) = self.0.slots.get(index) else { return Ok(()) };
        let (jobs, queue) = mpsc::channel::<Job>(PLACEMENT_QUEUE);
        let (shards, load, home) = (self.clone(), slot.load.clone(), NetNs::current()?);
        let alive = Alive(slot.alive.clone());
        let (ready, started) = std::sync::mpsc::channel();
        let body = move || {
            let _alive = alive;
            let time = ThreadTime::of_this_thread();
            let runtime = match Builder::new_current_thread()
                .enable_all()
                .event_interval(EVENT_INTERVAL)
                .build_local(LocalOptions::default())
            {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            drop(ready.send(Ok(time)));
            let local = Local {
                index,
                buffers: Buffers::default(),
                pipes: Pipes::default(),
                rng: RefCell::new(SmallRng::from_os_rng()),
                home,
                shards,
                locals: RefCell::default(),
                load,
            };
            let shard = Shard(Rc::new(local));
            runtime.block_on(tripwire("shard/thread", take(queue, shard)));
        };
        thread::Builder::new().name(format!("shard-{index}")).spawn(body)?;
        let time = started.recv().map_err(|_| io::Error::other("the thread ended at once"))??;
        slot.load.conns.store(0, Ordering::Relaxed);
        slot.load.tunnels.store(0, Ordering::Relaxed);
        slot.frees.lock().clear();
        *slot.jobs.lock() = jobs;
        self.0.balance.serves(index, time);
        slot.alive.send_replace(true);
        self.0.replaced.send_modify(|threads| *threads += 1);
        Ok(())
    }

    /// Ends the thread of shard `index` once the running task has yielded. The tasks of the thread are dropped.
    pub fn retire(&self, index: usize) {
        if let Some(slot) = self.0.slots.get(index) {
            let (none, _) = mpsc::channel(1);
            *slot.jobs.lock() = none;
        }
    }

    /// Makes a task of this kind on shard `index` by a call of `make` there. `on_exit` is called exactly once, with
    /// the end of the task.
    ///
    /// The task ends when the returned value is dropped.
    ///
    /// # Errors
    /// The shard is down, or too many placements wait; `on_exit` is then called with `Aborted`.
    pub fn place<F: Future<Output = ()> + 'static>(
        &self,
        kind: &'static str,
        index: usize,
        make: impl FnOnce(Shard) -> F + Send + 'static,
        on_exit: impl FnOnce(TaskExit) + Send + 'static,
    ) -> Result<Placed, PlaceError> {
        let lease = Arc::new(TaskLease::default());
        let theirs = lease.clone();
        // The report is made here, so that a thread that ends before the job is taken also reports the end.
        let report = ExitReport(Some(Box::new(on_exit)));
        self.run_on(index, move |shard| {
            let future = Some(tripwire(kind, make(shard.clone())));
            let task = watch_panics(LeasedTask { future, lease: theirs });
            shard.spawn(PlacedTask { task, shard: index, kind, report: Some(report) });
        })?;
        Ok(Placed { lease })
    }

    /// Queues `job` to run on shard `index`.
    ///
    /// # Errors
    /// The shard is down, or too many placements wait.
    pub fn run_on(&self, index: usize, job: impl FnOnce(&Shard) + Send + 'static) -> Result<(), PlaceError> {
        self.send(index, Box::new(job)).map_err(|error| match error {
            TrySendError::Full(_) => PlaceError::Busy(index),
            TrySendError::Closed(_) => PlaceError::Down(index),
        })
    }

    /// Queues `free`, which frees what shard `index` holds for a user that has ended. The job is kept while the shard is
    /// busy. A shard that is down holds nothing.
    pub fn free_on(&self, index: usize, free: impl FnOnce(&Shard) + Send + 'static) {
        let Err(TrySendError::Full(free)) = self.send(index, Box::new(free)) else { return };
        if let Some(slot) = self.0.slots.get(index) {
            slot.frees.lock().push(free);
        }
    }

    /// The jobs of [`Shards::free_on`] that found the queue of shard `index` full.
    fn frees(&self, index: usize) -> Vec<Job> {
        self.0.slots.get(index).map(|slot| std::mem::take(&mut *slot.frees.lock())).unwrap_or_default()
    }

    fn send(&self, index: usize, job: Job) -> Result<(), TrySendError<Job>> {
        match self.0.slots.get(index) {
            Some(slot) => slot.jobs.lock().try_send(job),
            None => Err(TrySendError::Closed(job)),
        }
    }
}

async fn take(mut queue: mpsc::Receiver<Job>, shard: Shard) {
    let mut tidy = Tidy::default();
    let mut turn = 0_u32;
    loop {
        turn = turn.wrapping_add(1);
        if turn.is_multiple_of(PLACEMENTS_PER_TURN) {
            tokio::task::yield_now().await;
        }
        let Ok(job) = timeout(memory::MEMORY_LOOK_INTERVAL, queue.recv()).await else {
            shard.shards.balance().look();
            let conns = |load: &ShardStats| load.conns.load(Ordering::Relaxed);
            let load = &shard.0.load;
            let quiet = tidy.look(load.placed.load(Ordering::Relaxed), conns(load));
            // All threads use the same code, so the code is given back only when no shard has a connection.
            if quiet && shard.0.shards.loads().all(|load| conns(load) == 0) {
                memory::give_back_code();
            }
            continue;
        };
        let Some(job) = job else { return };
        perform(&shard, job);
        for free in shard.shards.frees(shard.index()) {
            perform(&shard, free);
        }
    }
}

/// Runs `job`. A job that panics costs its own placement only, which is reported as aborted.
fn perform(shard: &Shard, job: Job) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(shard))).is_err() {
        tracing::error!(target: "shard", shard = shard.index(), "a placement panicked");
    }
}

// === impl Shard ===

impl Shard {
    /// The index of this shard.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// The shard's own value of type `T`. The first call makes the value, which lives as long as the shard's thread.
    pub fn local<T: Default + 'static>(&self) -> Rc<T> {
        let mut locals = self.locals.borrow_mut();
        let value = locals.entry(TypeId::of::<T>()).or_insert_with(|| Rc::new(T::default())).clone();
        // The key is the type, so the downcast never fails.
        value.downcast().unwrap_or_default()
    }

    /// Spawns a task of this kind without an owner. A panic calls `on_panic` with its message after the values of the
    /// task are dropped.
    pub fn spawn_watched(
        &self,
        kind: &'static str,
        work: impl Future<Output = ()> + 'static,
        on_panic: impl FnOnce(String) + 'static,
    ) {
        self.spawn(watched(kind, work, on_panic));
    }

    /// Makes a fair queue on this shard, part of `backlog`. The tasks of a fair queue share the turns of one task of
    /// the shard.
    pub fn fair_queue(&self, backlog: Backlog) -> FairQueue {
        let (fair_queue, driver) = fair_queue(backlog);
        let index = self.index();
        // Each task of the fair queue is watched, so a panic here is one of the driver. The panic is reported, too.
        self.spawn(async move {
            if let Err(message) = watch_panics(driver).await {
                report_task_panic(&format!("shard-{index}/lane"), "lane", &message);
            }
        });
        fair_queue
    }

    /// Spawns a task on this shard. The caller reports the end of the task.
    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        #[allow(
            clippy::disallowed_methods,
            reason = "the one place where shards spawn; callers report ends"
        )]
        drop(tokio::task::spawn_local(future));
    }

    /// Hands `job` over to shard `index`. If that shard refuses `job`, this shard runs `job` at once.
    pub fn hand_over(&self, index: usize, job: impl FnOnce(&Self) + Send + 'static) {
        let handed = self.shards.0.slots.get(index).map(|slot| HandedOver::new(&slot.load));
        let taken = move |shard: &Self| {
            // A job that was refused and runs on this shard does not count as taken.
            if let Some(handed) = handed.filter(|_| shard.index() == index) {
                handed.taken();
            }
            job(shard);
        };
        let refused = self.shards.send(index, Box::new(taken));
        if let Err(TrySendError::Full(job) | TrySendError::Closed(job)) = refused {
            job(self);
        }
    }

    /// Counts a connection of this shard while the returned guard lives.
    pub fn count_conn(&self) -> LoadGuard {
        LoadGuard::new(&self.0.load, |load| &load.conns)
    }

    /// Notes the end of a connection. The balancer takes a sample, because the processor time of the connection says
    /// nothing about the next connections.
    pub fn relayed(&self) {
        self.shards.balance().look();
    }

    /// Counts a tunnel of this shard while the returned guard lives.
    pub fn count_tunnel(&self) -> LoadGuard {
        LoadGuard::new(&self.0.load, |load| &load.tunnels)
    }
}

#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "made for tests")]
impl Shard {
    /// Makes a shard of the calling thread, whose runtime must be a local one. `seed` determines the random numbers.
    pub(crate) fn of_this_thread(seed: u64) -> Self {
        let shards = Shards::new(1);
        let load = shards.0.slots[0].load.clone();
        Self(Rc::new(Local {
            index: 0,
            buffers: Buffers::default(),
            pipes: Pipes::default(),
            rng: RefCell::new(SmallRng::seed_from_u64(seed)),
            home: NetNs::current().unwrap(),
            shards,
            locals: RefCell::default(),
            load,
        }))
    }
}

impl std::ops::Deref for Shard {
    type Target = Local;

    fn deref(&self) -> &Local {
        &self.0
    }
}

/// Keeps a crash report of a task that has panicked. `name`: the name of the task's user, for people.
pub(crate) fn report_panic(name: Arc<str>, path: &str, kind: &str, message: &str) {
    report_task_panic_as(Some(name), path, kind, message);
}

/// Wraps `work`, a task of this kind. A panic calls `on_panic` with its message after the values of `work` are
/// dropped.
pub fn watched(
    kind: &'static str,
    work: impl Future<Output = ()>,
    on_panic: impl FnOnce(String),
) -> impl Future<Output = ()> {
    Watched { work: watch_panics(tripwire(kind, work)), on_panic: Some(on_panic) }
}

// === impl Placed ===

impl Placed {
    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.lease.ended.load(Ordering::Acquire)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.lease.released.store(true, Ordering::Release);
        self.lease.waker.wake();
    }
}

impl<F: Future<Output = ()>> Future for PlacedTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let exit = match ready!(this.task.poll(cx)) {
            Ok(Some(())) => TaskExit::Done,
            Ok(None) => TaskExit::Aborted,
            Err(message) => {
                let path = format!("shard-{}/{}", this.shard, this.kind);
                report_task_panic(&path, this.kind, &message);
                TaskExit::Panicked { message }
            }
        };
        if let Some(report) = this.report.take() {
            report.end(exit);
        }
        Poll::Ready(())
    }
}

impl<F: Future> Future for LeasedTask<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        this.lease.waker.register(cx.waker());
        let polled = match this.future.as_mut().as_pin_mut() {
            Some(future) if !this.lease.released.load(Ordering::Acquire) => future.poll(cx),
            _ => {
                this.future.set(None);
                this.lease.ended.store(true, Ordering::Release);
                return Poll::Ready(None);
            }
        };
        polled.map(|output| {
            this.future.set(None);
            this.lease.ended.store(true, Ordering::Release);
            Some(output)
        })
    }
}

// === impl Watched ===

impl<F: Future<Output = ()>, P: FnOnce(String)> Future for Watched<F, P> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let ended = std::task::ready!(this.work.poll(cx));
        if let (Err(message), Some(on_panic)) = (ended, this.on_panic.take()) {
            on_panic(message);
        }
        Poll::Ready(())
    }
}

// === impl ExitReport ===

impl ExitReport {
    fn end(mut self, exit: TaskExit) {
        if let Some(on_exit) = self.0.take() {
            on_exit(exit);
        }
    }
}

impl Drop for ExitReport {
    fn drop(&mut self) {
        if let Some(on_exit) = self.0.take() {
            on_exit(TaskExit::Aborted);
        }
    }
}

#[cfg(test)]
mod tests;

//! Shards: the threads that connections live on, and the tasks placed there.
//!
//! A shard is an OS thread with its own single-threaded runtime. A connection is set up, relayed and closed on one
//! shard, so nothing on the byte path wakes another thread. Actors reach shards through [`Shards`] only: they place a
//! task, keep it as a [`Placed`], and hear of its end.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    thread,
};

use atomic_waker::AtomicWaker;
use foldhash::HashMap;
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use ractor::ActorProcessingErr;
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
    lane::{Crowd, Lane, lane},
    load::{Balance, Counted, HandedOver, Load},
    serve::local::Verified,
    settings::HUNG_AFTER,
    sys::{
        cputime::ThreadTime,
        memory::{self, Tidy},
        netns::NetNs,
        splice::Pipes,
    },
    tunnel::pool::PodPool,
};
use crate::{
    protocols::tls::buffer::Buffers,
    supervisor::{
        Actor, ActorRef, Address, ChildSpec, Described, OwnedTask, TaskExit, WatchPanics,
        faults::{Tripwire, tripwire},
        report_task_panic, watch_panics,
    },
};

/// Placements that may wait for a shard to take them.
const QUEUE: usize = 1024;
/// Placements taken until other tasks of the shard get their turn: among them are connections that others hand over.
const TAKEN: u32 = 8;
/// Turns of tasks after which a busy shard looks what sockets have become ready. A turn of a lane is several steps, and
/// nobody is in line before his socket was looked at.
const EVENT_INTERVAL: u32 = 4;

type Job = Box<dyn FnOnce(&Shard) + Send>;

/// All shards of the process. Clones are the same shards.
#[derive(Clone)]
pub struct Shards(Arc<All>);

struct All {
    slots: Box<[Slot]>,
    balance: Balance,
}

/// A shard as others see it. It outlives the thread behind it, which may be replaced.
struct Slot {
    jobs: Mutex<mpsc::Sender<Job>>,
    load: Arc<Load>,
    /// Counts the threads this slot has had; changes when a new one serves.
    generation: watch::Sender<u64>,
    /// Whether a thread serves.
    alive: Arc<watch::Sender<bool>>,
}

/// The calling thread's own shard: what tasks on it share. Cloning shares it.
#[derive(Clone)]
pub struct Shard(Rc<Local>);

/// State of one shard thread.
pub struct Local {
    index: usize,
    /// Buffers of this thread.
    pub buffers: Buffers,
    /// What moves bytes between sockets of this thread.
    pub pipes: Pipes,
    /// Chance.
    pub rng: RefCell<SmallRng>,
    /// The process's own namespace.
    pub home: NetNs,
    /// All shards, to hand a connection over before it begins.
    pub shards: Shards,
    /// Tunnels of pods on this shard, by the pod's serial number.
    pub pools: RefCell<HashMap<u64, Rc<PodPool>>>,
    /// Pairs of pods that may be joined.
    pub verified: RefCell<Verified>,
    load: Arc<Load>,
}

/// A task on a shard that ends with its owner.
#[derive(Debug)]
pub struct Placed {
    leash: Arc<Leash>,
}

#[derive(Debug, Default)]
struct Leash {
    released: AtomicBool,
    ended: AtomicBool,
    waker: AtomicWaker,
}

/// Why a task was not placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The shard takes no more for now.
    #[error("shard {0} has more than {QUEUE} placements waiting")]
    Busy(usize),
    /// The shard's thread is down and not yet replaced.
    #[error("shard {0} is down")]
    Down(usize),
}

pin_project! {
    /// Ends with `None` when its owner lets go of it.
    struct Leashed<F> {
        #[pin]
        future: Option<F>,
        leash: Arc<Leash>,
    }
}

pin_project! {
    /// A named future rather than a block: a block would hold the work twice.
    struct Watched<F, P> {
        #[pin]
        work: WatchPanics<Tripwire<&'static str, F>>,
        on_panic: Option<P>,
    }
}

/// Says that a thread has ended, also by a panic.
struct Alive(Arc<watch::Sender<bool>>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

/// Calls back once with how a task ended; `Aborted` unless told otherwise.
struct Report(Option<Box<dyn FnOnce(TaskExit) + Send>>);

// === impl Shards ===

impl Shards {
    /// `count` shards without threads behind them: see [`Shards::serve`].
    pub fn new(count: usize) -> Self {
        let slot = |_| {
            let (jobs, _) = mpsc::channel(1);
            let alive = Arc::new(watch::Sender::new(false));
            Slot { jobs: Mutex::new(jobs), load: Arc::default(), generation: watch::Sender::new(0), alive }
        };
        let slots: Box<[Slot]> = (0..count.max(1)).map(slot).collect();
        let balance = Balance::new(slots.iter().map(|slot| slot.load.clone()));
        Self(Arc::new(All { slots, balance }))
    }

    /// Number of shards.
    pub fn count(&self) -> usize {
        self.0.slots.len()
    }

    /// The load of each shard.
    pub fn loads(&self) -> impl Iterator<Item = &Load> {
        self.0.slots.iter().map(|slot| &*slot.load)
    }

    /// Chooses the shard of a connection, and knows what shards have used.
    pub fn balance(&self) -> &Balance {
        &self.0.balance
    }

    /// Changes when the thread of shard `index` is replaced; what was placed on it must be placed again.
    pub fn generation(&self, index: usize) -> Option<watch::Receiver<u64>> {
        self.0.slots.get(index).map(|slot| slot.generation.subscribe())
    }

    /// Whether shard `index` has a thread; false once it has ended, for whatever reason.
    pub fn alive(&self, index: usize) -> Option<watch::Receiver<bool>> {
        self.0.slots.get(index).map(|slot| slot.alive.subscribe())
    }

    /// How many shards have a thread.
    pub fn living(&self) -> usize {
        self.0.slots.iter().filter(|slot| *slot.alive.borrow()).count()
    }

    /// Starts the thread of shard `index`, replacing a dead one.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn serve(&self, index: usize) -> io::Result<()> {
        let Some(slot) = self.0.slots.get(index) else { return Ok(()) };
        let (jobs, queue) = mpsc::channel::<Job>(QUEUE);
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
                pools: RefCell::default(),
                verified: RefCell::default(),
                load,
            };
            let shard = Shard(Rc::new(local));
            runtime.block_on(tripwire("shard/thread", take(queue, shard)));
        };
        thread::Builder::new().name(format!("shard-{index}")).spawn(body)?;
        let time = started.recv().map_err(|_| io::Error::other("the thread ended at once"))??;
        slot.load.conns.store(0, Ordering::Relaxed);
        slot.load.tunnels.store(0, Ordering::Relaxed);
        *slot.jobs.lock() = jobs;
        self.0.balance.serves(index, time);
        slot.alive.send_replace(true);
        slot.generation.send_modify(|generation| *generation += 1);
        Ok(())
    }

    /// Lets the thread of shard `index` end once what it runs now has yielded; its tasks are dropped.
    pub fn retire(&self, index: usize) {
        if let Some(slot) = self.0.slots.get(index) {
            let (none, _) = mpsc::channel(1);
            *slot.jobs.lock() = none;
        }
    }

    /// Makes a task of this kind on shard `index` by calling `make` there. `on_exit` hears of its end exactly once.
    ///
    /// The task ends when the returned value is dropped.
    ///
    /// # Errors
    /// The shard is down, or too much is waiting for it; `on_exit` hears `Aborted` then.
    pub fn place<F: Future<Output = ()> + 'static>(
        &self,
        kind: &'static str,
        index: usize,
        make: impl FnOnce(Shard) -> F + Send + 'static,
        on_exit: impl FnOnce(TaskExit) + Send + 'static,
    ) -> Result<Placed, PlaceError> {
        let leash = Arc::new(Leash::default());
        let theirs = leash.clone();
        // Made here, so that it also speaks when the thread ends before it has taken the job.
        let report = Report(Some(Box::new(on_exit)));
        self.run_on(index, move |shard| {
            let future = Some(tripwire(kind, make(shard.clone())));
            let task = Leashed { future, leash: theirs };
            shard.spawn(async move {
                match watch_panics(task).await {
                    Ok(Some(())) => report.end(TaskExit::Done),
                    Ok(None) => report.end(TaskExit::Aborted),
                    Err(message) => {
                        report_task_panic(&format!("shard-{index}/{kind}"), kind, &message);
                        report.end(TaskExit::Panicked { message });
                    }
                }
            });
        })?;
        Ok(Placed { leash })
    }

    /// Runs `job` on shard `index` soon.
    ///
    /// # Errors
    /// The shard is down, or too much is waiting for it.
    pub fn run_on(&self, index: usize, job: impl FnOnce(&Shard) + Send + 'static) -> Result<(), PlaceError> {
        self.send(index, Box::new(job)).map_err(|error| match error {
            TrySendError::Full(_) => PlaceError::Busy(index),
            TrySendError::Closed(_) => PlaceError::Down(index),
        })
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
        if turn.is_multiple_of(TAKEN) {
            tokio::task::yield_now().await;
        }
        let Ok(job) = timeout(memory::LOOK, queue.recv()).await else {
            shard.shards.balance().look();
            let conns = |load: &Load| load.conns.load(Ordering::Relaxed);
            let load = &shard.0.load;
            let quiet = tidy.look(load.placed.load(Ordering::Relaxed), conns(load));
            // All threads use the same code.
            if quiet && shard.0.shards.loads().all(|load| conns(load) == 0) {
                memory::give_back_code();
            }
            continue;
        };
        let Some(job) = job else { return };
        // A job that panics costs its own placement only; what it was for is reported as aborted.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&shard))).is_err() {
            tracing::error!(target: "shard", shard = shard.index(), "a placement panicked");
        }
    }
}

// === impl Shard ===

impl Shard {
    /// Which shard this is.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// Spawns a task of this kind, which owns itself. `on_panic` hears of its panic, after all that the task held is
    /// dropped.
    pub fn spawn_watched(
        &self,
        kind: &'static str,
        work: impl Future<Output = ()> + 'static,
        on_panic: impl FnOnce(String) + 'static,
    ) {
        self.spawn(watched(kind, work, on_panic));
    }

    /// A lane on this shard, part of `crowd`. What is put there is as a task of its own, but that it takes its turns with
    /// the others there.
    pub fn lane(&self, crowd: Crowd) -> Lane {
        let (lane, driver) = lane(crowd);
        let index = self.index();
        // Members are watched one by one, so this hears of what no member did. It is not to pass in silence.
        self.spawn(async move {
            if let Err(message) = watch_panics(driver).await {
                report_task_panic(&format!("shard-{index}/lane"), "lane", &message);
            }
        });
        lane
    }

    /// Spawns on this shard. The caller sees to it that somebody hears of the task's end.
    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        #[allow(
            clippy::disallowed_methods,
            reason = "the one place where shards spawn; callers report ends"
        )]
        drop(tokio::task::spawn_local(future));
    }

    /// Hands `job` over to shard `index`, or does it here and now if that one cannot.
    pub fn hand_over(&self, index: usize, job: impl FnOnce(&Self) + Send + 'static) {
        let handed = self.shards.0.slots.get(index).map(|slot| HandedOver::new(&slot.load));
        let taken = move |shard: &Self| {
            // Not if it comes back.
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

    /// Counts a connection on this shard while the value lives.
    pub fn count_conn(&self) -> Counted {
        Counted::new(&self.0.load, |load| &load.conns)
    }

    /// To be told of the end of a connection: the time that it took says nothing of those to come.
    pub fn relayed(&self) {
        self.shards.balance().look();
    }

    /// Counts a tunnel on this shard while the value lives.
    pub fn count_tunnel(&self) -> Counted {
        Counted::new(&self.0.load, |load| &load.tunnels)
    }
}

impl std::ops::Deref for Shard {
    type Target = Local;

    fn deref(&self) -> &Local {
        &self.0
    }
}

/// Work of this kind, whose panic `on_panic` hears of, after all that it held is dropped.
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
        self.leash.ended.load(Ordering::Acquire)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.leash.released.store(true, Ordering::Release);
        self.leash.waker.wake();
    }
}

impl<F: Future> Future for Leashed<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        this.leash.waker.register(cx.waker());
        let polled = match this.future.as_mut().as_pin_mut() {
            Some(future) if !this.leash.released.load(Ordering::Acquire) => future.poll(cx),
            _ => {
                this.future.set(None);
                this.leash.ended.store(true, Ordering::Release);
                return Poll::Ready(None);
            }
        };
        polled.map(|output| {
            this.future.set(None);
            this.leash.ended.store(true, Ordering::Release);
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

// === impl Report ===

impl Report {
    fn end(mut self, exit: TaskExit) {
        if let Some(on_exit) = self.0.take() {
            on_exit(exit);
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(on_exit) = self.0.take() {
            on_exit(TaskExit::Aborted);
        }
    }
}

/// The actor that keeps shard `index` alive. The thread outlives it: losing the keeper loses no connection.
pub fn child(shards: &Shards, index: usize) -> ChildSpec {
    let shards = shards.clone();
    let make = move || (Keeper { shards: shards.clone(), index }, ());
    let id = format!("shard-{index}");
    ChildSpec::actor(id.as_str(), &Address::new(&id), make).kind_label("shard").hung_after(HUNG_AFTER)
}

struct Keeper {
    shards: Shards,
    index: usize,
}

/// Messages of a keeper.
enum KeeperMsg {
    /// The thread has ended. Sent once by the keeper's own watch.
    ThreadEnded,
    /// The watch has panicked. Sent once in its place.
    WatchLost,
}

impl Described for KeeperMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::ThreadEnded => "thread-ended",
            Self::WatchLost => "watch-lost",
        }
    }
}

impl Actor for Keeper {
    type Msg = KeeperMsg;
    type State = OwnedTask;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<KeeperMsg>, (): ()) -> Result<OwnedTask, ActorProcessingErr> {
        let mut alive = self.shards.alive(self.index).ok_or("there is no such shard")?;
        if !*alive.borrow_and_update() {
            self.shards.serve(self.index)?;
            alive.borrow_and_update();
        }
        let told = myself.clone();
        let watching = async move {
            // The sender lives in the slot, as long as the shards do.
            let _ = alive.wait_for(|alive| !alive).await;
            let _ = myself.cast(KeeperMsg::ThreadEnded);
        };
        let on_exit = move |exit| {
            if let TaskExit::Panicked { .. } = exit {
                let _ = told.cast(KeeperMsg::WatchLost);
            }
        };
        Ok(OwnedTask::spawn(format!("shard/watch/{}", self.index), watching, on_exit))
    }

    async fn handle(
        &self,
        _: ActorRef<KeeperMsg>,
        message: KeeperMsg,
        _: &mut OwnedTask,
    ) -> Result<(), ActorProcessingErr> {
        let what = match message {
            KeeperMsg::ThreadEnded => "thread",
            KeeperMsg::WatchLost => "watch",
        };
        Err(format!("the {what} of shard {} ended", self.index).into())
    }

    async fn post_stop(&self, _: ActorRef<KeeperMsg>, _: &mut OwnedTask) -> Result<(), ActorProcessingErr> {
        self.shards.retire(self.index);
        Ok(())
    }
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;

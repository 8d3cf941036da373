//! Capture: an actor a listener of a pod. It owns the accept loops on the shards; the listening sockets outlive it, so
//! that a connection waiting to be accepted survives its restart.

use std::{
    cell::Cell,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ractor::{ActorProcessingErr, RpcReplyPort};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

use super::{
    pods::pod::{Arriving, Pod},
    serve::{self, inbound, outbound, plaintext},
    settings::HUNG_AFTER,
    shard::{PlaceError, Placed, Shard},
    sys::{
        pacing::Reach,
        probe,
        socket::{self, Listen},
    },
    tunnel::pool::PodPool,
};
use crate::supervisor::{Actor, ActorRef, Address, ChildSpec, Described, OwnedTask, TaskExit};

/// Pause after the process or the kernel ran out of something an accept needs.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// Connections still accepted by each shard once the pod drains: more than a listener's queue holds.
const LEFT_OVER: u32 = 2048;
/// Connections accepted until other tasks of the shard get their turn.
const BURST: u32 = 8;

/// Which traffic a listener captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 15001.
    Outbound,
    /// 15008.
    Inbound,
    /// 15006.
    Plaintext,
}

/// Messages of a capture actor.
pub enum Msg {
    /// The accept loop of this number ended. At most one for each placed loop.
    Ended(u64, TaskExit),
    /// The thread of a shard was replaced. At most one outstanding a shard.
    ShardReplaced(usize),
    /// The watch over a shard's thread has panicked. At most one a watch.
    WatchLost(usize),
    /// Look after the socket and the loops: what was repaired, or cannot be. One at a time, from the pod's audit.
    Audit(RpcReplyPort<Result<Option<Repair>, String>>),
}

/// Why a shard does not accept.
#[derive(Debug, thiserror::Error)]
enum AcceptError {
    #[error("{0}")]
    Listener(#[from] io::Error),
    #[error("{0}")]
    Place(#[from] PlaceError),
}

/// What an audit has put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The socket did not listen any more: another one does.
    Listener,
    /// A shard did not accept.
    AcceptLoop,
}

/// The actors that capture a pod's traffic, and how many accept loops of each there are.
#[derive(Debug)]
pub struct Captures {
    actors: [Address<Msg>; 3],
    accepting: [AtomicUsize; 3],
}

/// Counts an accept loop while it lives.
struct Accepting(Arc<Pod>, Kind);

struct Capture {
    pod: Arc<Pod>,
    kind: Kind,
}

struct State {
    loops: Vec<Loop>,
    last: u64,
    _watches: Vec<OwnedTask>,
}

/// An accept loop.
struct Loop {
    number: u64,
    shard: usize,
    placed: Placed,
}

// === impl Kind ===

impl Kind {
    /// All, in the order they are bound.
    pub const ALL: [Self; 3] = [Self::Inbound, Self::Plaintext, Self::Outbound];

    /// The port.
    pub fn port(self) -> u16 {
        match self {
            Self::Outbound => 15001,
            Self::Inbound => 15008,
            Self::Plaintext => 15006,
        }
    }

    /// Name of the actor and of its tasks.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Plaintext => "plaintext",
        }
    }

    /// What belongs to it of something there is of each, in the order of [`Self::ALL`].
    pub fn pick<T>(self, [inbound, plaintext, outbound]: &[T; 3]) -> &T {
        match self {
            Self::Inbound => inbound,
            Self::Plaintext => plaintext,
            Self::Outbound => outbound,
        }
    }
}

// === impl Repair ===

impl Repair {
    /// The metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::AcceptLoop => "accept_loop",
        }
    }
}

// === impl Captures ===

impl Default for Captures {
    fn default() -> Self {
        Self { actors: Kind::ALL.map(|kind| Address::new(kind.name())), accepting: Default::default() }
    }
}

impl Captures {
    /// The one of this kind.
    pub fn of(&self, kind: Kind) -> &Address<Msg> {
        kind.pick(&self.actors)
    }

    /// How many accept loops of this kind there are: one a shard, if all is well.
    pub fn accepting(&self, kind: Kind) -> usize {
        kind.pick(&self.accepting).load(Ordering::Acquire)
    }
}

// === impl Accepting ===

impl Accepting {
    fn new(pod: &Arc<Pod>, kind: Kind) -> Self {
        kind.pick(&pod.captures.accepting).fetch_add(1, Ordering::Relaxed);
        Self(pod.clone(), kind)
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        let Self(pod, kind) = self;
        // Whoever sees that it has ended sees what it accepted as arriving, or where that has arrived.
        kind.pick(&pod.captures.accepting).fetch_sub(1, Ordering::Release);
    }
}

/// The actor that captures `kind` of `pod`.
pub fn child(pod: &Arc<Pod>, kind: Kind) -> ChildSpec {
    let (pod, address) = (pod.clone(), pod.captures.of(kind).clone());
    let make = move || (Capture { pod: pod.clone(), kind }, ());
    ChildSpec::actor(kind.name(), &address, make).kind_label("capture").hung_after(HUNG_AFTER)
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Ended(..) => "loop-ended",
            Self::ShardReplaced(_) => "shard-replaced",
            Self::WatchLost(_) => "watch-lost",
            Self::Audit(_) => "audit",
        }
    }
}

impl Actor for Capture {
    type Msg = Msg;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<State, ActorProcessingErr> {
        let listener = self.listener().map_err(|error| {
            let (kind, port) = (self.kind.name(), self.kind.port());
            format!("cannot listen on port {port} ({kind}) in the pod: {error}")
        })?;
        let shards = &self.pod.node.shards;
        let mut state = State { loops: Vec::with_capacity(shards.count()), last: 0, _watches: Vec::new() };
        for index in 0..shards.count() {
            match self.accept_on(index, &listener, &myself, &mut state) {
                Ok(()) => {}
                // The others serve the pod meanwhile; the replacement is announced.
                Err(AcceptError::Place(PlaceError::Down(_))) if shards.count() > 1 => {}
                Err(error) => return Err(error.into()),
            }
        }
        let watches = (0..shards.count()).filter_map(|index| {
            let generation = shards.generation(index)?;
            Some(watch_shard(index, generation, myself.clone()))
        });
        state._watches = watches.collect();
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Ended(number, exit) => self.ended(number, &exit, state)?,
            Msg::WatchLost(index) => return Err(format!("the watch over shard {index} panicked").into()),
            // Nothing may be bound again once the pod drains.
            Msg::ShardReplaced(_) if *self.pod.draining.borrow() => {}
            Msg::ShardReplaced(index) => {
                state.loops.retain(|held| held.shard != index);
                self.accept_on(index, &self.listener()?, &myself, state)?;
            }
            Msg::Audit(reply) => {
                let looked = self.audit(&myself, state);
                // The audit may have been restarted meanwhile.
                let _ = reply.send(looked.map_err(|error| error.to_string()));
            }
        }
        Ok(())
    }
}

impl Capture {
    fn ended(&self, number: u64, exit: &TaskExit, state: &mut State) -> Result<(), ActorProcessingErr> {
        // One that was replaced is of no concern.
        let Some(at) = state.loops.iter().position(|held| held.number == number) else { return Ok(()) };
        let ended = state.loops.swap_remove(at);
        match exit {
            // A shard that went takes its loops along; its replacement is announced.
            TaskExit::Aborted => return Ok(()),
            // The pod drains.
            TaskExit::Done if *self.pod.draining.borrow() => return Ok(()),
            TaskExit::Panicked { .. } => self.pod.node.metrics.actors.task_panicked("capture/accept"),
            TaskExit::Done => {}
        }
        // The socket may be the reason: the next start binds another.
        self.pod.listeners.lock().remove(&self.kind);
        Err(format!("accept loop of {} on shard {} ended: {exit:?}", self.kind.name(), ended.shard).into())
    }

    /// Binds again if the socket does not listen any more, and places the loops that are missing on shards that live.
    fn audit(&self, myself: &ActorRef<Msg>, state: &mut State) -> Result<Option<Repair>, AcceptError> {
        if *self.pod.draining.borrow() {
            return Ok(None);
        }
        let mut repaired = None;
        let listens = self.pod.listeners.lock().get(&self.kind).is_some_and(probe::is_listening);
        if !listens {
            // Their sockets are of no use any more.
            state.loops.clear();
            self.pod.listeners.lock().remove(&self.kind);
            repaired = Some(Repair::Listener);
        }
        let shards = &self.pod.node.shards;
        for index in 0..shards.count() {
            let alive = shards.alive(index).is_some_and(|alive| *alive.borrow());
            let accepts = state.loops.iter().any(|held| held.shard == index && !held.placed.is_finished());
            if alive && !accepts {
                state.loops.retain(|held| held.shard != index);
                self.accept_on(index, &self.listener()?, myself, state)?;
                repaired = repaired.or(Some(Repair::AcceptLoop));
            }
        }
        Ok(repaired)
    }

    /// The pod's listening socket: the one already held, or a new one.
    fn listener(&self) -> io::Result<StdListener> {
        let mut listeners = self.pod.listeners.lock();
        if let Some(held) = listeners.get(&self.kind) {
            return held.try_clone();
        }
        let settings = &self.pod.node.settings;
        let local = self.kind == Kind::Outbound;
        let near = !settings.unpaced_rtt.is_zero();
        let mut how = Listen {
            addr: socket::wildcard(settings.ipv6, self.kind.port()),
            // Without the mark, which they do not need: what the rules would make of it is put on each later packet of
            // the connection, the application's as well, and each is routed once more.
            mark: if local { None } else { self.pod.mark() },
            unpaced: if local { Some(Reach::Host) } else { near.then_some(Reach::Network) },
            reuse_port: settings.reuse_port,
            transparent: if self.pod.is_own { Some(false) } else { settings.original_source },
            redirected: self.kind != Kind::Inbound,
            keepalive: if self.kind == Kind::Inbound { None } else { settings.keepalive },
        };
        let bind = |how: &Listen| self.pod.netns.enter(|| socket::listen(how)).and_then(|bound| bound);
        let bound = match bind(&how) {
            // A pod may be without IPv6 on a node that has it.
            Err(error) if settings.ipv6 && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                how.addr = socket::wildcard(false, self.kind.port());
                bind(&how)
            }
            bound => bound,
        };
        let bound = bound?;
        if !local {
            self.pod.transparent.store(bound.transparent, Ordering::Relaxed);
        }
        self.pod.paced.store(bound.paced, Ordering::Relaxed);
        let ours = bound.listener.try_clone()?;
        listeners.insert(self.kind, bound.listener);
        Ok(ours)
    }

    fn accept_on(
        &self,
        index: usize,
        listener: &StdListener,
        myself: &ActorRef<Msg>,
        state: &mut State,
    ) -> Result<(), AcceptError> {
        let (pod, kind, listener, actor) =
            (self.pod.clone(), self.kind, listener.try_clone()?, myself.clone());
        state.last += 1;
        let number = state.last;
        let make = move |shard| accept(shard, pod, kind, listener);
        let on_exit = move |exit| drop(actor.cast(Msg::Ended(number, exit)));
        let placed = self.pod.node.shards.place("capture/accept", index, make, on_exit)?;
        state.loops.push(Loop { number, shard: index, placed });
        Ok(())
    }
}

fn watch_shard(index: usize, mut generation: watch::Receiver<u64>, actor: ActorRef<Msg>) -> OwnedTask {
    generation.mark_unchanged();
    let told = actor.clone();
    let watching = async move {
        while generation.changed().await.is_ok() {
            if actor.cast(Msg::ShardReplaced(index)).is_err() {
                return;
            }
        }
    };
    let on_exit = move |exit| {
        if let TaskExit::Panicked { .. } = exit {
            let _ = told.cast(Msg::WatchLost(index));
        }
    };
    OwnedTask::spawn(format!("capture/watch/{index}"), watching, on_exit)
}

/// Accepts on this shard until the pod drains or the socket fails. What the kernel has accepted before a drain is served
/// still: nobody else can, it would be reset.
async fn accept(shard: Shard, pod: Arc<Pod>, kind: Kind, listener: StdListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(target: "capture", %error, "cannot watch the listener"),
    };
    let _counted = Accepting::new(&pod, kind);
    // Held, so that its lane stays.
    let _course = PodPool::of(&pod, &shard).course(&pod, &shard, kind);
    let mut draining = pod.draining.subscribe();
    let mut left = LEFT_OVER;
    loop {
        let last = *draining.borrow();
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            _ = draining.wait_for(|draining| *draining) => {
                if last {
                    return;
                }
                continue;
            }
        };
        left -= u32::from(last);
        if left == 0 {
            return;
        }
        match accepted {
            Ok(accepted) => begin(&shard, &pod, kind, accepted),
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) if is_exhaustion(&error) => {
                tracing::warn!(target: "capture", uid = &*pod.uid, kind = kind.name(), %error, "cannot accept");
                sleep(EXHAUSTED_PAUSE).await;
            }
            Err(error) => {
                tracing::error!(target: "capture", uid = &*pod.uid, kind = kind.name(), %error, "listener failed");
                return;
            }
        }
        if every(BURST) {
            tokio::task::yield_now().await;
        }
    }
}

/// Begins what was accepted on the shard that it is best on, before a byte of it is read.
fn begin(shard: &Shard, pod: &Arc<Pod>, kind: Kind, (stream, peer): (TcpStream, SocketAddr)) {
    if kind != Kind::Outbound
        && let Some(reach) = pod.unpaced(Reach::Network)
    {
        reach.settle(&stream, pod.node.settings.unpaced_rtt);
    }
    let to = match kind {
        // A tunnel stays for long and carries many streams.
        Kind::Inbound => shard.shards.balance().tunnel(shard.index()),
        Kind::Outbound | Kind::Plaintext => shard.shards.balance().connection(shard.index()),
    };
    let pod = pod.arriving();
    if to == shard.index() {
        return serve(shard, pod, kind, (stream, peer));
    }
    match stream.into_std() {
        Ok(stream) => shard.hand_over(to, move |shard| match TcpStream::from_std(stream) {
            Ok(stream) => serve(shard, pod, kind, (stream, peer)),
            Err(error) => refuse(&pod, peer, &error),
        }),
        Err(error) => refuse(&pod, peer, &error),
    }
}

fn refuse(pod: &Pod, peer: SocketAddr, error: &io::Error) {
    tracing::warn!(target: "capture", uid = &*pod.uid, %peer, %error, "connection refused");
}

fn serve(shard: &Shard, arriving: Arriving, kind: Kind, (stream, peer): (TcpStream, SocketAddr)) {
    let (pod, local) = (arriving.clone(), shard.clone());
    let course = || PodPool::of(&pod, shard).course(&pod, shard, kind);
    match kind {
        Kind::Outbound => course().begin(kind.name(), outbound::serve(arriving, local, stream, peer)),
        Kind::Plaintext => course().begin(kind.name(), plaintext::serve(arriving, local, stream, peer)),
        Kind::Inbound => serve::spawn(shard, &pod, "tunnel", inbound::serve(arriving, local, stream, peer)),
    }
}

thread_local! {
    /// Connections accepted on this thread, to yield in bursts.
    static OPENED: Cell<u32> = const { Cell::new(0) };
}

/// Whether the caller should yield: every `n`-th call on this thread.
fn every(n: u32) -> bool {
    OPENED.with(|count| {
        count.set(count.get().wrapping_add(1));
        count.get() % n == 0
    })
}

/// Errors that the network passes on from the connection that would have been accepted (accept(2)).
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    let network = [
        libc::ENETDOWN,
        libc::EPROTO,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
        libc::ENONET,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::EPERM,
    ];
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
        || error.raw_os_error().is_some_and(|code| network.contains(&code))
}

fn is_exhaustion(error: &io::Error) -> bool {
    let codes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

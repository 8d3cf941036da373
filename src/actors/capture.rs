//! Capture: an actor a listener of a pod. It owns the accept loops on the shards; the listening sockets outlive it, so
//! that a connection waiting to be accepted survives its restart.

use std::{
    cell::Cell,
    io,
    net::TcpListener as StdListener,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ractor::ActorProcessingErr;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

use super::{
    pods::pod::Pod,
    serve,
    settings::HUNG_AFTER,
    shard::{PlaceError, Placed, Shard},
    sys::socket::{self, Listen},
};
use crate::supervisor::{Actor, Address, ChildSpec, Described, Mailbox, OwnedTask, TaskExit};

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
    /// An accept loop ended. At most one for each placed loop.
    Ended(usize, TaskExit),
    /// The thread of a shard was replaced. At most one outstanding a shard.
    ShardReplaced(usize),
    /// The watch over a shard's thread has panicked. At most one a watch.
    WatchLost(usize),
}

/// Why a shard does not accept.
#[derive(Debug, thiserror::Error)]
enum AcceptError {
    #[error("{0}")]
    Listener(#[from] io::Error),
    #[error("{0}")]
    Place(#[from] PlaceError),
}

struct Capture {
    pod: Arc<Pod>,
    kind: Kind,
}

struct State {
    loops: Vec<(usize, Placed)>,
    _watches: Vec<OwnedTask>,
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
}

/// The actor that captures `kind` of `pod`.
pub fn child(pod: &Arc<Pod>, kind: Kind) -> ChildSpec {
    let pod = pod.clone();
    let make = move || (Capture { pod: pod.clone(), kind }, ());
    ChildSpec::actor(kind.name(), &Address::new(kind.name()), make)
        .kind_label("capture")
        .hung_after(HUNG_AFTER)
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Ended(..) => "loop-ended",
            Self::ShardReplaced(_) => "shard-replaced",
            Self::WatchLost(_) => "watch-lost",
        }
    }
}

impl Actor for Capture {
    type Msg = Msg;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, myself: Mailbox<Msg>, (): ()) -> Result<State, ActorProcessingErr> {
        let listener = self.listener().map_err(|error| {
            let (kind, port) = (self.kind.name(), self.kind.port());
            format!("cannot listen on port {port} ({kind}) in the pod: {error}")
        })?;
        let shards = &self.pod.node.shards;
        let mut loops = Vec::with_capacity(shards.count());
        for index in 0..shards.count() {
            match self.accept_on(index, &listener, &myself) {
                Ok(placed) => loops.push((index, placed)),
                // The others serve the pod meanwhile; the replacement is announced.
                Err(AcceptError::Place(PlaceError::Down(_))) if shards.count() > 1 => {}
                Err(error) => return Err(error.into()),
            }
        }
        let watches = (0..shards.count()).filter_map(|index| {
            let generation = shards.generation(index)?;
            Some(watch_shard(index, generation, myself.clone()))
        });
        Ok(State { loops, _watches: watches.collect() })
    }

    async fn handle(
        &self,
        myself: Mailbox<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            // A shard that went takes its loops along; its replacement is announced.
            Msg::Ended(index, TaskExit::Aborted) => state.loops.retain(|(at, _)| *at != index),
            // The pod drains.
            Msg::Ended(index, TaskExit::Done) if *self.pod.draining.borrow() => {
                state.loops.retain(|(at, _)| *at != index);
            }
            Msg::Ended(index, exit) => {
                if let TaskExit::Panicked { .. } = exit {
                    self.pod.node.metrics.actors.task_panicked("capture/accept");
                }
                // The socket may be the reason: the next start binds another.
                self.pod.listeners.lock().remove(&self.kind);
                return Err(
                    format!("accept loop of {} on shard {index} ended: {exit:?}", self.kind.name()).into()
                );
            }
            Msg::WatchLost(index) => return Err(format!("the watch over shard {index} panicked").into()),
            // Nothing may be bound again once the pod drains.
            Msg::ShardReplaced(_) if *self.pod.draining.borrow() => {}
            Msg::ShardReplaced(index) => {
                state.loops.retain(|(at, _)| *at != index);
                let placed = self.accept_on(index, &self.listener()?, &myself)?;
                state.loops.push((index, placed));
            }
        }
        Ok(())
    }
}

impl Capture {
    /// The pod's listening socket: the one already held, or a new one.
    fn listener(&self) -> io::Result<StdListener> {
        let mut listeners = self.pod.listeners.lock();
        if let Some(held) = listeners.get(&self.kind) {
            return held.try_clone();
        }
        let settings = &self.pod.node.settings;
        let mut how = Listen {
            addr: socket::wildcard(settings.ipv6, self.kind.port()),
            mark: self.pod.mark(),
            reuse_port: settings.reuse_port,
            transparent: if self.pod.is_own { Some(false) } else { settings.original_source },
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
        let (listener, transparent) = bound?;
        if self.kind != Kind::Outbound {
            self.pod.transparent.store(transparent, Ordering::Relaxed);
        }
        let ours = listener.try_clone()?;
        listeners.insert(self.kind, listener);
        Ok(ours)
    }

    fn accept_on(
        &self,
        index: usize,
        listener: &StdListener,
        myself: &Mailbox<Msg>,
    ) -> Result<Placed, AcceptError> {
        let (pod, kind, listener, actor) =
            (self.pod.clone(), self.kind, listener.try_clone()?, myself.clone());
        let make = move |shard| accept(shard, pod, kind, listener);
        let on_exit = move |exit| drop(actor.cast(Msg::Ended(index, exit)));
        Ok(self.pod.node.shards.place("capture/accept", index, make, on_exit)?)
    }
}

fn watch_shard(index: usize, mut generation: watch::Receiver<u64>, actor: Mailbox<Msg>) -> OwnedTask {
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
            Ok((stream, peer)) => begin(&shard, &pod, kind, stream, peer),
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

fn begin(shard: &Shard, pod: &Arc<Pod>, kind: Kind, stream: TcpStream, peer: std::net::SocketAddr) {
    match kind {
        Kind::Outbound => {
            serve::spawn(
                shard,
                pod,
                kind.name(),
                serve::outbound::serve(pod.clone(), shard.clone(), stream, peer),
            );
        }
        Kind::Plaintext => {
            serve::spawn(
                shard,
                pod,
                kind.name(),
                serve::plaintext::serve(pod.clone(), shard.clone(), stream, peer),
            );
        }
        Kind::Inbound => {
            // A tunnel stays for long and carries many streams: it goes where the fewest are.
            let to = shard.shards.least_tunnels();
            if to == shard.index() {
                serve::spawn(
                    shard,
                    pod,
                    "tunnel",
                    serve::inbound::serve(pod.clone(), shard.clone(), stream, peer),
                );
                return;
            }
            let (Ok(stream), theirs) = (stream.into_std(), pod.clone()) else { return };
            let job = move |shard: &Shard| {
                if let Ok(stream) = TcpStream::from_std(stream) {
                    let pod = theirs.clone();
                    serve::spawn(
                        shard,
                        &theirs,
                        "tunnel",
                        serve::inbound::serve(pod, shard.clone(), stream, peer),
                    );
                }
            };
            if let Err(error) = shard.shards.run_on(to, job) {
                tracing::warn!(target: "capture", uid = &*pod.uid, %peer, %error, "tunnel refused");
            }
        }
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

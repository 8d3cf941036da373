//! Capture: an actor a listener of a pod. It owns the accept loops on the shards; the listening sockets outlive it, so
//! that a connection waiting to be accepted survives its restart.

use std::{
    io,
    net::TcpListener,
    sync::{Arc, atomic::Ordering},
};

use ractor::{ActorProcessingErr, RpcReplyPort};

use crate::{
    actors::settings::HUNG_AFTER,
    dataplane::{accept::accept, listener::ListenerKind, pod::Pod},
    runtime::shard::{PlaceError, Placed},
    supervisor::{Actor, Address, ChildSpec, Described, Mailbox, TaskExit},
    sys::{
        pacing::PathScope,
        probe,
        shared_socket::Shared,
        socket::{self, Listen},
    },
};

/// Messages of a capture actor.
pub enum Msg {
    /// The accept loop of this number ended. At most one for each placed loop.
    Ended(u64, TaskExit),
    /// The thread of a shard was replaced: place the loop that it lacks. One for each replacement, from the audit.
    ShardReplaced,
    /// Look after the socket and the loops: what was repaired, or cannot be. One at a time, from the audit.
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

/// The actors that capture a pod's traffic.
#[derive(Debug)]
pub struct Captures([Address<Msg>; 3]);

struct Capture {
    pod: Arc<Pod>,
    kind: ListenerKind,
}

struct State {
    loops: Vec<Loop>,
    last: u64,
}

/// An accept loop.
struct Loop {
    number: u64,
    shard: usize,
    placed: Placed,
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
        Self(ListenerKind::ALL.map(|kind| Address::new(kind.name())))
    }
}

impl Captures {
    /// The one of this kind.
    pub fn of(&self, kind: ListenerKind) -> &Address<Msg> {
        kind.pick(&self.0)
    }
}

/// The actor that captures `kind` of `pod`.
pub fn child(pod: &Arc<Pod>, kind: ListenerKind) -> ChildSpec {
    let (pod, address) = (pod.clone(), pod.captures.of(kind).clone());
    let make = move || (Capture { pod: pod.clone(), kind }, ());
    ChildSpec::actor(kind.name(), &address, make).kind_label("capture").hung_after(HUNG_AFTER)
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Ended(..) => "loop-ended",
            Self::ShardReplaced => "shard-replaced",
            Self::Audit(_) => "audit",
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
        let mut state = State { loops: Vec::with_capacity(shards.count()), last: 0 };
        for index in 0..shards.count() {
            match self.accept_on(index, &listener, &myself, &mut state) {
                Ok(()) => {}
                // The others serve the pod meanwhile; the replacement is announced.
                Err(AcceptError::Place(PlaceError::Down(_))) if shards.count() > 1 => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: Mailbox<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Ended(number, exit) => self.ended(number, &exit, state)?,
            // Nothing may be bound again once the pod drains.
            Msg::ShardReplaced if *self.pod.draining.borrow() => {}
            Msg::ShardReplaced => drop(self.fill(&myself, state)?),
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
    fn audit(&self, myself: &Mailbox<Msg>, state: &mut State) -> Result<Option<Repair>, AcceptError> {
        if *self.pod.draining.borrow() {
            return Ok(None);
        }
        let mut repaired = None;
        let listens = self.pod.listeners.lock().get(&self.kind).is_some_and(|held| probe::is_listening(held));
        if !listens {
            // Their sockets are of no use any more.
            state.loops.clear();
            self.pod.listeners.lock().remove(&self.kind);
            repaired = Some(Repair::Listener);
        }
        let filled = self.fill(myself, state)?;
        Ok(repaired.or(filled.then_some(Repair::AcceptLoop)))
    }

    /// Places the loops that are missing on shards that live. Whether there were any.
    fn fill(&self, myself: &Mailbox<Msg>, state: &mut State) -> Result<bool, AcceptError> {
        let (shards, mut filled) = (&self.pod.node.shards, false);
        for index in 0..shards.count() {
            let alive = shards.alive(index).is_some_and(|alive| *alive.borrow());
            let accepts = state.loops.iter().any(|held| held.shard == index && !held.placed.is_finished());
            if alive && !accepts {
                state.loops.retain(|held| held.shard != index);
                self.accept_on(index, &self.listener()?, myself, state)?;
                filled = true;
            }
        }
        Ok(filled)
    }

    /// The pod's listening socket: the one already held, or a new one.
    fn listener(&self) -> io::Result<Shared<TcpListener>> {
        let mut listeners = self.pod.listeners.lock();
        if let Some(held) = listeners.get(&self.kind) {
            return Ok(held.clone());
        }
        let settings = &self.pod.node.settings;
        let local = self.kind == ListenerKind::Outbound;
        let near = !settings.unpaced_rtt.is_zero();
        let mut how = Listen {
            addr: socket::wildcard(settings.ipv6, self.kind.port()),
            // Without the mark, which they do not need: what the rules would make of it is put on each later packet of
            // the connection, the application's as well, and each is routed once more.
            mark: if local { None } else { self.pod.mark() },
            unpaced: if local { Some(PathScope::Host) } else { near.then_some(PathScope::Network) },
            reuse_port: settings.reuse_port,
            transparent: if self.pod.is_own { Some(false) } else { settings.original_source },
            redirected: self.kind != ListenerKind::Inbound,
            keepalive: if self.kind == ListenerKind::Inbound { None } else { settings.keepalive },
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
        let listener = Shared::new(bound.listener);
        listeners.insert(self.kind, listener.clone());
        Ok(listener)
    }

    fn accept_on(
        &self,
        index: usize,
        listener: &Shared<TcpListener>,
        myself: &Mailbox<Msg>,
        state: &mut State,
    ) -> Result<(), AcceptError> {
        let (pod, kind, listener, actor) = (self.pod.clone(), self.kind, listener.clone(), myself.clone());
        state.last += 1;
        let number = state.last;
        let make = move |shard| accept(shard, pod, kind, listener);
        let on_exit = move |exit| drop(actor.cast(Msg::Ended(number, exit)));
        let placed = self.pod.node.shards.place("capture/accept", index, make, on_exit)?;
        state.loops.push(Loop { number, shard: index, placed });
        Ok(())
    }
}

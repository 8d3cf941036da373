//! Each listener of a pod has a capture actor, which owns the accept loops on the shards. The listening socket
//! outlives the actor, so a connection that waits to be accepted survives a restart of the actor.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use ractor::{ActorProcessingErr, RpcReplyPort};

use crate::{
    actors::HUNG_AFTER,
    dataplane::{
        accept::{Acceptor, accept},
        config::DataPlaneConfig,
        listener::{ListenerKind, Listeners},
    },
    runtime::shard::{PlaceError, Placed, Shards},
    supervisor::{Actor, ActorRef, Address, ChildSpec, Described, TaskExit},
    sys::{
        pacing::PathScope,
        probe,
        shared_socket::Shared,
        socket::{self, Listen},
    },
};

/// Messages of a capture actor.
pub(crate) enum Msg {
    /// The accept loop of this number ended. Each placed loop sends at most one.
    Ended(u64, TaskExit),
    /// The thread of a shard was replaced and lacks its accept loop. The audit sends one for each replacement.
    ShardReplaced,
    /// Check the socket and the loops. The answer is the repair made, if any, or the error. The audit sends one at a
    /// time.
    Audit(RpcReplyPort<Result<Option<Repair>, String>>),
}

/// The reason why a shard does not accept.
#[derive(Debug, thiserror::Error)]
enum AcceptError {
    #[error("{0}")]
    Listener(#[from] io::Error),
    #[error("{0}")]
    Place(#[from] PlaceError),
}

/// The repair that an audit has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    /// The socket no longer listened and was replaced.
    Listener,
    /// A shard did not accept and was given a new accept loop.
    AcceptLoop,
}

/// The addresses of the capture actors of a pod, one for each kind of listener.
#[derive(Debug)]
pub(crate) struct Captures([Address<Msg>; 4]);

/// The actor of one listener of a pod.
#[derive(Clone)]
pub(crate) struct Capture {
    /// The acceptor, which serves accepted connections.
    pub(crate) acceptor: Acceptor,
    /// The pod's listeners.
    pub(crate) listeners: Arc<Listeners>,
    /// The shards of the data plane.
    pub(crate) shards: Shards,
    /// The settings of the data plane.
    pub(crate) config: Arc<DataPlaneConfig>,
}

/// The state of a capture actor.
pub(crate) struct State {
    loops: Vec<AcceptLoop>,
    last: u64,
}

/// An accept loop on one shard.
struct AcceptLoop {
    number: u64,
    shard: usize,
    placed: Placed,
}

// === impl Repair ===

impl Repair {
    /// The value of the metric's label.
    pub(crate) fn as_str(self) -> &'static str {
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
    /// The address of the capture actor of this kind.
    pub(crate) fn of(&self, kind: ListenerKind) -> &Address<Msg> {
        kind.pick(&self.0)
    }
}

// === impl Capture ===

impl Capture {
    /// The actor as a child of the pod's supervisor, reached at `address`.
    pub(crate) fn child(self, address: &Address<Msg>) -> ChildSpec {
        let kind = self.acceptor.kind();
        let make = move || (self.clone(), ());
        ChildSpec::actor(kind.name(), address, make).kind_label("capture").hung_after(HUNG_AFTER)
    }
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

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<State, ActorProcessingErr> {
        let listener = self.listener().map_err(|error| {
            let (kind, port) = (self.acceptor.kind().name(), self.acceptor.kind().port());
            format!("cannot listen on port {port} ({kind}) in the pod: {error}")
        })?;
        let shards = &self.shards;
        let mut state = State { loops: Vec::with_capacity(shards.count()), last: 0 };
        for index in 0..shards.count() {
            match self.accept_on(index, &listener, &myself, &mut state) {
                Ok(()) => {}
                // The other shards serve the pod until `ShardReplaced` announces a new thread.
                Err(AcceptError::Place(PlaceError::Down(_))) if shards.count() > 1 => {}
                Err(error) => return Err(error.into()),
            }
        }
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
            // No socket may be bound again once the pod drains.
            Msg::ShardReplaced if self.acceptor.conns().is_draining() => {}
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
        // The end of a loop that was replaced needs no handling.
        let Some(at) = state.loops.iter().position(|held| held.number == number) else { return Ok(()) };
        let ended = state.loops.swap_remove(at);
        match exit {
            // The shard's thread has ended with its loops; `ShardReplaced` announces the new thread.
            TaskExit::Aborted => return Ok(()),
            // The pod drains.
            TaskExit::Done if self.acceptor.conns().is_draining() => return Ok(()),
            TaskExit::Panicked { .. } => self.acceptor.metrics().actors.task_panicked("capture/accept"),
            TaskExit::Done => {}
        }
        // The socket may be the reason for the failure: the next start binds another socket.
        self.listeners.sockets.lock().remove(&self.acceptor.kind());
        Err(format!(
            "accept loop of {} on shard {} ended: {exit:?}",
            self.acceptor.kind().name(),
            ended.shard
        )
        .into())
    }

    /// Binds a new socket if the socket no longer listens, and places the missing loops on living shards.
    fn audit(&self, myself: &ActorRef<Msg>, state: &mut State) -> Result<Option<Repair>, AcceptError> {
        if self.acceptor.conns().is_draining() {
            return Ok(None);
        }
        let mut repaired = None;
        let listens = self
            .listeners
            .sockets
            .lock()
            .get(&self.acceptor.kind())
            .is_some_and(|held| probe::is_listening(held));
        if !listens {
            // The sockets of these loops no longer listen.
            state.loops.clear();
            self.listeners.sockets.lock().remove(&self.acceptor.kind());
            repaired = Some(Repair::Listener);
        }
        let filled = self.fill(myself, state)?;
        Ok(repaired.or(filled.then_some(Repair::AcceptLoop)))
    }

    /// Places the missing loops on living shards. Returns whether a loop was missing.
    fn fill(&self, myself: &ActorRef<Msg>, state: &mut State) -> Result<bool, AcceptError> {
        let (shards, mut filled) = (&self.shards, false);
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

    /// The pod's listening socket: the kept socket, or a new socket.
    fn listener(&self) -> io::Result<Shared<TcpListener>> {
        let mut listeners = self.listeners.sockets.lock();
        if let Some(held) = listeners.get(&self.acceptor.kind()) {
            return Ok(held.clone());
        }
        let (kind, config, network) = (self.acceptor.kind(), &self.config, self.acceptor.network());
        let local = kind.is_local();
        let near = !config.socket.unpaced_rtt.is_zero();
        let mut how = Listen {
            addr: match kind {
                // Only the pod's own clients may ask.
                ListenerKind::Socks => SocketAddr::from((Ipv4Addr::LOCALHOST, kind.port())),
                _ => socket::wildcard(config.listen.ipv6_enabled, kind.port()),
            },
            // Local listeners do not need the mark. With the mark, the pod's rules would mark each later packet of
            // the connection, the application's packets too. The kernel would then route each packet once more.
            mark: if local { None } else { network.mark() },
            unpaced: if local { Some(PathScope::Host) } else { near.then_some(PathScope::Network) },
            reuse_port: config.inpod.port_reuse,
            transparent: match kind {
                ListenerKind::Socks => Some(false),
                _ if self.acceptor.id().is_own() => Some(false),
                _ => config.listen.orig_src,
            },
            redirected: matches!(kind, ListenerKind::Outbound | ListenerKind::Plaintext),
            keepalive: match kind {
                ListenerKind::Inbound | ListenerKind::Socks => None,
                ListenerKind::Outbound | ListenerKind::Plaintext => config.socket.keepalive,
            },
        };
        let bind = |how: &Listen| network.netns.enter(|| socket::listen(how)).and_then(|bound| bound);
        let bound = match bind(&how) {
            // A pod may lack IPv6 on a node that has IPv6.
            Err(error) if config.listen.ipv6_enabled && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                how.addr = socket::wildcard(false, kind.port());
                bind(&how)
            }
            bound => bound,
        };
        let bound = bound?;
        network.found_out((!local).then_some(bound.transparent), bound.paced);
        let listener = Shared::new(bound.listener);
        listeners.insert(kind, listener.clone());
        Ok(listener)
    }

    fn accept_on(
        &self,
        index: usize,
        listener: &Shared<TcpListener>,
        myself: &ActorRef<Msg>,
        state: &mut State,
    ) -> Result<(), AcceptError> {
        let (acceptor, listeners) = (self.acceptor.clone(), self.listeners.clone());
        let (listener, actor) = (listener.clone(), myself.clone());
        state.last += 1;
        let number = state.last;
        let make = move |shard| accept(shard, acceptor, listeners, listener);
        let on_exit = move |exit| drop(actor.cast(Msg::Ended(number, exit)));
        let placed = self.shards.place("capture/accept", index, make, on_exit)?;
        state.loops.push(AcceptLoop { number, shard: index, placed });
        Ok(())
    }
}

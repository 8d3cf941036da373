//! The accept loops of a pod's listeners, and the choice of the shard that serves a connection.

use std::{
    cell::{Cell, RefCell},
    io,
    net::{SocketAddr, TcpListener, TcpStream as StdStream},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use foldhash::HashMap;
use tokio::{net::TcpStream, time::sleep};

use super::{
    accepted::{Accepted, next},
    inbound,
    inbound_context::InboundContext,
    listener::{ListenerKind, Listeners},
    outbound,
    outbound_context::OutboundContext,
    plaintext,
    pod::{
        PodId,
        conns::{Arriving, PodConns},
        network::PodNetwork,
        panics,
    },
    socks::{self, SocksContext},
    tunnel::pool::PodPool,
};
use crate::{
    runtime::{fair_queue::Backlog, shard::Shard, spawner::ConnSpawner},
    sys::{descriptors, shared_socket::Shared},
    telemetry::metrics::Metrics,
};

/// The pause of an accept loop after the process or the kernel ran out of descriptors or memory.
/// Limit: pause of an accept loop that ran out of descriptors: 50 ms; past it: it accepts again.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// The number of connections that each shard still accepts once the pod drains: more than a listener's queue holds.
/// Limit: connections that a shard still accepts once a pod drains: 2048; past it: the connection is reset.
const LEFT_OVER: u32 = 2048;
/// The number of connections that a shard accepts before other tasks of the shard get their turn.
/// Limit: connections that a shard accepts in one turn: 8; past it: other tasks of the shard go first.
const ACCEPT_BURST: u32 = 8;

/// Serves the connections that one listener of a pod accepts.
#[derive(Clone)]
pub(crate) enum Acceptor {
    /// Serves outbound connections, on port 15001.
    Outbound(Arc<OutboundContext>),
    /// Serves HBONE tunnels from peers, on port 15008.
    Inbound(Arc<InboundContext>),
    /// Serves inbound plaintext connections, on port 15006.
    Plaintext(Arc<InboundContext>),
    /// Serves SOCKS clients, on port 15080.
    Socks(Arc<SocksContext>),
}

/// Counts an accept loop while the loop lives. The drop removes the spawner of the loop's connections.
struct Accepting {
    listeners: Arc<Listeners>,
    shard: Shard,
    serial: u64,
    kind: ListenerKind,
}

/// The spawners of one shard, by pod and listener kind. A spawner is kept from the first connection to the end of the
/// accept loop.
#[derive(Default)]
struct Spawners(RefCell<HashMap<(u64, ListenerKind), Rc<ConnSpawner>>>);

// === impl Acceptor ===

impl Acceptor {
    /// The kind of the listener.
    pub(crate) fn kind(&self) -> ListenerKind {
        match self {
            Self::Outbound(_) => ListenerKind::Outbound,
            Self::Inbound(_) => ListenerKind::Inbound,
            Self::Plaintext(_) => ListenerKind::Plaintext,
            Self::Socks(_) => ListenerKind::Socks,
        }
    }

    /// The pod's id.
    pub(crate) fn id(&self) -> &Arc<PodId> {
        match self {
            Self::Outbound(ctx) => &ctx.pod.id,
            Self::Inbound(ctx) | Self::Plaintext(ctx) => &ctx.pod.id,
            Self::Socks(ctx) => &ctx.outbound.pod.id,
        }
    }

    /// The pod's live connections.
    pub(crate) fn conns(&self) -> &Arc<PodConns> {
        match self {
            Self::Outbound(ctx) => &ctx.conns,
            Self::Inbound(ctx) | Self::Plaintext(ctx) => &ctx.conns,
            Self::Socks(ctx) => &ctx.outbound.conns,
        }
    }

    /// The pod's network.
    pub(crate) fn network(&self) -> &Arc<PodNetwork> {
        match self {
            Self::Outbound(ctx) => &ctx.network,
            Self::Inbound(ctx) | Self::Plaintext(ctx) => &ctx.network,
            Self::Socks(ctx) => &ctx.outbound.network,
        }
    }

    /// Counters.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        match self {
            Self::Outbound(ctx) => &ctx.metrics,
            Self::Inbound(ctx) | Self::Plaintext(ctx) => &ctx.metrics,
            Self::Socks(ctx) => &ctx.outbound.metrics,
        }
    }

    /// The spawner that runs all connections of this kind on `shard` through one fair queue, whichever shard accepted.
    /// The first connection makes the spawner, so a pod without connections has no spawner.
    pub(crate) fn spawner(&self, shard: &Shard) -> Rc<ConnSpawner> {
        let (id, kind) = (self.id(), self.kind());
        let spawners = shard.local::<Spawners>();
        let key = (id.serial, kind);
        if let Some(spawner) = spawners.0.borrow().get(&key) {
            return spawner.clone();
        }
        // Only these connections send through the pod's own tunnels.
        let backlog = match kind {
            ListenerKind::Outbound | ListenerKind::Socks => PodPool::of(shard, id.serial).backlog(),
            ListenerKind::Inbound | ListenerKind::Plaintext => Backlog::default(),
        };
        let (metrics, id, index) = (self.metrics().clone(), id.clone(), shard.index());
        let on_panic = move |kind, message: &str| panics::report(&metrics, &id, kind, index, message);
        let spawner = Rc::new(ConnSpawner::new(shard, backlog, on_panic));
        spawners.0.borrow_mut().insert(key, spawner.clone());
        spawner
    }

    /// Serves an accepted connection on `shard`.
    fn serve(self, shard: &Shard, arriving: Arriving, stream: TcpStream, peer: SocketAddr) {
        let (kind, local) = (self.kind().name(), shard.clone());
        match self {
            Self::Outbound(ref ctx) => {
                let accepted = Accepted { ctx: ctx.clone(), arriving, shard: local, stream, peer };
                self.spawner(shard).begin(kind, outbound::serve(accepted));
            }
            Self::Plaintext(ref ctx) => {
                let accepted = Accepted { ctx: ctx.clone(), arriving, shard: local, stream, peer };
                self.spawner(shard).begin(kind, plaintext::serve(accepted));
            }
            Self::Socks(ref ctx) => {
                let accepted = Accepted { ctx: ctx.clone(), arriving, shard: local, stream, peer };
                self.spawner(shard).begin(kind, socks::serve(accepted));
            }
            Self::Inbound(ctx) => {
                let (told, index) = (ctx.clone(), shard.index());
                let work = inbound::serve(Accepted { ctx, arriving, shard: local, stream, peer });
                shard.spawn_watched("tunnel", work, move |message| {
                    panics::report(&told.metrics, &told.pod.id, "tunnel", index, &message);
                });
            }
        }
    }
}

/// Drops the spawners of a pod that is gone from the calling shard.
pub(crate) fn forget(shard: &Shard, serial: u64) {
    shard.local::<Spawners>().0.borrow_mut().retain(|(of, _), _| *of != serial);
}

// === impl Accepting ===

impl Accepting {
    fn new(acceptor: &Acceptor, listeners: &Arc<Listeners>, shard: &Shard) -> Self {
        let (serial, kind) = (acceptor.id().serial, acceptor.kind());
        listeners.accept_loops.begin(kind);
        Self { listeners: listeners.clone(), shard: shard.clone(), serial, kind }
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        // The fair queue ends with its last connection.
        let spawner = self.shard.local::<Spawners>().0.borrow_mut().remove(&(self.serial, self.kind));
        drop(spawner);
        self.listeners.accept_loops.end(self.kind);
    }
}

/// Accepts on this shard until the pod drains or the socket fails. Connections that the kernel accepted before a drain
/// are still served, as the kernel would reset them otherwise.
pub(crate) async fn accept(
    shard: Shard,
    acceptor: Acceptor,
    listeners: Arc<Listeners>,
    listener: Shared<TcpListener>,
) {
    let listener = match listener.watch().await {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(target: "capture", %error, "cannot watch the listener"),
    };
    let (kind, id) = (acceptor.kind(), acceptor.id().clone());
    let _accepting = Accepting::new(&acceptor, &listeners, &shard);
    let mut draining = acceptor.conns().draining();
    let mut left = LEFT_OVER;
    loop {
        let Some(accepted) = next(&listener, &mut draining).await else { return };
        left -= u32::from(*draining.borrow());
        if left == 0 {
            return;
        }
        match accepted {
            Ok((stream, peer)) => {
                let short = descriptors::opened(&stream);
                begin(&shard, &acceptor, stream, peer);
                if short {
                    tokio::select! {
                        biased;
                        // What the kernel has accepted is served all the same.
                        _ = draining.wait_for(|draining| *draining) => {}
                        () = acceptor.conns().may_accept(&id) => {}
                    }
                }
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) if descriptors::is_exhaustion(&error) => {
                tracing::warn!(target: "capture", uid = &*id.uid, pod = %id.name(), kind = kind.name(), %error, "cannot accept");
                sleep(EXHAUSTED_PAUSE).await;
            }
            Err(error) => {
                tracing::error!(target: "capture", uid = &*id.uid, pod = %id.name(), kind = kind.name(), %error, "listener failed");
                return;
            }
        }
        if every(ACCEPT_BURST) {
            tokio::task::yield_now().await;
        }
    }
}

/// Hands an accepted connection to the shard that the balancer chooses, before any byte is read. Only that shard's
/// runtime ever watches the connection.
fn begin(shard: &Shard, acceptor: &Acceptor, stream: StdStream, peer: SocketAddr) {
    if !acceptor.kind().is_local() {
        acceptor.network().settle_accepted(&stream);
    }
    let to = match acceptor.kind() {
        // A tunnel lives for long and carries many streams.
        ListenerKind::Inbound => shard.shards.balance().tunnel(shard.index()),
        ListenerKind::Outbound | ListenerKind::Plaintext | ListenerKind::Socks => {
            shard.shards.balance().connection(shard.index())
        }
    };
    let (acceptor, arriving) = (acceptor.clone(), acceptor.conns().arriving());
    let serve = move |shard: &Shard| match TcpStream::from_std(stream) {
        Ok(stream) => acceptor.serve(shard, arriving, stream, peer),
        Err(error) => refuse(acceptor.id(), peer, &error),
    };
    if to == shard.index() {
        return serve(shard);
    }
    shard.hand_over(to, serve);
}

fn refuse(id: &PodId, peer: SocketAddr, error: &io::Error) {
    tracing::warn!(target: "capture", uid = &*id.uid, pod = %id.name(), %peer, %error, "connection refused");
}

thread_local! {
    /// The number of accepts on this thread. An accept loop yields after every burst.
    static OPENED: Cell<u32> = const { Cell::new(0) };
}

/// Whether the caller should yield, which is true at every `n`-th call on this thread.
fn every(n: u32) -> bool {
    OPENED.with(|count| {
        count.set(count.get().wrapping_add(1));
        count.get() % n == 0
    })
}

/// Whether the error concerns only the connection that would have been accepted (accept(2)).
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

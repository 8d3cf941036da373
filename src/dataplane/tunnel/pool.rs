//! The tunnel pool of a pod on one shard. A stream opens without a message to an actor if a tunnel has room.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use foldhash::HashMap;
use h2::client::SendRequest;
use tokio::{sync::watch, time::Instant};
use tracing::Instrument;

use super::dialer::{DialError, Dialer, TunnelKey};
use crate::runtime::{fair_queue::Backlog, shard::Shard};

/// The number of dials that a stream waits for. A new tunnel may be full before a waiting stream runs again, and a
/// burst of connections fills many tunnels.
/// Limit: dials that a stream waits for: 64; past it: the stream fails: every tunnel to the peer is full.
const MAX_DIALS_WAITED_FOR: usize = 64;

/// The pools of all pods on one shard, by the pod's serial number.
#[derive(Default)]
struct Pools(RefCell<HashMap<u64, Rc<PodPool>>>);

/// The tunnels of one pod on one shard, by peer.
#[derive(Default)]
pub(crate) struct PodPool {
    /// The pod's outbound connections on this shard.
    backlog: Backlog,
    peers: RefCell<HashMap<TunnelKey, Rc<Peer>>>,
}

/// The tunnels to one peer on one shard.
#[derive(Default)]
pub(crate) struct Peer {
    tunnels: RefCell<Vec<Rc<Tunnel>>>,
    dialling: RefCell<Option<watch::Receiver<Option<Dialled>>>>,
}

type Dialled = Result<(), Arc<DialError>>;

/// An established tunnel on this shard.
pub(crate) struct Tunnel {
    send: SendRequest<Bytes>,
    max_streams: usize,
    active: Cell<usize>,
    idle_since: Cell<Instant>,
    /// Whether an answer of the peer is overdue. New streams prefer other tunnels.
    unhealthy: Cell<bool>,
    /// Whether the peer takes no new streams on the tunnel. Open streams go on.
    retired: Cell<bool>,
}

/// A place for one stream on a tunnel.
pub(crate) struct Lease(Rc<Tunnel>);

// === impl PodPool ===

impl PodPool {
    /// The pool of the pod with this serial number on the calling shard.
    pub(crate) fn of(shard: &Shard, serial: u64) -> Rc<Self> {
        shard.local::<Pools>().0.borrow_mut().entry(serial).or_default().clone()
    }

    /// Drops the pool of a pod that is gone from the calling shard.
    pub(crate) fn forget(shard: &Shard, serial: u64) {
        let forgotten = shard.local::<Pools>().0.borrow_mut().remove(&serial);
        drop(forgotten);
    }

    /// The backlog of the pod's outbound connections. The pod's tunnels wait for the backlog before they flush.
    pub(crate) fn backlog(&self) -> Backlog {
        self.backlog.clone()
    }

    /// The tunnels to `key`.
    pub(crate) fn peer(&self, key: &TunnelKey) -> Rc<Peer> {
        if let Some(peer) = self.peers.borrow().get(key) {
            return peer.clone();
        }
        self.peers.borrow_mut().entry(key.clone()).or_default().clone()
    }

    /// Drops the entry of `key` if the peer has no tunnel and no dial is under way.
    pub(crate) fn tidy(&self, key: &TunnelKey) {
        let mut peers = self.peers.borrow_mut();
        let unused = |peer: &Rc<Peer>| peer.tunnels.borrow().is_empty() && peer.dialling.borrow().is_none();
        if peers.get(key).is_some_and(unused) {
            peers.remove(key);
        }
    }

    /// Leases a place for a stream to `key` on an existing tunnel, or on a new tunnel that all waiting streams share.
    ///
    /// # Errors
    /// The dial failed, and every stream that waited for the dial gets the same error; or new tunnels kept filling up.
    pub(crate) async fn lease(
        self: &Rc<Self>,
        dialer: &Arc<dyn Dialer>,
        shard: &Shard,
        key: &TunnelKey,
    ) -> Result<Lease, Arc<DialError>> {
        for _ in 0..MAX_DIALS_WAITED_FOR {
            // The peer is looked up in each round, as `tidy` may have dropped an unused entry meanwhile.
            let peer = self.peer(key);
            if let Some(lease) = peer.take() {
                return Ok(lease);
            }
            let mut outcome = peer.dial(self, dialer, shard, key);
            drop(peer);
            // A dial that was lost with its task sends no outcome, so the next round dials again.
            if let Ok(Some(Err(error))) = outcome.wait_for(Option::is_some).await.as_deref() {
                return Err(error.clone());
            }
        }
        self.peer(key).take().ok_or_else(|| Arc::new(DialError::Contended))
    }

    /// Leases a place on an existing tunnel to `key`.
    pub(crate) fn ready(&self, key: &TunnelKey) -> Option<Lease> {
        self.peers.borrow().get(key).and_then(|peer| peer.take())
    }
}

// === impl Peer ===

impl Peer {
    fn take(&self) -> Option<Lease> {
        let tunnels = self.tunnels.borrow();
        let free = |tunnel: &&Rc<Tunnel>| tunnel.has_room();
        let found =
            tunnels.iter().find(|t| free(t) && !t.unhealthy.get()).or_else(|| tunnels.iter().find(free))?;
        Some(Lease::new(found.clone()))
    }

    /// The outcome of the dial under way, or of a new dial.
    fn dial(
        self: &Rc<Self>,
        pool: &Rc<PodPool>,
        dialer: &Arc<dyn Dialer>,
        shard: &Shard,
        key: &TunnelKey,
    ) -> watch::Receiver<Option<Dialled>> {
        if let Some(dialling) = &*self.dialling.borrow() {
            return dialling.clone();
        }
        let (tell, outcome) = watch::channel(None);
        *self.dialling.borrow_mut() = Some(outcome.clone());
        let (dialer, pool, key, index) = (dialer.clone(), pool.clone(), key.clone(), shard.index());
        // `done` clears the mark even if the task is dropped before the task runs, so the next miss dials again.
        let done = Undialled(self.clone());
        let told = dialer.clone();
        let ask = async move {
            let dialled = dialer.dial(&key, index).await;
            drop(done);
            // A peer that cannot be reached must leave no entry behind.
            pool.tidy(&key);
            tell.send_replace(Some(dialled));
        };
        let on_panic = move |message: String| told.panicked("tunnel/ask", index, &message);
        // The dial's task stays inside the span of the connection that found no tunnel.
        shard.spawn_watched("tunnel/ask", ask.in_current_span(), on_panic);
        outcome
    }

    /// Adds an established tunnel.
    pub(crate) fn add(&self, send: SendRequest<Bytes>, max_streams: usize) -> Rc<Tunnel> {
        let tunnel = Rc::new(Tunnel {
            send,
            max_streams,
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            unhealthy: Cell::new(false),
            retired: Cell::new(false),
        });
        self.tunnels.borrow_mut().push(tunnel.clone());
        tunnel
    }

    /// Removes a tunnel from the pool. No new stream opens on the tunnel, and open streams go on.
    pub(crate) fn remove(&self, tunnel: &Rc<Tunnel>) {
        self.tunnels.borrow_mut().retain(|t| !Rc::ptr_eq(t, tunnel));
    }
}

/// Clears the mark that a dial is under way.
struct Undialled(Rc<Peer>);

impl Drop for Undialled {
    fn drop(&mut self) {
        *self.0.dialling.borrow_mut() = None;
    }
}

// === impl Tunnel ===

impl Tunnel {
    fn has_room(&self) -> bool {
        !self.retired.get()
            && self.active.get() < self.max_streams.min(self.send.current_max_send_streams().max(1))
    }

    /// How long the tunnel has had no stream; `None` while the tunnel has a stream.
    pub(crate) fn idle(&self) -> Option<std::time::Duration> {
        (self.active.get() == 0).then(|| self.idle_since.get().elapsed())
    }

    /// Sets whether an answer to a PING is overdue on the tunnel.
    pub(crate) fn set_unhealthy(&self, unhealthy: bool) {
        self.unhealthy.set(unhealthy);
    }

    /// Closes the tunnel for new streams. Open streams may go on for long.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
    }
}

// === impl Lease ===

impl Lease {
    fn new(tunnel: Rc<Tunnel>) -> Self {
        tunnel.active.set(tunnel.active.get() + 1);
        Self(tunnel)
    }

    /// A handle to open the stream with.
    pub(crate) fn send_request(&self) -> SendRequest<Bytes> {
        self.0.send.clone()
    }

    /// Marks the tunnel as unhealthy after a stream failed on the tunnel. New streams prefer other tunnels.
    pub(crate) fn mark_unhealthy(&self) {
        self.0.unhealthy.set(true);
    }

    /// Closes the tunnel for new streams, because the tunnel is broken or the peer has announced the tunnel's end.
    /// Open streams may go on for long.
    pub(crate) fn retire(&self) {
        self.0.retire();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
        if self.0.active.get() == 0 {
            self.0.idle_since.set(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;

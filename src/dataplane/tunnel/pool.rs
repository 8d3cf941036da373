//! Tunnels of a pod on one shard: streams are opened here without a message to anybody, unless there is no tunnel.

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

/// Dials that a stream waits for until it gives up: a fresh tunnel may be full before its turn comes, and a burst of
/// connections fills many.
/// Limit: dials that a stream waits for: 64; past it: the stream fails: every tunnel to the peer is full.
const MAX_DIALS_WAITED_FOR: usize = 64;

/// The pools of all pods on one shard, by the pod's serial number.
#[derive(Default)]
struct Pools(RefCell<HashMap<u64, Rc<PodPool>>>);

/// Tunnels of one pod on one shard, by peer.
#[derive(Default)]
pub(crate) struct PodPool {
    /// The pod's outbound connections on this shard.
    backlog: Backlog,
    peers: RefCell<HashMap<TunnelKey, Rc<Peer>>>,
}

/// Tunnels to one peer on one shard.
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
    /// A PING is overdue: no new stream is put on it while another can be had.
    unhealthy: Cell<bool>,
    /// The peer takes no new stream on it; those on it go on.
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

    /// The pod is gone: the calling shard keeps nothing of it.
    pub(crate) fn forget(shard: &Shard, serial: u64) {
        let forgotten = shard.local::<Pools>().0.borrow_mut().remove(&serial);
        drop(forgotten);
    }

    /// The backlog of the pod's outbound connections, which the pod's tunnels wait for before they flush.
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

    /// Forgets `key` if nothing is left of it.
    pub(crate) fn tidy(&self, key: &TunnelKey) {
        let mut peers = self.peers.borrow_mut();
        let unused = |peer: &Rc<Peer>| peer.tunnels.borrow().is_empty() && peer.dialling.borrow().is_none();
        if peers.get(key).is_some_and(unused) {
            peers.remove(key);
        }
    }

    /// A place for a stream to `key`, through an existing tunnel or one dialled for all who wait for it.
    ///
    /// # Errors
    /// The dial that was waited for failed; everybody who waited hears the same.
    pub(crate) async fn lease(
        self: &Rc<Self>,
        dialer: &Arc<dyn Dialer>,
        shard: &Shard,
        key: &TunnelKey,
    ) -> Result<Lease, Arc<DialError>> {
        for _ in 0..MAX_DIALS_WAITED_FOR {
            // Looked up each time: an entry that nothing was left of may have been forgotten meanwhile.
            let peer = self.peer(key);
            if let Some(lease) = peer.take() {
                return Ok(lease);
            }
            let mut outcome = peer.dial(self, dialer, shard, key);
            drop(peer);
            // A dial lost with its task says nothing: somebody else has to try.
            if let Ok(Some(Err(error))) = outcome.wait_for(Option::is_some).await.as_deref() {
                return Err(error.clone());
            }
        }
        self.peer(key).take().ok_or_else(|| Arc::new(DialError::Contended))
    }

    /// A place on a tunnel to `key` that is there already.
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

    /// The dial under way, or a new one.
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
        // Whatever happens to the task, even before it runs, the next miss dials again.
        let done = Undialled(self.clone());
        let told = dialer.clone();
        let ask = async move {
            let dialled = dialer.dial(&key, index).await;
            drop(done);
            // A peer that cannot be reached leaves no entry behind.
            pool.tidy(&key);
            tell.send_replace(Some(dialled));
        };
        let on_panic = move |message: String| told.panicked("tunnel/ask", index, &message);
        // Still inside the span of the connection that missed the tunnel.
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

    /// Takes a tunnel out: no stream is opened on it any more, those on it go on.
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

    /// Whether no stream has been on it for some time; how long.
    pub(crate) fn idle(&self) -> Option<std::time::Duration> {
        (self.active.get() == 0).then(|| self.idle_since.get().elapsed())
    }

    /// Marks it as overdue with an answer, or not any more.
    pub(crate) fn set_unhealthy(&self, unhealthy: bool) {
        self.unhealthy.set(unhealthy);
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

    /// Marks the tunnel as not to be used for new streams while another can be had, after it failed one.
    pub(crate) fn mark_unhealthy(&self) {
        self.0.unhealthy.set(true);
    }

    /// Marks the tunnel as closed for new streams: it is broken, or the peer says that it goes away. Those on it may
    /// go on for long.
    pub(crate) fn retire(&self) {
        self.0.retired.set(true);
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

//! Tunnels of a pod on one shard: streams are opened here without a message to anybody, unless there is no tunnel.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use foldhash::HashMap;
use h2::client::SendRequest;
use tokio::sync::watch;
use tracing::Instrument;

use super::{DialError, TunnelKey};
use crate::{
    dataplane::{connection::ConnSpawner, listener::ListenerKind, pod::Pod},
    runtime::{
        fair_queue::{Backlog, FlushDelay},
        shard::Shard,
    },
};

/// Dials that a stream waits for until it gives up: a fresh tunnel may be full before its turn comes, and a burst of
/// connections fills many.
const ROUNDS: usize = 64;

/// Tunnels of one pod on one shard, by peer.
#[derive(Default)]
pub struct PodPool {
    /// The pod's outbound connections on this shard.
    backlog: Backlog,
    /// Where captured connections of each kind go on, from the first one to the end of the accept loop.
    spawners: [RefCell<Option<Rc<ConnSpawner>>>; 3],
    peers: RefCell<HashMap<TunnelKey, Rc<Peer>>>,
}

/// Tunnels to one peer on one shard.
#[derive(Default)]
pub struct Peer {
    tunnels: RefCell<Vec<Rc<Tunnel>>>,
    dialling: RefCell<Option<watch::Receiver<Option<Dialled>>>>,
}

type Dialled = Result<(), Arc<DialError>>;

/// An established tunnel on this shard.
pub struct Tunnel {
    send: SendRequest<Bytes>,
    max_streams: usize,
    active: Cell<usize>,
    idle_since: Cell<Instant>,
    /// A PING is overdue: no new stream is put on it while another can be had.
    suspect: Cell<bool>,
    /// The peer takes no new stream on it; those on it go on.
    retired: Cell<bool>,
}

/// A place for one stream on a tunnel.
pub struct Lease(Rc<Tunnel>);

// === impl PodPool ===

impl PodPool {
    /// The pool of `pod` on the calling shard.
    pub fn of(pod: &Pod, shard: &Shard) -> Rc<Self> {
        shard.pools.borrow_mut().entry(pod.serial).or_default().clone()
    }

    /// Where connections of `pod` of this kind go on here, whichever shard accepted them: one queue for all. The first one
    /// makes it, so a pod without connections has none.
    pub fn spawner(&self, pod: &Arc<Pod>, shard: &Shard, kind: ListenerKind) -> Rc<ConnSpawner> {
        let mut held = kind.pick(&self.spawners).borrow_mut();
        if let Some(spawner) = &*held {
            return spawner.clone();
        }
        // Nothing of the others goes out through the pod's own tunnels.
        let backlog = if kind == ListenerKind::Outbound { self.backlog.clone() } else { Backlog::default() };
        let spawner = Rc::new(ConnSpawner::new(shard, pod, backlog));
        *held = Some(spawner.clone());
        spawner
    }

    /// Lets go of what connections of this kind go on by. It ends with the last of them.
    pub fn release(&self, kind: ListenerKind) {
        kind.pick(&self.spawners).take();
    }

    /// For a tunnel of the pod's, which sends on what its outbound connections bring.
    pub fn flush_delay(&self) -> FlushDelay {
        self.backlog.flush_delay()
    }

    /// The tunnels to `key`.
    pub fn peer(&self, key: &TunnelKey) -> Rc<Peer> {
        if let Some(peer) = self.peers.borrow().get(key) {
            return peer.clone();
        }
        self.peers.borrow_mut().entry(key.clone()).or_default().clone()
    }

    /// Forgets `key` if nothing is left of it.
    pub fn tidy(&self, key: &TunnelKey) {
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
    pub async fn lease(
        self: &Rc<Self>,
        pod: &Arc<Pod>,
        shard: &Shard,
        key: &TunnelKey,
    ) -> Result<Lease, Arc<DialError>> {
        for _ in 0..ROUNDS {
            // Looked up each time: an entry that nothing was left of may have been forgotten meanwhile.
            let peer = self.peer(key);
            if let Some(lease) = peer.take() {
                return Ok(lease);
            }
            let mut outcome = peer.dial(self, pod, shard, key);
            drop(peer);
            // A dial lost with its task says nothing: somebody else has to try.
            if let Ok(Some(Err(error))) = outcome.wait_for(Option::is_some).await.as_deref() {
                return Err(error.clone());
            }
        }
        self.peer(key).take().ok_or_else(|| Arc::new(DialError::Contended))
    }

    /// A place on a tunnel to `key` that is there already.
    pub fn ready(&self, key: &TunnelKey) -> Option<Lease> {
        self.peers.borrow().get(key).and_then(|peer| peer.take())
    }
}

// === impl Peer ===

impl Peer {
    fn take(&self) -> Option<Lease> {
        let tunnels = self.tunnels.borrow();
        let free = |tunnel: &&Rc<Tunnel>| tunnel.has_room();
        let found =
            tunnels.iter().find(|t| free(t) && !t.suspect.get()).or_else(|| tunnels.iter().find(free))?;
        Some(Lease::new(found.clone()))
    }

    /// The dial under way, or a new one.
    fn dial(
        self: &Rc<Self>,
        pool: &Rc<PodPool>,
        pod: &Arc<Pod>,
        shard: &Shard,
        key: &TunnelKey,
    ) -> watch::Receiver<Option<Dialled>> {
        if let Some(dialling) = &*self.dialling.borrow() {
            return dialling.clone();
        }
        let (tell, outcome) = watch::channel(None);
        *self.dialling.borrow_mut() = Some(outcome.clone());
        let (pod, pool, key, index) = (pod.clone(), pool.clone(), key.clone(), shard.index());
        // Whatever happens to the task, even before it runs, the next miss dials again.
        let done = Undialled(self.clone());
        let whose = pod.clone();
        let ask = async move {
            let dialled = pod.tunnels.open(&pod, &key, index).await;
            drop(done);
            // A peer that cannot be reached leaves no entry behind.
            pool.tidy(&key);
            tell.send_replace(Some(dialled));
        };
        let on_panic = move |message: String| whose.task_panicked("tunnel/ask", index, &message);
        // Still inside the span of the connection that missed the tunnel.
        shard.spawn_watched("tunnel/ask", ask.in_current_span(), on_panic);
        outcome
    }

    /// Adds an established tunnel.
    pub fn add(&self, send: SendRequest<Bytes>, max_streams: usize) -> Rc<Tunnel> {
        let tunnel = Rc::new(Tunnel {
            send,
            max_streams,
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            suspect: Cell::new(false),
            retired: Cell::new(false),
        });
        self.tunnels.borrow_mut().push(tunnel.clone());
        tunnel
    }

    /// Takes a tunnel out: no stream is opened on it any more, those on it go on.
    pub fn remove(&self, tunnel: &Rc<Tunnel>) {
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
    pub fn idle(&self) -> Option<std::time::Duration> {
        (self.active.get() == 0).then(|| self.idle_since.get().elapsed())
    }

    /// Marks it as overdue with an answer, or not any more.
    pub fn suspect(&self, suspect: bool) {
        self.suspect.set(suspect);
    }
}

// === impl Lease ===

impl Lease {
    fn new(tunnel: Rc<Tunnel>) -> Self {
        tunnel.active.set(tunnel.active.get() + 1);
        Self(tunnel)
    }

    /// A handle to open the stream with.
    pub fn send_request(&self) -> SendRequest<Bytes> {
        self.0.send.clone()
    }

    /// Marks the tunnel as not to be used for new streams while another can be had, after it failed one.
    pub fn distrust(&self) {
        self.0.suspect.set(true);
    }

    /// Marks the tunnel as closed for new streams: it is broken, or the peer says that it goes away. Those on it may
    /// go on for long.
    pub fn retire(&self) {
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
mod tests {
    use super::*;
    use crate::protocols::{hbone::Http2Settings, route::Sans};

    fn key() -> TunnelKey {
        let identity = "spiffe://td/ns/n/sa/s".parse().unwrap();
        TunnelKey { to: "10.0.0.1:15008".parse().unwrap(), identity, sans: Sans::default() }
    }

    async fn send() -> SendRequest<Bytes> {
        let (io, _peer) = tokio::io::duplex(1000);
        crate::protocols::hbone::client::handshake(io, &Http2Settings::default()).await.unwrap().0
    }

    #[tokio::test]
    async fn a_retired_tunnel_is_never_picked_and_a_suspect_one_last() {
        let pool = PodPool::default();
        let peer = pool.peer(&key());
        let first = peer.add(send().await, 10);
        let second = peer.add(send().await, 1);
        let lease = pool.ready(&key()).unwrap();
        assert!(Rc::ptr_eq(&lease.0, &first));
        lease.distrust();
        let other = pool.ready(&key()).unwrap();
        assert!(Rc::ptr_eq(&other.0, &second));
        // The second is full: a suspect is better than nothing.
        let third = pool.ready(&key()).unwrap();
        assert!(Rc::ptr_eq(&third.0, &first));
        third.retire();
        assert!(pool.ready(&key()).is_none());
        drop(other);
        assert!(Rc::ptr_eq(&pool.ready(&key()).unwrap().0, &second));
    }

    #[tokio::test]
    async fn a_peer_is_forgotten_with_its_last_tunnel() {
        let pool = PodPool::default();
        let tunnel = pool.peer(&key()).add(send().await, 10);
        pool.tidy(&key());
        assert_eq!(pool.peers.borrow().len(), 1);
        pool.peer(&key()).remove(&tunnel);
        pool.tidy(&key());
        assert!(pool.peers.borrow().is_empty());
    }
}

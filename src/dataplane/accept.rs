//! The accept loops of a pod's listeners, and which shard a connection begins on.

use std::{
    cell::Cell,
    io,
    net::{SocketAddr, TcpListener, TcpStream as StdStream},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpStream, time::sleep};

use super::{
    connection, inbound,
    listener::ListenerKind,
    outbound, plaintext,
    pod::{Arriving, Pod},
    tunnel::pool::PodPool,
};
use crate::{
    runtime::shard::Shard,
    sys::{pacing::PathScope, shared_socket::Shared},
};

/// Pause after the process or the kernel ran out of something an accept needs.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// Connections still accepted by each shard once the pod drains: more than a listener's queue holds.
const LEFT_OVER: u32 = 2048;
/// Connections accepted until other tasks of the shard get their turn.
const BURST: u32 = 8;

/// Counts an accept loop while it lives, and holds what its connections go on by.
struct Accepting {
    pod: Arc<Pod>,
    pool: Rc<PodPool>,
    kind: ListenerKind,
}

// === impl Accepting ===

impl Accepting {
    fn new(pod: &Arc<Pod>, shard: &Shard, kind: ListenerKind) -> Self {
        pod.accept_loops.begin(kind);
        Self { pod: pod.clone(), pool: PodPool::of(pod, shard), kind }
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.pool.release(self.kind);
        self.pod.accept_loops.end(self.kind);
    }
}

/// Accepts on this shard until the pod drains or the socket fails. What the kernel has accepted before a drain is served
/// still: nobody else can, it would be reset.
pub async fn accept(shard: Shard, pod: Arc<Pod>, kind: ListenerKind, listener: Shared<TcpListener>) {
    let listener = match listener.watch().await {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(target: "capture", %error, "cannot watch the listener"),
    };
    let _accepting = Accepting::new(&pod, &shard, kind);
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

/// Begins what was accepted on the shard that it is best on, before a byte of it is read. Only that shard's runtime ever
/// watches it.
fn begin(shard: &Shard, pod: &Arc<Pod>, kind: ListenerKind, (stream, peer): (StdStream, SocketAddr)) {
    if kind != ListenerKind::Outbound
        && let Some(scope) = pod.unpaced(PathScope::Network)
    {
        scope.settle(&stream, pod.node.settings.unpaced_rtt);
    }
    let to = match kind {
        // A tunnel stays for long and carries many streams.
        ListenerKind::Inbound => shard.shards.balance().tunnel(shard.index()),
        ListenerKind::Outbound | ListenerKind::Plaintext => shard.shards.balance().connection(shard.index()),
    };
    let pod = pod.arriving();
    let serve = move |shard: &Shard| match TcpStream::from_std(stream) {
        Ok(stream) => serve(shard, pod, kind, (stream, peer)),
        Err(error) => refuse(&pod, peer, &error),
    };
    if to == shard.index() {
        return serve(shard);
    }
    shard.hand_over(to, serve);
}

fn refuse(pod: &Pod, peer: SocketAddr, error: &io::Error) {
    tracing::warn!(target: "capture", uid = &*pod.uid, %peer, %error, "connection refused");
}

fn serve(shard: &Shard, arriving: Arriving, kind: ListenerKind, (stream, peer): (TcpStream, SocketAddr)) {
    let (pod, local) = (arriving.clone(), shard.clone());
    let spawner = || PodPool::of(&pod, shard).spawner(&pod, shard, kind);
    match kind {
        ListenerKind::Outbound => {
            spawner().begin(kind.name(), outbound::serve(arriving, local, stream, peer))
        }
        ListenerKind::Plaintext => {
            spawner().begin(kind.name(), plaintext::serve(arriving, local, stream, peer))
        }
        ListenerKind::Inbound => {
            connection::spawn(shard, &pod, "tunnel", inbound::serve(arriving, local, stream, peer))
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

//! The listeners of a pod: which traffic each captures, their sockets, and how many accept loops serve them.

use std::{
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicUsize, Ordering},
};

use foldhash::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::sys::{probe, shared_socket::Shared};

/// Which traffic a listener captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ListenerKind {
    /// 15001.
    Outbound,
    /// 15008.
    Inbound,
    /// 15006.
    Plaintext,
}

/// How many accept loops each listener has: one a shard, if all is well.
#[derive(Debug, Default)]
pub(crate) struct AcceptLoops([AtomicUsize; 3]);

/// The listeners of a pod. They outlive the actors that accept on them.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// The listening sockets.
    pub(crate) sockets: Mutex<HashMap<ListenerKind, Shared<TcpListener>>>,
    /// How many accept loops there are.
    pub(crate) accept_loops: AcceptLoops,
}

/// Where canaries are awaited: the last that came, of each family.
#[derive(Debug)]
pub(crate) struct Canaries(watch::Sender<[Option<SocketAddr>; 2]>);

// === impl ListenerKind ===

impl ListenerKind {
    /// All, in the order they are bound.
    pub(crate) const ALL: [Self; 3] = [Self::Inbound, Self::Plaintext, Self::Outbound];

    /// The port.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Outbound => 15001,
            Self::Inbound => 15008,
            Self::Plaintext => 15006,
        }
    }

    /// Name of the actor and of its tasks.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Plaintext => "plaintext",
        }
    }

    /// The item of this kind among three items in the order of [`Self::ALL`].
    pub(crate) fn pick<T>(self, [inbound, plaintext, outbound]: &[T; 3]) -> &T {
        match self {
            Self::Inbound => inbound,
            Self::Plaintext => plaintext,
            Self::Outbound => outbound,
        }
    }
}

// === impl AcceptLoops ===

impl AcceptLoops {
    /// How many accept loops of this kind there are.
    pub(crate) fn count(&self, kind: ListenerKind) -> usize {
        kind.pick(&self.0).load(Ordering::Acquire)
    }

    /// A loop of this kind begins.
    pub(crate) fn begin(&self, kind: ListenerKind) {
        kind.pick(&self.0).fetch_add(1, Ordering::Relaxed);
    }

    /// A loop of this kind has ended. Whoever sees that it has ended sees what it accepted as arriving, or where that
    /// has arrived.
    pub(crate) fn end(&self, kind: ListenerKind) {
        kind.pick(&self.0).fetch_sub(1, Ordering::Release);
    }
}

// === impl Canaries ===

impl Default for Canaries {
    fn default() -> Self {
        Self(watch::Sender::new([None, None]))
    }
}

impl Canaries {
    /// Whether a connection captured on 15001 is a canary, of this pod or of another proxy that serves it meanwhile. A
    /// canary must be dropped unseen.
    pub(crate) fn recognizes(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let is_canary = to == probe::target(to.is_ipv6());
        if is_canary {
            self.arrived(from);
        }
        is_canary
    }

    /// One has come from this address.
    pub(crate) fn arrived(&self, from: SocketAddr) {
        self.0.send_modify(|[v4, v6]| *if from.is_ipv4() { v4 } else { v6 } = Some(from));
    }

    /// Waits for the one from this port; its address may have been changed on its way.
    pub(crate) async fn arrival(&self, from: SocketAddr) {
        let came = |[v4, v6]: &[Option<SocketAddr>; 2]| {
            let last = if from.is_ipv4() { v4 } else { v6 };
            last.is_some_and(|last| last.port() == from.port())
        };
        // The sender is ours: it cannot be gone.
        let _ = self.0.subscribe().wait_for(came).await;
    }
}

#[cfg(test)]
mod tests;

//! The listeners of a pod: the traffic each listener captures, the sockets, and the number of accept loops.

use std::{
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicUsize, Ordering},
};

use foldhash::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::sys::{probe, shared_socket::Shared};

/// The kind of traffic a listener captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ListenerKind {
    /// Outbound connections, on port 15001.
    Outbound,
    /// HBONE tunnels from peers, on port 15008.
    Inbound,
    /// Inbound plaintext connections, on port 15006.
    Plaintext,
    /// Connections of the pod's SOCKS clients, on port 15080.
    Socks,
}

/// The number of accept loops of each listener. A listener that works has one accept loop on each shard.
#[derive(Debug, Default)]
pub(crate) struct AcceptLoops([AtomicUsize; 4]);

/// The listeners of a pod. The listeners outlive the actors that accept on them.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// The listening sockets.
    pub(crate) sockets: Mutex<HashMap<ListenerKind, Shared<TcpListener>>>,
    /// The number of accept loops.
    pub(crate) accept_loops: AcceptLoops,
}

/// The source address of the last canary connection of each address family, for the audit that waits for a canary.
#[derive(Debug)]
pub(crate) struct Canaries(watch::Sender<[Option<SocketAddr>; 2]>);

// === impl ListenerKind ===

impl ListenerKind {
    /// All kinds, in the order in which the listeners are bound.
    pub(crate) const ALL: [Self; 4] = [Self::Inbound, Self::Plaintext, Self::Outbound, Self::Socks];
    /// The kinds that each pod has: all but [`Self::Socks`].
    pub(crate) const CAPTURED: [Self; 3] = [Self::Inbound, Self::Plaintext, Self::Outbound];

    /// The port of the listener.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Outbound => 15001,
            Self::Inbound => 15008,
            Self::Plaintext => 15006,
            Self::Socks => 15080,
        }
    }

    /// The name of the listener's actor and tasks.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Plaintext => "plaintext",
            Self::Socks => "socks",
        }
    }

    /// Whether the clients are the pod's own, so that they are on this host.
    pub(crate) fn is_local(self) -> bool {
        matches!(self, Self::Outbound | Self::Socks)
    }

    /// The item of this kind among the items in the order of [`Self::ALL`].
    pub(crate) fn pick<T>(self, [inbound, plaintext, outbound, socks]: &[T; 4]) -> &T {
        match self {
            Self::Inbound => inbound,
            Self::Plaintext => plaintext,
            Self::Outbound => outbound,
            Self::Socks => socks,
        }
    }
}

// === impl AcceptLoops ===

impl AcceptLoops {
    /// The number of accept loops of this kind.
    pub(crate) fn count(&self, kind: ListenerKind) -> usize {
        kind.pick(&self.0).load(Ordering::Acquire)
    }

    /// Counts an accept loop of this kind that begins.
    pub(crate) fn begin(&self, kind: ListenerKind) {
        kind.pick(&self.0).fetch_add(1, Ordering::Relaxed);
    }

    /// Uncounts an accept loop of this kind that has ended. A reader that sees the new count also sees each connection
    /// of the loop as arriving, or in the set where the connection arrived.
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
    /// Whether a connection captured on 15001 is a canary of this proxy, or of another proxy that serves the pod too.
    /// The caller must drop a canary without a report.
    pub(crate) fn recognizes(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let is_canary = to == probe::target(to.is_ipv6());
        if is_canary {
            self.arrived(from);
        }
        is_canary
    }

    /// Notes that a canary has come from this address.
    pub(crate) fn arrived(&self, from: SocketAddr) {
        self.0.send_modify(|[v4, v6]| *if from.is_ipv4() { v4 } else { v6 } = Some(from));
    }

    /// Waits for the canary from the port of `from`. The canary's address may have been translated on the way.
    pub(crate) async fn arrival(&self, from: SocketAddr) {
        let came = |[v4, v6]: &[Option<SocketAddr>; 2]| {
            let last = if from.is_ipv4() { v4 } else { v6 };
            last.is_some_and(|last| last.port() == from.port())
        };
        // The wait cannot fail, as `self` holds the sender.
        let _ = self.0.subscribe().wait_for(came).await;
    }
}

#[cfg(test)]
mod tests;

//! The listeners of a pod: which traffic each captures, and how many accept loops serve it.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Which traffic a listener captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// 15001.
    Outbound,
    /// 15008.
    Inbound,
    /// 15006.
    Plaintext,
}

/// How many accept loops each listener has: one a shard, if all is well.
#[derive(Debug, Default)]
pub struct AcceptLoops([AtomicUsize; 3]);

// === impl Kind ===

impl ListenerKind {
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

    /// What belongs to it of something there is of each, in the order of [`Self::ALL`].
    pub fn pick<T>(self, [inbound, plaintext, outbound]: &[T; 3]) -> &T {
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
    pub fn count(&self, kind: ListenerKind) -> usize {
        kind.pick(&self.0).load(Ordering::Acquire)
    }

    /// A loop of this kind begins.
    pub fn begin(&self, kind: ListenerKind) {
        kind.pick(&self.0).fetch_add(1, Ordering::Relaxed);
    }

    /// A loop of this kind has ended. Whoever sees that it has ended sees what it accepted as arriving, or where that
    /// has arrived.
    pub fn end(&self, kind: ListenerKind) {
        kind.pick(&self.0).fetch_sub(1, Ordering::Release);
    }
}

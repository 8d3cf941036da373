//! Next hops that lately did not answer.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Next hops that lately did not answer: another endpoint of the service is tried before them. Bounded; the oldest
/// suspicion goes first.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    /// Whether there may be any: nearly always not, and then no connection takes the lock.
    any: AtomicBool,
    list: Mutex<VecDeque<(SocketAddr, Instant)>>,
}

/// Suspected next hops at a time.
/// Limit: suspected next hops: 256; past it: the oldest suspicion goes.
const MAX_SUSPECTS: usize = 256;
/// How long a suspicion lasts.
/// Limit: suspicion of a next hop: 10 s; past it: the next hop is tried again.
const SUSPECTED_FOR: Duration = Duration::from_secs(10);

// === impl Suspects ===

impl Suspects {
    /// Those suspected now.
    pub(crate) fn now(&self) -> Vec<SocketAddr> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut list = self.list.lock();
        while list.front().is_some_and(|(_, since)| since.elapsed() > SUSPECTED_FOR) {
            list.pop_front();
        }
        self.any.store(!list.is_empty(), Ordering::Relaxed);
        list.iter().map(|(addr, _)| *addr).collect()
    }

    /// Suspects `addr` from now on.
    pub(crate) fn add(&self, addr: SocketAddr) {
        let mut list = self.list.lock();
        list.retain(|(suspect, _)| *suspect != addr);
        if list.len() >= MAX_SUSPECTS {
            list.pop_front();
        }
        list.push_back((addr, Instant::now()));
        self.any.store(true, Ordering::Relaxed);
    }
}

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
/// is forgotten first.
#[derive(Debug, Default)]
pub(crate) struct UnhealthyEndpoints {
    /// Whether there may be any: nearly always not, and then no connection takes the lock.
    any: AtomicBool,
    list: Mutex<VecDeque<(SocketAddr, Instant)>>,
}

/// Next hops that are remembered as unhealthy at a time.
/// Limit: unhealthy next hops: 256; past it: the oldest is forgotten.
const MAX_UNHEALTHY_ENDPOINTS: usize = 256;
/// How long a next hop is passed over.
/// Limit: an unhealthy next hop: 10 s; past it: the next hop is tried again.
const ENDPOINT_UNHEALTHY_FOR: Duration = Duration::from_secs(10);

// === impl UnhealthyEndpoints ===

impl UnhealthyEndpoints {
    /// Those that are unhealthy now.
    pub(crate) fn now(&self) -> Vec<SocketAddr> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut list = self.list.lock();
        while list.front().is_some_and(|(_, since)| since.elapsed() > ENDPOINT_UNHEALTHY_FOR) {
            list.pop_front();
        }
        self.any.store(!list.is_empty(), Ordering::Relaxed);
        list.iter().map(|(addr, _)| *addr).collect()
    }

    /// UnhealthyEndpoints `addr` from now on.
    pub(crate) fn add(&self, addr: SocketAddr) {
        let mut list = self.list.lock();
        list.retain(|(known, _)| *known != addr);
        if list.len() >= MAX_UNHEALTHY_ENDPOINTS {
            list.pop_front();
        }
        list.push_back((addr, Instant::now()));
        self.any.store(true, Ordering::Relaxed);
    }
}

//! The list of next hops that lately did not answer.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The next hops that lately did not answer. Other endpoints of a service are tried before an unhealthy next hop. The
/// list is bounded and drops the oldest entry first.
#[derive(Debug, Default)]
pub(crate) struct UnhealthyEndpoints {
    /// Whether the list may have entries. Connections take the lock only if the flag is set, which is rare.
    any: AtomicBool,
    list: Mutex<VecDeque<(SocketAddr, Instant)>>,
}

/// The number of next hops that are remembered as unhealthy.
/// Limit: unhealthy next hops: 256; past it: the oldest is forgotten.
const MAX_UNHEALTHY_ENDPOINTS: usize = 256;
/// How long a next hop counts as unhealthy.
/// Limit: an unhealthy next hop: 10 s; past it: the next hop is tried again.
const ENDPOINT_UNHEALTHY_FOR: Duration = Duration::from_secs(10);

// === impl UnhealthyEndpoints ===

impl UnhealthyEndpoints {
    /// The next hops that are unhealthy now.
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

    /// Marks `addr` as unhealthy from now on.
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

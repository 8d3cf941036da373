//! Tunnels to peers on the shards: the tunnel pool of a pod, and the tasks that dial and drive tunnels.

pub(crate) mod dial;
pub(crate) mod dialer;
pub(crate) mod pool;

use std::time::Instant;

/// The time, for the drivers of tunnels.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

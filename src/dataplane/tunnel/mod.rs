//! Tunnels to peers on the shards: the tunnel pool of a pod, the tasks that dial and drive
//! tunnels, and tunnels inside tunnels.

pub(crate) mod dial;
pub(crate) mod dialer;
pub(crate) mod inner;
pub(crate) mod keepalive;
pub(crate) mod pool;

use std::time::Instant;

/// The time, for the drivers of tunnels.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

//! Tunnels to peers on the shards: the tunnel pool of a pod, the tasks that dial and drive
//! tunnels, tunnels inside tunnels, and tunnels that move to another process.

pub(crate) mod dial;
pub(crate) mod dialer;
pub(crate) mod inner;
pub(crate) mod keepalive;
pub(crate) mod movable;
pub(crate) mod pool;
pub(crate) mod streams;

use std::time::Instant;

use super::config::DataPlaneConfig;
use crate::{protocols::hbone::windows::Windows, runtime::shard::Shard};

/// The time, for the drivers of tunnels.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The windows of a new tunnel of `shard`.
pub(crate) fn windows(config: &DataPlaneConfig, shard: &Shard) -> Windows {
    Windows::new(config.buffers.of(shard.index()), &config.tunnel.http2, now)
}

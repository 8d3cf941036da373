//! The metrics of shards: connections, tunnels and processor time. They are read for each scrape.

use std::sync::atomic::Ordering::Relaxed;

use super::series::{
    Computed, MetricsError,
    declared::{SHARD_CONNECTIONS, SHARD_SECONDS, SHARD_TAKEN, SHARD_TUNNELS},
};
use crate::runtime::shard::Shards;

/// The connections, tunnels and processor time of each of the `shards`.
///
/// # Errors
/// A name is not valid, which is a mistake in the declarations.
pub(crate) fn of_shards(shards: Shards) -> Result<Computed, MetricsError> {
    let families = &[SHARD_CONNECTIONS, SHARD_TUNNELS, SHARD_TAKEN, SHARD_SECONDS];
    Computed::new(families, move |readings| {
        for (index, load) in shards.loads().enumerate() {
            let shard = index.to_string();
            let shard = &[shard.as_str()];
            readings.put(SHARD_CONNECTIONS, shard, load.conns.load(Relaxed) as f64);
            readings.put(SHARD_TUNNELS, shard, load.tunnels.load(Relaxed) as f64);
            readings.put(SHARD_TAKEN, shard, load.placed.load(Relaxed) as f64);
            readings.put(SHARD_SECONDS, shard, shards.balance().used(index).as_secs_f64());
        }
    })
}

//! Shards: threads that run connections, and what decides which connection runs where and when.

pub(crate) mod balancer;
pub(crate) mod conns;
pub(crate) mod fair_queue;
pub mod shard;
pub(crate) mod spawner;

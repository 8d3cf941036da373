//! Shards: threads that run connections, and what decides which connection runs where and when.

pub mod balancer;
pub mod conns;
pub mod fair_queue;
pub mod shard;
pub mod spawner;

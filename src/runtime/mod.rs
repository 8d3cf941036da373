//! Shards are threads that run connections. The balancer chooses the shard of a connection, and fair queues order the
//! turns of connections. Handshakes have turns of their own.

pub(crate) mod balancer;
mod busy;
pub(crate) mod conns;
pub(crate) mod fair_queue;
pub mod shard;
pub(crate) mod spawner;
pub(crate) mod sync;
pub(crate) mod turns;

//! Tunnels to peers, as the shards see them: the pool of a pod, and how a tunnel is dialled and driven.

pub(crate) mod dial;
pub(crate) mod dialer;
pub(crate) mod pool;

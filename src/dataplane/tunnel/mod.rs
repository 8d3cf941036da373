//! Tunnels to peers on the shards: the tunnel pool of a pod, and the tasks that dial and drive tunnels.

pub(crate) mod dial;
pub(crate) mod dialer;
pub(crate) mod pool;

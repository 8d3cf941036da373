//! A connection that a listener of a pod has accepted, on the shard that serves it.

use std::{net::SocketAddr, sync::Arc};

use super::pod::conns::Arriving;
use crate::runtime::shard::Shard;

/// An accepted connection and the shard that serves it. `C` is the context of the listener's kind, `S` the stream.
pub(crate) struct Accepted<C, S> {
    /// The context of the listener's kind.
    pub(crate) ctx: Arc<C>,
    /// The mark that makes a drain wait until the connection is in one of the pod's sets.
    pub(crate) arriving: Arriving,
    /// The shard that serves the connection.
    pub(crate) shard: Shard,
    /// The connection.
    pub(crate) stream: S,
    /// The address of the client, as the accept returned it.
    pub(crate) peer: SocketAddr,
}

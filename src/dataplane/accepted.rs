//! A connection that a listener of a pod has accepted, on the shard that serves it.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
};

use tokio::sync::watch;

use super::pod::conns::Arriving;
use crate::{runtime::shard::Shard, sys::shared_socket::Watched};

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

/// Accepts the next connection of `listener`. While the pod drains, `None` says that the kernel has no connection left.
///
/// # Errors
/// The inner error is that of accept(2).
pub(crate) async fn next(
    listener: &Watched<TcpListener>,
    draining: &mut watch::Receiver<bool>,
) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    loop {
        let last = *draining.borrow();
        tokio::select! {
            biased;
            accepted = listener.accept() => return Some(accepted),
            told = draining.wait_for(|draining| *draining) => if last || told.is_err() {
                return None;
            },
        }
    }
}

//! The resolver for next hops that have only a name.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    time::Duration,
};

use tokio::time::timeout;

use crate::{protocols::addr::canonical, sys::netns::NetNs};

/// Asks the system's resolver in the proxy's own network namespace.
#[derive(Debug)]
pub(crate) struct Resolver {
    home: NetNs,
}

// === impl Resolver ===

impl Resolver {
    /// A resolver in the namespace `home`.
    pub(crate) fn new(home: NetNs) -> Self {
        Self { home }
    }

    /// The addresses of `host`, with `port`. If the preferred family has addresses, only these addresses are returned.
    /// The result is empty if no answer comes within `within`.
    pub(crate) async fn find(
        &self,
        host: &str,
        port: u16,
        prefer_v6: bool,
        within: Duration,
    ) -> Vec<SocketAddr> {
        let asked = host.to_owned();
        // A thread of the resolver inherits the namespace of its parent thread, here the proxy's own namespace.
        #[allow(clippy::disallowed_methods, reason = "awaited right here, and the resolver bounds itself")]
        let looking = self.home.enter_sticky(move || {
            tokio::task::spawn_blocking(move || (&*asked, port).to_socket_addrs().map(Vec::from_iter))
        });
        let Ok(looking) = looking else { return Vec::new() };
        let Ok(Ok(Ok(addrs))) = timeout(within, looking).await else { return Vec::new() };
        let mut addrs: Vec<SocketAddr> = addrs.into_iter().map(canonical).collect();
        if addrs.iter().any(|addr| addr.is_ipv6() == prefer_v6) {
            addrs.retain(|addr| addr.is_ipv6() == prefer_v6);
        }
        addrs
    }
}

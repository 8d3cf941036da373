//! Local hops as far as revocation lists concern them.

use super::pod::conns::{ConnInfo, cut};
use crate::{protocols::tls::PeerChain, runtime::conns::Conn};

/// A local hop whose pods' certificates a revocation list may name.
pub(crate) struct TrackedHop {
    /// The client's certificates and the server's.
    chains: [Box<PeerChain>; 2],
    /// The destination's half. A cut of it ends both.
    conn: Conn<ConnInfo>,
}

// === impl TrackedHop ===

impl TrackedHop {
    /// A hop between the holders of these chains, the client's and the server's. `conn` is the destination's half.
    pub(crate) fn new(chains: [Box<PeerChain>; 2], conn: &Conn<ConnInfo>) -> Self {
        Self { chains, conn: conn.clone() }
    }

    /// Whether the lists in force revoke a certificate of either side.
    pub(crate) fn is_revoked(&self) -> bool {
        self.chains.iter().any(|chain| chain.is_revoked())
    }

    /// Cuts the hop because a certificate is revoked.
    pub(crate) fn cut(&self) {
        self.conn.cut(cut::REVOKED);
    }
}

//! The data paths through the node that is broken.

use serde::{Deserialize, Serialize};

/// A data path through node one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Flow {
    /// Outbound, through the client's tunnel to server-1.
    First,
    /// Outbound, through its tunnel to server-2.
    Second,
    /// Inbound, through a peer's tunnel.
    Inbound,
    /// Inbound, in plaintext.
    Plaintext,
}

// === impl Flow ===

impl Flow {
    /// All flows.
    pub(super) const ALL: [Self; 4] = [Self::First, Self::Second, Self::Inbound, Self::Plaintext];

    /// The pods that the flow goes from and to.
    pub(super) fn ends(self) -> (&'static str, &'static str) {
        match self {
            Self::First => ("client", "server-1"),
            Self::Second => ("client", "server-2"),
            Self::Inbound => ("server-1", "near"),
            Self::Plaintext => ("bare", "near"),
        }
    }
}

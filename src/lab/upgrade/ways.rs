//! The ways of streams through the two proxies, one for each kind of connection that moves.

use std::fmt;

/// A node whose proxy is upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    One,
    Two,
}

/// A way from a client to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// The client's pod.
    pub(super) from: &'static str,
    /// The server's pod.
    pub(super) to: &'static str,
    /// The nodes whose proxies carry the way.
    pub(super) places: &'static [Place],
}

/// All ways.
pub(super) const WAYS: [Way; 8] = [
    // Through a tunnel: one proxy has the client's side, and the other one the server's.
    Way { from: "client-1", to: "server-2", places: &[Place::One, Place::Two] },
    Way { from: "client-2", to: "server-1", places: &[Place::One, Place::Two] },
    // In plaintext to a pod.
    Way { from: "bare", to: "server-1", places: &[Place::One] },
    Way { from: "bare", to: "server-2", places: &[Place::Two] },
    // A pod's connection that no tunnel carries.
    Way { from: "client-1", to: "bare", places: &[Place::One] },
    Way { from: "client-2", to: "bare", places: &[Place::Two] },
    // Two pods of a node.
    Way { from: "client-1", to: "server-1", places: &[Place::One] },
    Way { from: "client-2", to: "server-2", places: &[Place::Two] },
];

/// The pods with servers.
pub(super) const SERVERS: [&str; 3] = ["server-1", "server-2", "bare"];

// === impl Place ===

impl Place {
    /// Both nodes.
    pub(super) const BOTH: [Self; 2] = [Self::One, Self::Two];

    /// The name of the node.
    pub(super) fn node(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Two => "two",
        }
    }

    /// The networks in which the node's proxies run in turn.
    pub(super) fn networks(self) -> [&'static str; 3] {
        match self {
            Self::One => ["one", "spare-one", "third-one"],
            Self::Two => ["two", "spare-two", "third-two"],
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.node())
    }
}

// === impl Way ===

impl Way {
    /// Whether the proxy of this node carries the way.
    pub(super) fn is_through(self, place: Place) -> bool {
        self.places.contains(&place)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from, self.to)
    }
}

//! The types of resources that this proxy asks for.

use std::fmt;

/// A type of resource this proxy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Workloads and services.
    Address,
    /// Authorization policies.
    Authorization,
}

// === impl Kind ===

impl Kind {
    /// In the order they are asked for.
    pub const ALL: [Kind; 2] = [Kind::Address, Kind::Authorization];

    /// The type URL on the wire.
    pub fn type_url(self) -> &'static str {
        match self {
            Kind::Address => "type.googleapis.com/istio.workload.Address",
            Kind::Authorization => "type.googleapis.com/istio.security.Authorization",
        }
    }

    /// The kind with this type URL.
    pub fn of(type_url: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.type_url() == type_url)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Address => "Address",
            Kind::Authorization => "Authorization",
        })
    }
}

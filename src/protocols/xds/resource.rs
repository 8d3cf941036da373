//! The types of resources that this proxy asks for.

use std::fmt;

/// A type of resource this proxy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ResourceType {
    /// Workloads and services.
    Address,
    /// Authorization policies.
    Authorization,
}

// === impl ResourceType ===

impl ResourceType {
    /// All types, in the order in which they are asked for.
    pub(crate) const ALL: [ResourceType; 2] = [ResourceType::Address, ResourceType::Authorization];

    /// The type URL on the wire.
    pub(crate) fn type_url(self) -> &'static str {
        match self {
            ResourceType::Address => "type.googleapis.com/istio.workload.Address",
            ResourceType::Authorization => "type.googleapis.com/istio.security.Authorization",
        }
    }

    /// The kind with this type URL.
    pub(crate) fn of(type_url: &str) -> Option<ResourceType> {
        ResourceType::ALL.into_iter().find(|k| k.type_url() == type_url)
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResourceType::Address => "Address",
            ResourceType::Authorization => "Authorization",
        })
    }
}

//! Routing of connections, by pure functions of the mesh, the source and the original destination
//! (docs/spec/dataplane.md 3 and 4).

mod balance;
mod error;
pub(crate) mod failover;
mod hop;
mod inbound;
mod local;
mod missing;
mod outbound;
mod ports;
mod recorder;
mod request;
pub(crate) mod suspects;
#[cfg(test)]
mod tests;
mod waypoint;

pub(crate) use self::missing::{missing_inbound, missing_labels, missing_outbound};
pub use self::{
    error::RouteError,
    hop::{HBONE_PORT, Hop, Route, Sans, Upstream},
    inbound::{Inbound, InboundError, InboundHbone, inbound_hbone, inbound_plaintext, inbound_service},
    local::{is_at_destination, is_between_pods},
    outbound::{asked_service, outbound},
    ports::check_outbound,
    recorder::{Examined, Fact, PassedOver, RouteRecorder},
    request::{Pick, Source},
    suspects::{Finding, Suspicion},
};

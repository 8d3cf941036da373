//! Delta discovery: the requests, the held resources, the quarantine and the reconnect delays
//! (docs/spec/controlplane.md 2).

pub(crate) mod backoff;
pub(crate) mod delta;
mod demand;
mod held;
pub(crate) mod node;
mod quarantined;
mod resource;
mod sink;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    demand::{DemandError, Demanded},
    held::XdsState,
    resource::ResourceType,
    sink::{Later, Rejected, Sink, SinkDown},
};

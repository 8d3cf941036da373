//! Delta discovery: what to ask, what to answer, what is held, when to try again
//! (docs/spec/controlplane.md 2).

pub(crate) mod backoff;
pub(crate) mod delta;
mod held;
pub(crate) mod node;
mod quarantined;
mod resource;
mod sink;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    held::{DemandError, XdsState},
    resource::ResourceType,
    sink::{Later, Rejected, Sink, SinkDown},
};

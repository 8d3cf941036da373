//! Delta discovery: what to ask, what to answer, what is held, when to try again
//! (docs/spec/controlplane.md 2).

pub mod backoff;
pub mod delta;
mod held;
pub mod node;
mod quarantined;
mod resource;
mod sink;
#[cfg(test)]
mod tests;

pub use self::{
    held::{DemandError, XdsState},
    resource::ResourceType,
    sink::{Later, Rejected, Sink, SinkDown},
};

//! The discovery stream: keeps one open to the control plane, applies what comes, and answers it.
//!
//! [`Xds`] outlives every start of its actor: status, and what the tables hold, are in it. A dead control plane is a
//! state, shown in [`XdsStatus`]; the actor fails only when the stream's task panics.

mod actor;
mod client;
#[cfg(test)]
#[cfg(feature = "lab")]
mod plane;
mod stream;
#[cfg(test)]
#[cfg(feature = "lab")]
mod tests;

pub(crate) use self::client::{Bounds, Xds, XdsMetrics, XdsSettings, XdsStatus};

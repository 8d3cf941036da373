//! The client of the discovery stream keeps one stream to the control plane open. The client applies and answers each
//! response.
//!
//! [`Xds`] outlives every start of its actor and holds the status and the versions of the applied resources. A dead
//! control plane is a state, which [`XdsStatus`] shows. The actor fails only when the stream's task panics.

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

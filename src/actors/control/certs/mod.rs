//! Certificates of the workloads on this node: fetched when a connection needs them, renewed in time, kept while
//! the authority is away (docs/spec/controlplane.md 3). Connections read them without asking anybody.

mod actor;
mod handle;
pub(super) mod issuer;
mod shared;
mod store;

pub(crate) use self::{handle::Certs, issuer::CaIssuer, shared::CertsConfig};

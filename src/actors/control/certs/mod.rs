//! Certificates of the workloads on this node (docs/spec/controlplane.md 3). A certificate is fetched when a
//! connection needs it, renewed in time, and kept while the authority is away. Connections read certificates from a
//! table.

mod actor;
#[cfg(feature = "lab")]
mod fake;
mod handle;
pub(super) mod issuer;
mod lacking;
mod shared;
mod store;

#[cfg(feature = "lab")]
pub(crate) use self::fake::FakeIssuer;
pub(crate) use self::{
    handle::{CertStatus, Certs},
    issuer::{CaIssuer, Issuer},
    shared::CertsConfig,
};

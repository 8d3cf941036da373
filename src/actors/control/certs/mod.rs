//! Certificates of the workloads on this node: fetched when a connection needs them, renewed in time, kept while
//! the authority is away (docs/spec/controlplane.md 3). Connections read them without asking anybody.

mod actor;
mod handle;
mod issuer;
mod shared;
mod store;

pub use self::{
    handle::Certs,
    issuer::{CaIssuer, Issuer, Issuing},
    shared::{CertsConfig, REQUEST_TIMEOUT, WAITERS_MAX},
    store::{CertSnapshot, CertState},
};

//! TLS of workloads (docs/spec/dataplane.md 2.1). The modules verify peers and build the rustls configurations once for
//! each certificate. rustls makes the handshakes, and this crate seals and opens records in its own buffers.

pub(crate) mod aead;
#[cfg(any(feature = "lab", test, fuzzing))]
pub(crate) mod any_server;
pub mod buffer;
mod cert;
mod client;
mod fault;
pub mod handshake;
pub(crate) mod keys;
mod options;
mod peer_chain;
pub(crate) mod record;
mod revocation;
mod server;
pub(crate) mod session;
pub mod stream;
mod verify;

#[cfg(any(test, fuzzing))]
pub(crate) mod test_ca;
#[cfg(test)]
mod tests;

pub use cert::{CertificateError, WorkloadCert};
pub use fault::{PeerFault, TlsFault};
pub use options::ALPN_H2;
pub use peer_chain::PeerChain;
pub use revocation::{RevocationError, RevocationLists, Revocations};

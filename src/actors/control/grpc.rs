//! gRPC over TLS to the control plane, which the discovery stream and the certificate authority client share
//! (docs/spec/controlplane.md 2.1 and 3.1).

mod channel;
mod connector;
mod error;
mod file;
mod headers;
#[cfg(test)]
pub(crate) mod peer;
mod target;
#[cfg(test)]
mod tests;
mod tls;

pub(crate) use self::{
    channel::{MAX_RESPONSE_BYTES, cause, connect, http1, lazily},
    error::GrpcError,
    headers::AuthHeaders,
    target::GrpcTarget,
};

//! The certificates of this node's workloads, which an actor renews for the data plane.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use crate::protocols::{ca::CertError, identity::Identity, tls::WorkloadCert};

/// The future of a certificate.
pub(crate) type Held<'a> = Pin<Box<dyn Future<Output = Result<Arc<WorkloadCert>, CertError>> + Send + 'a>>;

/// Holds the certificates of this node's workloads.
pub(crate) trait Certificates: Send + Sync {
    /// The certificate of `id`, if a valid certificate is held.
    fn current(&self, id: &Identity) -> Option<Arc<WorkloadCert>>;

    /// The certificate of `id`. If none is held, the certificate is requested and awaited for at most `within`.
    fn hold<'a>(&'a self, id: &'a Identity, within: Duration) -> Held<'a>;
}

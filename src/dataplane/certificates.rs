//! The certificates of this node's workloads: what the data plane needs of the actor that renews them.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use crate::protocols::{ca::CertError, identity::Identity, tls::WorkloadCert};

/// The future of a certificate that is waited for.
pub(crate) type Held<'a> = Pin<Box<dyn Future<Output = Result<Arc<WorkloadCert>, CertError>> + Send + 'a>>;

/// Holds the certificates of this node's workloads.
pub(crate) trait Certificates: Send + Sync {
    /// The certificate of `id`, if there is a valid one.
    fn current(&self, id: &Identity) -> Option<Arc<WorkloadCert>>;

    /// The certificate of `id`, asked for and waited for at most `within` if there is none.
    fn hold<'a>(&'a self, id: &'a Identity, within: Duration) -> Held<'a>;
}

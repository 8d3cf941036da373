//! SPIFFE identities of workloads (docs/spec/dataplane.md 2.1).

use std::{fmt, str::FromStr, sync::Arc};

use super::peer_text::{DNS_NAME_MAX_BYTES, LABEL_MAX_BYTES, PeerText};

const SCHEME: &str = "spiffe://";
/// The longest trust domain, by the SPIFFE standard.
/// Limit: a trust domain: 255 bytes; past it: no identity.
const TRUST_DOMAIN_MAX_BYTES: usize = 255;

/// A workload's identity: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Cloning copies a reference. Equality and hashing are those of the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The whole URI.
    uri: Arc<str>,
    /// The end of the trust domain in bytes. The ends of trust domain and namespace give the ranges of all three parts.
    trust_domain_end: u16,
    namespace_end: u16,
}

/// Why a URI is not a workload identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
pub struct IdentityError(pub PeerText);

impl Identity {
    /// The identity of a service account.
    ///
    /// # Errors
    /// A part is empty, holds a `/`, or is longer than its kind may be: 255 bytes for the trust domain, 63 for the
    /// namespace and 253 for the service account.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The URI without its scheme, as policies compare it.
    pub fn principal(&self) -> &str {
        self.uri.get(SCHEME.len()..).unwrap_or_default()
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        self.uri.get(SCHEME.len()..usize::from(self.trust_domain_end)).unwrap_or_default()
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        self.uri
            .get(usize::from(self.trust_domain_end) + "/ns/".len()..usize::from(self.namespace_end))
            .unwrap_or_default()
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        self.uri.get(usize::from(self.namespace_end) + "/sa/".len()..).unwrap_or_default()
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let bad = || IdentityError(uri.into());
        let rest = uri.strip_prefix(SCHEME).ok_or_else(bad)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [trust_domain, "ns", namespace, "sa", service_account] = parts.as_slice() else {
            return Err(bad());
        };
        let fits = |part: &str, most: usize| (1..=most).contains(&part.len());
        if !fits(trust_domain, TRUST_DOMAIN_MAX_BYTES)
            || !fits(namespace, LABEL_MAX_BYTES)
            || !fits(service_account, DNS_NAME_MAX_BYTES)
        {
            return Err(bad());
        }
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        let namespace_end = trust_domain_end + "/ns/".len() + namespace.len();
        Ok(Self {
            uri: uri.into(),
            trust_domain_end: u16::try_from(trust_domain_end).map_err(|_| bad())?,
            namespace_end: u16::try_from(namespace_end).map_err(|_| bad())?,
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

#[cfg(test)]
mod tests;

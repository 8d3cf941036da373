//! The certificate authority of `FAKE_CA=true`, for tests only (docs/spec/controlplane.md 3.3).

use std::time::{Duration, SystemTime};

use super::issuer::{Issuer, Issuing};
use crate::protocols::{ca::IssueError, ca::fake, identity::Identity};

/// Signs for every identity, with a key that everybody knows.
pub(crate) struct FakeIssuer;

impl Issuer for FakeIssuer {
    fn issue<'a>(&'a self, identity: &'a Identity, csr_pem: String, ttl: Duration) -> Issuing<'a> {
        let signed = fake::sign(identity, &csr_pem, SystemTime::now(), ttl);
        Box::pin(std::future::ready(signed.map_err(|error| IssueError::PeerCertificate(error.to_string()))))
    }
}

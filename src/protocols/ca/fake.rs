//! A certificate authority for tests, whose key everybody knows (docs/spec/controlplane.md 3.3).
//!
//! The key is the same in each process, so that proxies without a control plane trust each other. Whoever has this
//! source can sign for every identity.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName,
    DnType, Error, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use crate::protocols::identity::Identity;

const ROOT_KEY: &str = include_str!("fake/root-key.pem");
/// How long the root is valid before and after the time at which it is made.
/// No limit: longer than any test.
const ROOT_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How far certificates are dated back, to allow for clocks that differ.
/// No limit: as real authorities do it.
const BACKDATE: Duration = Duration::from_secs(120);

/// Signs `csr` for `identity` at `now`, valid for `ttl`. The answer is the leaf and the root, in PEM.
///
/// # Errors
/// The request is none, or the identity fits into no certificate.
pub(crate) fn sign(
    identity: &Identity,
    csr: &str,
    now: SystemTime,
    ttl: Duration,
) -> Result<Vec<String>, Error> {
    let root = root(now)?;
    let mut request = CertificateSigningRequestParams::from_pem(csr)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (now - (ttl / 10).min(BACKDATE)).into();
    params.not_after = (now + ttl).into();
    request.params = params;
    let leaf = request.signed_by(&root)?;
    Ok(vec![leaf.pem(), root.pem()])
}

fn root(now: SystemTime) -> Result<CertifiedIssuer<'static, KeyPair>, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "warren FAKE_CA, for tests only");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = ((now - ROOT_LIFE).into(), (now + ROOT_LIFE).into());
    CertifiedIssuer::self_signed(params, KeyPair::from_pem(ROOT_KEY)?)
}

#[cfg(test)]
mod tests;

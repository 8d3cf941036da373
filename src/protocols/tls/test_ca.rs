//! An authority for tests: a root, perhaps intermediates, and leaves with any names.
#![cfg_attr(fuzzing, allow(dead_code, reason = "the fuzzer uses a part"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "made for tests, which the linter does not see where the fuzzer uses it too"
)]

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList, CertificateRevocationListParams,
    CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::PrivateKeyDer;

use super::{Revocations, WorkloadCert};
use crate::protocols::{ca::chain::Chain, config::TlsConfig, identity::Identity};

/// An authority.
pub(crate) struct TestCa {
    root_pem: String,
    intermediate_pems: Vec<String>,
    /// The signers, from the root down. The last one signs leaves.
    issuers: Vec<Issuer<'static, KeyPair>>,
    lifetime: (SystemTime, SystemTime),
    usages: Vec<ExtendedKeyUsagePurpose>,
    key_usages: Vec<KeyUsagePurpose>,
}

/// A leaf with its key.
pub(crate) struct Issued {
    pub(crate) leaf_pem: String,
    intermediate_pems: Vec<String>,
    root_pem: String,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Whole seconds, as certificates have them.
pub(crate) fn seconds_from_now(seconds: i64) -> SystemTime {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(now.checked_add_signed(seconds).unwrap())
}

// === impl TestCa ===

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name);
        let root_pem = params.self_signed(&key).unwrap().pem();
        let lifetime = (seconds_from_now(-120), seconds_from_now(86_400));
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let issuers = vec![Issuer::new(params, key)];
        Self { root_pem, intermediate_pems: vec![], issuers, lifetime, usages, key_usages }
    }

    /// From here on leaves are signed by an intermediate below whatever signed them before.
    pub(crate) fn with_intermediate(mut self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params(name);
        // The first intermediate below the root has serial 1001.
        params.serial_number = Some(SerialNumber::from(1000 + self.issuers.len() as u64));
        self.intermediate_pems.insert(0, params.signed_by(&key, self.issuer()).unwrap().pem());
        self.issuers.push(Issuer::new(params, key));
        self
    }

    pub(crate) fn with_lifetime(mut self, not_before: SystemTime, not_after: SystemTime) -> Self {
        self.lifetime = (not_before, not_after);
        self
    }

    pub(crate) fn with_usages(mut self, usages: Vec<ExtendedKeyUsagePurpose>) -> Self {
        self.usages = usages;
        self
    }

    pub(crate) fn with_key_usages(mut self, key_usages: Vec<KeyUsagePurpose>) -> Self {
        self.key_usages = key_usages;
        self
    }

    pub(crate) fn root_pem(&self) -> String {
        self.root_pem.clone()
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        self.issuers.last().unwrap()
    }

    pub(crate) fn issue(&self, identity: &Identity) -> Issued {
        self.issue_names(&[identity.as_str()])
    }

    pub(crate) fn issue_names(&self, uris: &[&str]) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = uris.iter().map(|u| SanType::URI((*u).try_into().unwrap())).collect();
        self.issue_params(params)
    }

    pub(crate) fn issue_params(&self, mut params: CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        self.dress(&mut params);
        let leaf_pem = params.signed_by(&key, self.issuer()).unwrap().pem();
        let (not_before, not_after) = self.lifetime;
        Issued {
            leaf_pem,
            intermediate_pems: self.intermediate_pems.clone(),
            root_pem: self.root_pem.clone(),
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            not_before,
            not_after,
        }
    }

    /// Signs a request as an authority does: the whole answer.
    pub(crate) fn answer(&self, csr_pem: &str) -> Vec<String> {
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        self.dress(&mut csr.params);
        let leaf = csr.signed_by(self.issuer()).unwrap().pem();
        [vec![leaf], self.intermediate_pems.clone(), vec![self.root_pem.clone()]].concat()
    }

    pub(crate) fn issue_numbered(&self, identity: &Identity, serial: u64) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().unwrap())];
        params.serial_number = Some(SerialNumber::from(serial));
        self.issue_params(params)
    }

    /// An old list of the signer at `level`, where the root is 0, that revokes these serial numbers.
    pub(crate) fn list(&self, level: usize, serials: &[u64]) -> CertificateRevocationList {
        let params = CertificateRevocationListParams {
            this_update: seconds_from_now(-7_200).into(),
            next_update: seconds_from_now(-3_600).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: seconds_from_now(-7_200).into(),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuers[level]).unwrap()
    }

    pub(crate) fn workload(&self, identity: &Identity) -> WorkloadCert {
        self.issue(identity).workload(&TlsConfig::default())
    }

    fn dress(&self, params: &mut CertificateParams) {
        (params.not_before, params.not_after) = (self.lifetime.0.into(), self.lifetime.1.into());
        params.extended_key_usages.clone_from(&self.usages);
        params.key_usages.clone_from(&self.key_usages);
    }
}

// === impl Issued ===

impl Issued {
    pub(crate) fn chain_pems(&self) -> Vec<String> {
        [vec![self.leaf_pem.clone()], self.intermediate_pems.clone(), vec![self.root_pem.clone()]].concat()
    }

    /// The same leaf with other roots to verify peers against.
    pub(crate) fn trusting(mut self, roots: &[&TestCa]) -> Self {
        self.root_pem = roots.iter().map(|ca| ca.root_pem()).collect();
        self
    }

    pub(crate) fn workload(&self, tls: &TlsConfig) -> WorkloadCert {
        let chain = Chain::parse(&self.chain_pems(), None).unwrap();
        WorkloadCert::new(chain, &self.key, tls).unwrap()
    }

    /// A certificate whose owner refuses peers that are revoked.
    pub(crate) fn checking(&self, revocations: Arc<Revocations>) -> WorkloadCert {
        let chain = Chain::parse(&self.chain_pems(), None).unwrap();
        WorkloadCert::revocable(chain, &self.key, &TlsConfig::default(), Some(revocations)).unwrap()
    }
}

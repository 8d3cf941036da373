//! The lab's certificate authority (docs/spec/controlplane.md 3.1 and 3.2): a root, an optional intermediate,
//! certificates that live as short as a test needs, and ways to misbehave.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::protocols::pb::ca::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::IstioCertificateService,
};

const DAY: Duration = Duration::from_hours(24);
/// The life of the root and of the authority's own certificates, longer than any lab.
const CA_LIFE: Duration = Duration::from_hours(24 * 365);
/// How far certificates are dated back at most, to allow for clocks that differ.
const BACKDATE: Duration = Duration::from_mins(2);
/// The number of issued certificates that the authority remembers.
const ISSUED: usize = 65_536;

/// How certificates are made.
#[derive(Clone, Copy, Debug, Default)]
pub struct CaOptions {
    /// How long a certificate lives; `None` means the time that the request asks for.
    pub ttl: Option<Duration>,
    /// Whether leaves are signed by an intermediate instead of the root.
    pub intermediate: bool,
}

/// How the authority misbehaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CaFault {
    /// The authority behaves well.
    #[default]
    None,
    /// The authority answers, but only after this delay.
    Slow(Duration),
    /// The authority never answers.
    Mute,
    /// The authority refuses every request as `Unauthenticated`, with this text.
    Fail(String),
    /// The authority answers every request with text that is no certificate.
    Garbage,
}

/// A certificate that the authority has issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The SPIFFE id.
    pub identity: String,
    /// The serial number, as in a revocation list.
    pub serial: u64,
    /// The end of the certificate's validity.
    pub not_after: SystemTime,
}

/// The error of a request that was not signed.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The request is no CSR with a valid signature.
    #[error("the certificate request is not valid: {0}")]
    PeerRequest(rcgen::Error),
    /// Neither the request nor its metadata name an identity.
    #[error("the certificate request names no SPIFFE identity")]
    PeerNoIdentity,
    /// Signing failed.
    #[error("cannot sign: {0}")]
    Local(#[from] rcgen::Error),
}

/// The authority: its keys and the certificates signed with them.
pub struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: Option<CertifiedIssuer<'static, KeyPair>>,
    ttl: Option<Duration>,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    last_serial: u64,
    issued: Vec<Issued>,
}

/// The certificate service. A clone is cheap.
#[derive(Clone)]
pub(super) struct CertificateService {
    pub(super) authority: Arc<Authority>,
    pub(super) fault: watch::Receiver<CaFault>,
}

// === impl Authority ===

impl Authority {
    /// A new authority with new keys.
    ///
    /// # Errors
    /// Keys cannot be made.
    pub fn new(options: CaOptions) -> Result<Self, CaError> {
        let root = CertifiedIssuer::self_signed(authority_params("lab root"), KeyPair::generate()?)?;
        let intermediate = match options.intermediate {
            true => {
                let mut params = authority_params("lab intermediate");
                params.serial_number = Some(SerialNumber::from(1));
                Some(CertifiedIssuer::signed_by(params, KeyPair::generate()?, &root)?)
            }
            false => None,
        };
        Ok(Self {
            root,
            intermediate,
            ttl: options.ttl,
            log: Mutex::new(Log { last_serial: 1, issued: Vec::new() }),
        })
    }

    /// The root certificate, which clients trust.
    pub fn root_pem(&self) -> String {
        self.root.pem()
    }

    /// Signs a request for `identity`, or for the identity in the request if `identity` is `None`. The answer is the
    /// leaf, the intermediate if there is one, and the root.
    ///
    /// # Errors
    /// See [`CaError`].
    pub fn sign(&self, csr: &str, identity: Option<&str>, asked: Duration) -> Result<Vec<String>, CaError> {
        let mut request = CertificateSigningRequestParams::from_pem(csr).map_err(CaError::PeerRequest)?;
        let uri = |san: &SanType| match san {
            SanType::URI(uri) if uri.as_str().starts_with("spiffe://") => Some(uri.as_str().to_owned()),
            _ => None,
        };
        let identity = identity
            .map(str::to_owned)
            .or_else(|| request.params.subject_alt_names.iter().find_map(uri))
            .ok_or(CaError::PeerNoIdentity)?;
        let serial = self.next_serial();
        let life = self.ttl.unwrap_or(if asked.is_zero() { DAY } else { asked });
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            vec![SanType::URI(identity.as_str().try_into().map_err(CaError::PeerRequest)?)];
        leaf(&mut params, serial, life);
        let not_after = SystemTime::from(params.not_after);
        request.params = params;
        let leaf = match &self.intermediate {
            Some(intermediate) => request.signed_by(intermediate)?,
            None => request.signed_by(&self.root)?,
        };
        let mut log = self.log.lock();
        if log.issued.len() == ISSUED {
            log.issued.remove(0);
        }
        log.issued.push(Issued { identity, serial, not_after });
        let intermediate = self.intermediate.as_ref().map(|intermediate| intermediate.pem());
        Ok(std::iter::once(leaf.pem()).chain(intermediate).chain([self.root.pem()]).collect())
    }

    /// The certificate of the control plane itself, and its key.
    pub(super) fn server_certificate(
        &self,
        names: &[String],
        ips: &[IpAddr],
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CaError> {
        let (certificate, key) = self.certificate(names, ips)?;
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|_| CaError::Local(rcgen::Error::CouldNotParseKeyPair))?;
        Ok((vec![certificate.der().clone(), self.root.der().clone()], key))
    }

    /// A certificate, for servers and clients alike, and its key, both in PEM.
    ///
    /// # Errors
    /// Signing failed.
    pub fn pem_pair(&self, ips: &[IpAddr]) -> Result<(String, String), CaError> {
        let (certificate, key) = self.certificate(&[], ips)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn certificate(&self, names: &[String], ips: &[IpAddr]) -> Result<(Certificate, KeyPair), CaError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(ips.iter().copied().map(SanType::IpAddress));
        leaf(&mut params, self.next_serial(), CA_LIFE);
        let certificate = params.signed_by(&key, &self.root)?;
        Ok((certificate, key))
    }

    /// Certificates issued to workloads, oldest first.
    pub fn issued(&self) -> Vec<Issued> {
        self.log.lock().issued.clone()
    }

    /// A revocation list in PEM that names every certificate issued so far to one of `identities`.
    ///
    /// # Errors
    /// Signing failed.
    pub fn revocation_list(&self, identities: &[&str]) -> Result<String, CaError> {
        let now = OffsetDateTime::now_utc();
        let log = self.log.lock();
        let revoked = log.issued.iter().filter(|issued| identities.contains(&issued.identity.as_str()));
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + DAY,
            crl_number: SerialNumber::from(log.last_serial),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .map(|issued| RevokedCertParams {
                    serial_number: SerialNumber::from(issued.serial),
                    revocation_time: now,
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = match &self.intermediate {
            Some(intermediate) => list.signed_by(intermediate)?,
            None => list.signed_by(&self.root)?,
        };
        Ok(list.pem()?)
    }

    fn next_serial(&self) -> u64 {
        let mut log = self.log.lock();
        log.last_serial += 1;
        log.last_serial
    }
}

impl std::fmt::Debug for Authority {
    /// Formats the authority without its keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

// === impl CertificateService ===

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let fault = self.fault.borrow().clone();
        match fault {
            CaFault::None => {}
            CaFault::Slow(wait) => tokio::time::sleep(wait).await,
            CaFault::Mute => std::future::pending().await,
            CaFault::Fail(text) => return Err(Status::unauthenticated(text)),
            CaFault::Garbage => {
                let cert_chain = vec!["no certificate".to_owned(); 2];
                return Ok(Response::new(IstioCertificateResponse { cert_chain }));
            }
        }
        let request = request.into_inner();
        let field = request.metadata.as_ref().and_then(|m| m.fields.get("ImpersonatedIdentity"));
        let identity = match field.and_then(|value| value.kind.as_ref()) {
            Some(prost_types::value::Kind::StringValue(identity)) => Some(identity.as_str()),
            _ => None,
        };
        let asked = Duration::from_secs(request.validity_duration.try_into().unwrap_or(0));
        match self.authority.sign(&request.csr, identity, asked) {
            Ok(cert_chain) => Ok(Response::new(IstioCertificateResponse { cert_chain })),
            Err(error @ CaError::Local(_)) => Err(Status::internal(error.to_string())),
            Err(error) => Err(Status::invalid_argument(error.to_string())),
        }
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "cluster.local");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    lives(&mut params, CA_LIFE);
    params
}

/// Sets up a leaf without a subject, so that its alternative names are critical.
fn leaf(params: &mut CertificateParams, serial: u64, life: Duration) {
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from(serial));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    lives(params, life);
}

/// Dates a certificate back a little, but so little that half of a short life is still ahead, because clients renew
/// at half of it.
fn lives(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - (life / 10).min(BACKDATE);
    params.not_after = now + life;
}

#[cfg(test)]
mod tests;

//! The authority's answer: the leaf first, then the intermediates, and the bundle of roots last
//! (docs/spec/controlplane.md 3.2).

use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use webpki::EndEntityCert;
use x509_parser::{certificate::X509Certificate, prelude::FromDer, time::ASN1Time};

use crate::protocols::identity::{Identity, IdentityError};

/// The maximum number of intermediates in an answer.
/// Limit: intermediates in an authority's answer: 16; past it: the answer is refused.
pub const INTERMEDIATES_MAX: usize = 16;
/// The maximum number of roots in an answer.
/// Limit: roots in an authority's answer: 512; past it: the answer is refused.
pub const ROOTS_MAX: usize = 512;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// One certificate, decoded as far as this proxy needs it.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate itself.
    pub der: CertificateDer<'static>,
    /// The certificate as PEM text of the answer.
    pub pem: Box<str>,
    /// Serial number, decimal.
    pub serial: Box<str>,
    /// The start of the validity.
    pub not_before: SystemTime,
    /// The end of the validity.
    pub not_after: SystemTime,
}

/// An answer of the authority that passed the checks.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The identity that the leaf names.
    pub identity: Identity,
    /// The workload's own certificate.
    pub leaf: Certificate,
    /// The intermediates between the leaf and a root, in the order of the answer. The list may be empty.
    pub intermediates: Vec<Certificate>,
    /// The roots that peers are verified against. The list is never empty.
    pub roots: Vec<Certificate>,
}

/// Why an answer is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The answer holds no element.
    #[error("the chain is empty")]
    Empty,
    /// The answer holds a leaf but no roots.
    #[error("the chain has no root: it holds a single element")]
    NoRoot,
    /// An element is not PEM, or holds no certificate.
    #[error("element {index} of the chain holds no certificate in PEM")]
    Pem {
        /// The index of the element, from 0.
        index: usize,
    },
    /// An element is PEM, but its content is no X.509 certificate.
    #[error("element {index} of the chain is no X.509 certificate: {reason}")]
    X509 {
        /// The index of the element, from 0.
        index: usize,
        /// The decoder's error text.
        reason: String,
    },
    /// The answer holds more certificates than the limit.
    #[error("the chain holds {count} {what}, at most {limit} are accepted")]
    TooLong {
        /// "intermediates" or "roots".
        what: &'static str,
        /// The number of certificates.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// The leaf has no URI name.
    #[error("the certificate has no URI name, {expected} was asked for")]
    NoName {
        /// The requested identity, or "a SPIFFE identity".
        expected: String,
    },
    /// The leaf's first URI name is no identity of a workload.
    #[error("the certificate names nobody: {0}")]
    Name(#[from] IdentityError),
    /// The leaf names another identity.
    #[error("the certificate is for {presented}, {expected} was asked for")]
    OtherName {
        /// The requested identity.
        expected: Identity,
        /// The leaf's first URI name.
        presented: String,
    },
}

// === impl Chain ===

impl Chain {
    /// Checks the strings of an answer. With `expected` the leaf's first URI name must be that identity (shared
    /// mode); without, it may be any identity (dedicated mode, where the authority decides).
    ///
    /// # Errors
    /// The first fault found, naming the element.
    pub fn parse(pems: &[String], expected: Option<&Identity>) -> Result<Self, ChainError> {
        let (first, rest) = pems.split_first().ok_or(ChainError::Empty)?;
        let (last, middle) = rest.split_last().ok_or(ChainError::NoRoot)?;
        let mut path = certificates(0, first)?;
        for (at, pem) in middle.iter().enumerate() {
            path.extend(certificates(at + 1, pem)?);
            limit("intermediates", path.len() - 1, INTERMEDIATES_MAX)?;
        }
        let roots = certificates(pems.len() - 1, last)?;
        limit("intermediates", path.len().saturating_sub(1), INTERMEDIATES_MAX)?;
        let mut path = path.into_iter();
        let leaf = path.next().ok_or(ChainError::Pem { index: 0 })?;
        let identity = name(&leaf.der, expected)?;
        Ok(Self { identity, leaf, intermediates: path.collect(), roots })
    }
}

fn limit(what: &'static str, count: usize, limit: usize) -> Result<(), ChainError> {
    if count > limit { Err(ChainError::TooLong { what, count, limit }) } else { Ok(()) }
}

/// Reads the certificates of one element, of which there is at least one.
fn certificates(index: usize, text: &str) -> Result<Vec<Certificate>, ChainError> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, from)) = rest.split_once(BEGIN) {
        let (body, after) = from.split_once(END).ok_or(ChainError::Pem { index })?;
        limit("roots", found.len() + 1, ROOTS_MAX)?;
        found.push(certificate(index, format!("{BEGIN}{body}{END}\n"))?);
        rest = after;
    }
    if found.is_empty() { Err(ChainError::Pem { index }) } else { Ok(found) }
}

fn certificate(index: usize, pem: String) -> Result<Certificate, ChainError> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| ChainError::Pem { index })?;
    let bad = |reason: String| ChainError::X509 { index, reason };
    let (rest, x509) = X509Certificate::from_der(&der).map_err(|e| bad(e.to_string()))?;
    if !rest.is_empty() {
        return Err(bad(format!("{} bytes follow it", rest.len())));
    }
    let serial = x509.tbs_certificate.serial.to_string().into();
    let not_before = system_time(x509.validity().not_before);
    let not_after = system_time(x509.validity().not_after);
    drop(x509);
    Ok(Certificate { der, pem: pem.into(), serial, not_before, not_after })
}

/// Converts a time. A time before 1970 becomes 1970, because such a time has passed in any case.
fn system_time(t: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(t.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Reads the identity that a leaf names.
fn name(leaf: &CertificateDer<'_>, expected: Option<&Identity>) -> Result<Identity, ChainError> {
    let parsed =
        EndEntityCert::try_from(leaf).map_err(|e| ChainError::X509 { index: 0, reason: e.to_string() })?;
    let presented = parsed.valid_uri_names().next();
    match (presented, expected) {
        (Some(uri), Some(id)) if uri == id.as_str() => Ok(id.clone()),
        (Some(uri), Some(id)) => {
            Err(ChainError::OtherName { expected: id.clone(), presented: uri.chars().take(256).collect() })
        }
        (Some(uri), None) => Ok(uri.parse()?),
        (None, id) => Err(ChainError::NoName {
            expected: id.map_or_else(|| "a SPIFFE identity".into(), ToString::to_string),
        }),
    }
}

#[cfg(test)]
mod tests;

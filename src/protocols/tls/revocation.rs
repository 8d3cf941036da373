//! Revocation lists: how a file of them is read, and which lists name a certificate (docs/spec/dataplane.md 9).

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer,
    pem::{self, PemObject},
};
use webpki::{Cert, CertRevocationList, EndEntityCert, OwnedCertRevocationList};

/// The beginning of a file that is read as PEM. Any other file is one list in DER.
const PEM_BEGINS: &[u8] = b"-----BEGIN";
/// The number of lists in a file. A mesh has one for each authority.
/// Limit: revocation lists in a file: 256; past it: the file is refused, and the lists in force stay.
const MAX_LISTS: usize = 256;

/// Why a file of revocation lists cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// The PEM around a list is broken.
    #[error("the file is not valid PEM: {0}")]
    Pem(pem::Error),
    /// A list is broken, or of a kind that is not supported.
    #[error("list {index} cannot be used: {error}")]
    List {
        /// The position of the list in the file, from 1.
        index: usize,
        /// What the parser says.
        error: webpki::Error,
    },
    /// The file has more lists than any mesh needs.
    #[error("the file has more than {MAX_LISTS} lists")]
    TooMany,
}

/// The revocation lists of a file.
#[derive(Debug, Default)]
pub struct RevocationLists(Vec<CertRevocationList<'static>>);

/// The revocation lists in force, which handshakes read and a reload replaces.
#[derive(Default)]
pub struct Revocations {
    lists: ArcSwapOption<RevocationLists>,
    /// The number of times that the lists were replaced.
    generation: AtomicU64,
}

// === impl RevocationLists ===

impl RevocationLists {
    /// Reads a file: any number of lists in PEM among which other blocks are ignored, or one list in DER. An empty file
    /// has no list. The caller bounds the size of the file.
    ///
    /// # Errors
    /// A list is broken. No list of the file is used then.
    pub fn parse(file: &[u8]) -> Result<Self, RevocationError> {
        let mut lists = Vec::new();
        let mut add = |der: &[u8]| {
            if lists.len() == MAX_LISTS {
                return Err(RevocationError::TooMany);
            }
            let index = lists.len() + 1;
            let list = OwnedCertRevocationList::from_der(der);
            lists.push(list.map_err(|error| RevocationError::List { index, error })?.into());
            Ok(())
        };
        if file.starts_with(PEM_BEGINS) {
            for der in CertificateRevocationListDer::pem_slice_iter(file) {
                add(&der.map_err(RevocationError::Pem)?)?;
            }
        } else if !file.is_empty() {
            add(file)?;
        }
        Ok(Self(lists))
    }

    /// The number of lists.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no list.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lists that name a certificate of `chain`, by the names of issuers. Signatures are not looked at.
    pub(super) fn naming<'a>(
        &'a self,
        leaf: &Cert<'_>,
        others: &[CertificateDer<'_>],
    ) -> Vec<&'a CertRevocationList<'static>> {
        let others: Vec<EndEntityCert<'_>> =
            others.iter().filter_map(|der| EndEntityCert::try_from(der).ok()).collect();
        let names = |list: &CertRevocationList<'_>, cert: &Cert<'_>| {
            list.issuer() == cert.issuer() && !matches!(list.find_serial(cert.serial()), Ok(None))
        };
        let named =
            |list: &&CertRevocationList<'_>| names(list, leaf) || others.iter().any(|cert| names(list, cert));
        self.0.iter().filter(named).collect()
    }
}

// === impl Revocations ===

impl Revocations {
    /// Puts `lists` into force.
    pub fn replace(&self, lists: RevocationLists) {
        self.lists.store(Some(Arc::new(lists)));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// A number that changes with the lists in force.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn lists(&self) -> Option<Arc<RevocationLists>> {
        self.lists.load_full()
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = self.lists().map(|lists| lists.len());
        f.debug_struct("Revocations").field("lists", &lists).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

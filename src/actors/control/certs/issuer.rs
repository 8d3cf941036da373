//! The authority behind the certificate actor: Istio's certificate service over gRPC
//! (docs/spec/controlplane.md 3.1), or any other [`Issuer`].

use std::{
    collections::BTreeMap,
    fmt, io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use prost_types::{Struct, Value, value::Kind};
use tokio::sync::Mutex;
use tonic::{Request, Status, transport::Channel};

use crate::{
    actors::control::grpc::{self, AuthHeaders, GrpcError, GrpcTarget},
    protocols::{
        ca::IssueError,
        config::RootSource,
        identity::Identity,
        pb::ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
    },
};

/// The longest part of an authority's message that an error carries.
/// Limit: words of the certificate authority in an error: 512 characters; past it: the words are cut.
const WORDS_MAX: usize = 512;

/// A request to an authority under way.
pub(crate) type Issuing<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>, IssueError>> + Send + 'a>>;

/// An authority that signs requests. The actor bounds the time of each call by a drop of its future.
pub(crate) trait Issuer: Send + Sync + 'static {
    /// Asks for a certificate of `identity`, valid for `ttl`, with the PKCS#10 request `csr_pem`. The answer is a
    /// chain in PEM: leaf, intermediates, roots.
    fn issue<'a>(&'a self, identity: &'a Identity, csr_pem: String, ttl: Duration) -> Issuing<'a>;
}

/// The mesh's authority over gRPC. All requests share one channel. The first request connects the channel. A failure
/// or a changed root file replaces the channel.
pub(crate) struct CaIssuer {
    target: GrpcTarget,
    headers: AuthHeaders,
    impersonate: bool,
    channel: Mutex<Option<Live>>,
    /// The number of attempts to connect. Requests that waited for the same attempt share its failure.
    attempts: AtomicU64,
    last_failure: parking_lot::Mutex<Option<GrpcError>>,
    stale: Arc<AtomicBool>,
}

struct Live {
    channel: Channel,
    roots: Option<RootsMark>,
}

/// The attributes that identify a version of the root file, also behind swapped symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RootsMark {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

/// A guard that marks the channel as stale unless the request ends with an answer. A connection whose peer is gone
/// reports nothing, and no PING is sent once the request is given up.
struct StaleUnlessAnswered(Option<Arc<AtomicBool>>);

// === impl CaIssuer ===

impl CaIssuer {
    /// Makes an issuer that connects at the first request. With `impersonate` (shared mode) each request names the
    /// wanted identity. Without `impersonate` the authority grants the identity of the token.
    pub(crate) fn new(target: GrpcTarget, headers: AuthHeaders, impersonate: bool) -> Self {
        Self {
            target,
            headers,
            impersonate,
            channel: Mutex::new(None),
            attempts: AtomicU64::new(0),
            last_failure: parking_lot::Mutex::new(None),
            stale: Arc::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Acquire)
    }

    async fn ask(&self, identity: &Identity, csr: String, ttl: Duration) -> Result<Vec<String>, IssueError> {
        let request = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: self.impersonate.then(|| impersonated(identity)),
        });
        let request = self.headers.sign(request).await.map_err(|e| self.failed(&e))?;
        let channel = self.channel().await.map_err(|e| self.failed(&e))?;
        let stale = StaleUnlessAnswered(Some(self.stale.clone()));
        match IstioCertificateServiceClient::new(channel).create_certificate(request).await {
            Ok(response) => {
                stale.lift();
                Ok(response.into_inner().cert_chain)
            }
            Err(status) => Err(self.refused(&status, stale)),
        }
    }

    /// The channel of earlier requests while that channel is good, otherwise a new channel.
    async fn channel(&self) -> Result<Channel, GrpcError> {
        let seen = self.attempts.load(Ordering::Acquire);
        let mut live = self.channel.lock().await;
        if self.stale.swap(false, Ordering::AcqRel) {
            *live = None;
        }
        let roots = self.roots_mark().await;
        if let Some(current) = live.as_ref().filter(|l| l.roots == roots) {
            return Ok(current.channel.clone());
        }
        if live.is_none() && self.attempts.load(Ordering::Acquire) != seen {
            // Another request tried to connect while this request waited for its turn.
            if let Some(failure) = self.last_failure.lock().clone() {
                return Err(failure);
            }
        }
        let connected = grpc::connect(&self.target).await;
        *self.last_failure.lock() = connected.as_ref().err().cloned();
        self.attempts.fetch_add(1, Ordering::AcqRel);
        match (connected, live.as_ref()) {
            (Ok(channel), _) => {
                *live = Some(Live { channel: channel.clone(), roots });
                Ok(channel)
            }
            (Err(error), Some(old)) => {
                tracing::warn!(
                    authority = %self.target, %error,
                    "cannot use the new root certificates, keeping the connection made with the old ones"
                );
                Ok(old.channel.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn roots_mark(&self) -> Option<RootsMark> {
        let RootSource::File(path) = &self.target.roots else { return None };
        let path = PathBuf::from(path);
        tokio::task::spawn_blocking(move || mark(&path)).await.ok()?.ok()
    }

    fn refused(&self, status: &Status, stale: StaleUnlessAnswered) -> IssueError {
        if let Some(error) = grpc::cause(status) {
            return self.failed(&error);
        }
        if std::error::Error::source(status).is_some() {
            return IssueError::PeerUnreachable {
                address: self.target.to_string(),
                reason: printable(status.message()),
            };
        }
        stale.lift();
        IssueError::PeerRefused { code: format!("{:?}", status.code()), message: printable(status.message()) }
    }

    fn failed(&self, error: &GrpcError) -> IssueError {
        if error.is_local() {
            IssueError::LocalCredentials(error.to_string())
        } else {
            IssueError::PeerUnreachable { address: self.target.to_string(), reason: error.to_string() }
        }
    }
}

impl Issuer for CaIssuer {
    fn issue<'a>(&'a self, identity: &'a Identity, csr_pem: String, ttl: Duration) -> Issuing<'a> {
        Box::pin(self.ask(identity, csr_pem, ttl))
    }
}

impl fmt::Debug for CaIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaIssuer").field("target", &self.target).finish_non_exhaustive()
    }
}

// === impl StaleUnlessAnswered ===

impl StaleUnlessAnswered {
    fn lift(mut self) {
        self.0 = None;
    }
}

impl Drop for StaleUnlessAnswered {
    fn drop(&mut self) {
        if let Some(stale) = &self.0 {
            stale.store(true, Ordering::Release);
        }
    }
}

fn impersonated(identity: &Identity) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(identity.as_str().to_owned())) };
    Struct { fields: BTreeMap::from([("ImpersonatedIdentity".to_owned(), value)]) }
}

fn mark(path: &std::path::Path) -> io::Result<RootsMark> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(path)?;
    Ok(RootsMark { modified: file.modified().ok(), bytes: file.len(), inode: file.ino() })
}

/// The printable form of a peer's message, for a log line.
fn printable(words: &str) -> String {
    words.chars().take(WORDS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
#[cfg(feature = "lab")]
mod tests;

//! What outlives the actor of certificates.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::Semaphore;

use super::{issuer::Issuer, store::Store};
use crate::{
    actors::quarantine::Quarantine,
    protocols::{ca::schedule::Limits, config::TlsConfig, identity::Identity},
};

/// How long one request to the authority may take, connecting included.
/// Limit: one request to the certificate authority: 10 s; past it: the request failed.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Callers of [`Certs::fetch`] that may wait at a time, over all identities.
/// Limit: callers that wait for certificates: 16,384; past it: the caller is refused.
pub(crate) const WAITERS_MAX: usize = 16_384;

/// Settings of the actor.
#[derive(Clone)]
pub(crate) struct CertsConfig {
    /// Validity asked for (`SECRET_TTL`).
    pub ttl: Duration,
    /// How long one request to the authority may take: [`REQUEST_TIMEOUT`].
    pub request_timeout: Duration,
    /// Shared mode: a certificate must be for exactly the identity asked for. Dedicated mode: the authority grants
    /// the identity of this proxy's token, whatever its name.
    pub impersonate: bool,
    /// What every TLS connection of this process speaks.
    pub tls: TlsConfig,
    /// Bounds of the schedule.
    pub limits: Limits,
    /// The wall clock: [`SystemTime::now`] but in tests.
    pub wall: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

/// What outlives the actor.
pub(super) struct Shared {
    pub(super) config: CertsConfig,
    pub(super) issuer: Arc<dyn Issuer>,
    pub(super) quarantine: Quarantine,
    pub(super) store: Store,
    pub(super) waiting: Semaphore,
    pub(super) prefetching: Arc<Semaphore>,
}

// === impl CertsConfig ===

impl CertsConfig {
    /// The defaults of shared mode, for certificates of `ttl`.
    pub(crate) fn new(ttl: Duration, tls: TlsConfig) -> Self {
        Self {
            ttl,
            request_timeout: REQUEST_TIMEOUT,
            impersonate: true,
            tls,
            limits: Limits::default(),
            wall: Arc::new(SystemTime::now),
        }
    }
}

// === impl Shared ===

impl Shared {
    /// The wall clock.
    pub(super) fn wall(&self) -> SystemTime {
        (self.config.wall)()
    }
}

/// Says that the certificate of `id` is not asked for ahead of need.
pub(super) fn log_dropped(id: &Identity) {
    tracing::info!(identity = %id, "certificate is not prefetched: the queue is full or the actor is down; the first connection will fetch it");
}

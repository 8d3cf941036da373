//! The state that outlives the certificate actor, and its settings.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::Semaphore;

use super::{issuer::Issuer, store::Store};
use crate::{
    actors::quarantine::Quarantine,
    protocols::{ca::schedule::Limits, config::TlsConfig, identity::Identity, tls::Revocations},
    telemetry::events::Events,
};

/// The time that one request to the authority may take, the connect included.
/// Limit: one request to the certificate authority: 10 s; past it: the request failed.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of callers of [`Certs::fetch`] that may wait at a time, over all identities.
/// Limit: callers that wait for certificates: 16,384; past it: the caller is refused.
pub(crate) const WAITERS_MAX: usize = 16_384;

/// The settings of the certificate actor.
#[derive(Clone)]
pub(crate) struct CertsConfig {
    /// The validity that requests ask for (`SECRET_TTL`).
    pub ttl: Duration,
    /// The time that one request to the authority may take: [`REQUEST_TIMEOUT`].
    pub request_timeout: Duration,
    /// Whether the proxy runs in shared mode, in which a certificate must be for exactly the wanted identity. In
    /// dedicated mode the authority grants the identity of this proxy's token, whatever its name.
    pub impersonate: bool,
    /// The TLS settings of all connections of this process.
    pub tls: TlsConfig,
    /// The revocation lists that peers are checked against; `None` if none are configured.
    pub revocations: Option<Arc<Revocations>>,
    /// The bounds of the schedule.
    pub limits: Limits,
    /// Where new certificates and failures are told.
    pub events: Arc<Events>,
    /// The wall clock: [`SystemTime::now`] except in tests.
    pub wall: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

/// The state that outlives the actor.
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
    /// The defaults of shared mode, for certificates that are valid for `ttl`.
    pub(crate) fn new(ttl: Duration, tls: TlsConfig) -> Self {
        Self {
            ttl,
            request_timeout: REQUEST_TIMEOUT,
            impersonate: true,
            tls,
            revocations: None,
            limits: Limits::default(),
            events: Arc::default(),
            wall: Arc::new(SystemTime::now),
        }
    }
}

// === impl Shared ===

impl Shared {
    /// The time of the wall clock.
    pub(super) fn wall(&self) -> SystemTime {
        (self.config.wall)()
    }
}

/// Logs that the certificate of `id` is not fetched ahead of need.
pub(super) fn log_dropped(id: &Identity) {
    tracing::info!(identity = %id, "certificate is not prefetched: the queue is full or the actor is down; the first connection will fetch it");
}

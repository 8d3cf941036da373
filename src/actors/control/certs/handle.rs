//! The handle of the certificates.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout_at},
};

use super::{
    actor::{CertsActor, Msg},
    issuer::Issuer,
    lacking::Lacking,
    shared::{CertsConfig, Shared, WAITERS_MAX, log_dropped},
    store::{Published, Store},
};
use crate::{
    actors::{HUNG_AFTER, quarantine::Quarantine},
    dataplane::certificates::{Certificates, Held},
    protocols::{
        ca::{CertError, IssueError},
        identity::Identity,
        tls::WorkloadCert,
    },
    supervisor::{Address, AddressError, ChildSpec},
    telemetry::trace::span,
};

/// The certificates of this node. A clone is cheap, and clones share the certificates.
#[derive(Clone)]
pub(crate) struct Certs {
    pub(super) shared: Arc<Shared>,
    pub(super) address: Address<Msg>,
}

/// The certificate of an identity, for display.
#[derive(Clone, Debug)]
pub(crate) struct CertStatus {
    /// The identity.
    pub(crate) identity: Identity,
    /// The newest certificate, which may have expired.
    pub(crate) cert: Option<Arc<WorkloadCert>>,
    /// The last failure, if the last request failed.
    pub(crate) failure: Option<Arc<IssueError>>,
}

// === impl Certs ===

impl Certs {
    /// Makes a handle for certificates signed by `issuer`. `quarantine` holds identities that crash a request. No
    /// request is made until [`Certs::child`] runs under a supervisor.
    pub(crate) fn new(config: CertsConfig, issuer: Arc<dyn Issuer>, quarantine: Quarantine) -> Self {
        let shared = Shared {
            store: Store::new(),
            waiting: Semaphore::new(WAITERS_MAX),
            prefetching: Arc::new(Semaphore::new(config.limits.warmups)),
            config,
            issuer,
            quarantine,
        };
        Self { shared: Arc::new(shared), address: Address::new("certs") }
    }

    /// The actor, as a child of a supervisor. The certificates survive restarts of the actor.
    pub(crate) fn child(&self) -> ChildSpec {
        let shared = self.shared.clone();
        ChildSpec::actor("certs", &self.address, move || (CertsActor, shared.clone()))
            .kind_label("certs")
            .hung_after(HUNG_AFTER)
    }

    /// The certificate of `id`, if a valid certificate exists. The call reads a table: it sends no message and does
    /// not wait.
    pub(crate) fn current(&self, id: &Identity) -> Option<Arc<WorkloadCert>> {
        self.shared.store.current(id, self.shared.wall())
    }

    /// Returns the certificate of `id`. If none exists, the call asks the authority with the highest priority.
    /// Callers for the same identity share one request.
    ///
    /// # Errors
    /// The last failure, at once, if the authority has just failed for this identity; [`CertError::TimedOut`] after
    /// `timeout`; an error if a bound is reached.
    pub(crate) async fn fetch(
        &self,
        id: &Identity,
        timeout: Duration,
    ) -> Result<Arc<WorkloadCert>, CertError> {
        if let Some(cert) = self.current(id) {
            return Ok(cert);
        }
        let _place = self
            .shared
            .waiting
            .try_acquire()
            .map_err(|_| CertError::TooManyWaiters { identity: id.clone(), limit: WAITERS_MAX })?;
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match self.address.call(left, |reply| Msg::Fetch(id.clone(), reply)).await {
                Ok(answer) => return answer,
                // The actor ended before its answer: the next start of the actor is asked.
                Err(AddressError::Lost { .. }) if !left.is_zero() => {
                    span::actor_lost("certs");
                    continue;
                }
                Err(error) => error,
            };
            return Err(match error {
                AddressError::TimedOut { .. } => CertError::TimedOut { identity: id.clone(), after: timeout },
                AddressError::Down { .. } | AddressError::Lost { .. } => {
                    CertError::LocalDown { identity: id.clone() }
                }
            });
        }
    }

    /// Like [`Certs::fetch`], but a failure of the authority is not final. The call waits for the retries of the
    /// schedule until `patience` ends, and only then fails with the last failure.
    ///
    /// # Errors
    /// As [`Certs::fetch`].
    pub(crate) async fn hold(
        &self,
        id: &Identity,
        patience: Duration,
    ) -> Result<Arc<WorkloadCert>, CertError> {
        let deadline = Instant::now() + patience;
        let mut changes = self.changed();
        let error = match self.fetch(id, patience).await {
            Err(error @ CertError::Unavailable { .. }) => error,
            other => return other,
        };
        loop {
            changes.borrow_and_update();
            if let Some(cert) = self.current(id) {
                return Ok(cert);
            }
            if !self.shared.store.knows(id) {
                return Err(CertError::Forgotten { identity: id.clone() });
            }
            if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return Err(error);
            }
        }
    }

    /// Asks for the certificate of `id` ahead of need. The number of such requests is bounded. A request past the
    /// bound is dropped with a log line, and a connection asks later.
    pub(crate) fn prefetch(&self, id: &Identity) {
        // Without impersonation the answer is for this proxy's own identity, whatever is asked for.
        if !self.shared.config.impersonate {
            return;
        }
        if self.current(id).is_some() {
            return;
        }
        let sent = self
            .shared
            .prefetching
            .clone()
            .try_acquire_owned()
            .ok()
            .and_then(|permit| self.address.cast(Msg::Prefetch(id.clone(), permit)).ok());
        if sent.is_none() {
            log_dropped(id);
        }
    }

    /// Notes that no workload on this node has `id` any more. The certificate is dropped, and waiting callers fail.
    pub(crate) fn forget(&self, id: &Identity) {
        self.shared.store.remove(id);
        // One message covers all removals. An actor that is down reads the removals when it starts.
        if self.shared.store.forget_later(id.clone()) {
            let _ = self.address.cast(Msg::Forget);
        }
    }

    /// A number that changes with every certificate, failure and removal. The value of the number has no meaning.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.shared.store.changes()
    }

    /// All identities with their certificates and failures, in no order.
    pub(crate) fn all(&self) -> Vec<CertStatus> {
        let status = |(identity, Published { cert, failure })| CertStatus { identity, cert, failure };
        self.shared.store.all().into_iter().map(status).collect()
    }

    /// The identities without a valid certificate whose last request failed.
    pub(crate) fn lacking(&self) -> Lacking {
        self.shared.store.lacking(self.shared.wall())
    }

    /// The age of the oldest certificate and the time until the next one expires, in seconds. `None` without a
    /// certificate.
    pub(crate) fn times(&self) -> Option<(f64, f64)> {
        self.shared.store.times(self.shared.wall())
    }

    /// The number of identities in each state.
    pub(crate) fn by_state(&self) -> Vec<(&'static str, u64)> {
        self.shared.store.by_state(self.shared.wall()).to_vec()
    }
}

impl fmt::Debug for Certs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certs").finish_non_exhaustive()
    }
}

impl Certificates for Certs {
    fn current(&self, id: &Identity) -> Option<Arc<WorkloadCert>> {
        Self::current(self, id)
    }

    fn hold<'a>(&'a self, id: &'a Identity, within: Duration) -> Held<'a> {
        Box::pin(Self::hold(self, id, within))
    }
}

#[cfg(test)]
mod tests;

//! The suspicions of a pod: what its connections have learned of next hops that failed. All shards share them.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::protocols::{
    addr::OrigDst,
    route::{
        Finding, Route, Suspicion,
        failover::{Attempt, NoAttempt},
        suspects::{Suspects, TrialNumber, Tried},
    },
};

/// The suspicions of a pod. Other pods have their own, as a path that fails for one pod may work for another.
#[derive(Debug, Default)]
pub(crate) struct Suspicions {
    /// Whether there may be a suspicion. Connections take the lock only if the flag is set, which is rare.
    any: AtomicBool,
    suspects: Mutex<Suspects>,
}

/// A connection's trial of suspects whose time is over. The drop lets another connection try.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    of: &'a Suspicions,
    number: Option<TrialNumber>,
}

// === impl Suspicions ===

impl Suspicions {
    /// Calls `next` with the suspicions that matter to a connection to `asked`. If the route leads to suspects whose
    /// time is over, the connection tries them, and no other one does meanwhile.
    pub(crate) fn routed(
        &self,
        asked: OrigDst,
        next: impl FnOnce(Option<Suspicion<'_>>) -> Result<(Attempt, Route), NoAttempt>,
    ) -> (Result<(Attempt, Route), NoAttempt>, Trial<'_>) {
        if !self.any.load(Ordering::Relaxed) {
            return (next(None), Trial { of: self, number: None });
        }
        let now = Instant::now().into_std();
        // The lock is held from the choice to the begin of the trial, so that two connections never try at once.
        let mut suspects = self.suspects.lock();
        suspects.tidy(now);
        self.any.store(!suspects.is_empty(), Ordering::Relaxed);
        let routed = next(Some(suspects.of(asked, now)));
        let route = routed.as_ref().ok().map(|(_, route)| route);
        let number = route.and_then(|route| suspects.begin(route, asked, now));
        drop(suspects);
        (routed, Trial { of: self, number })
    }

    /// Calls `look` with the suspicions that matter to a connection to `asked`, and begins no trial.
    pub(crate) fn look(&self, asked: OrigDst, look: &mut dyn FnMut(Option<Suspicion<'_>>)) {
        let suspects = self.suspects.lock();
        look(Some(suspects.of(asked, Instant::now().into_std())));
    }

    /// Takes note of what an attempt has taught.
    pub(crate) fn learn(&self, tried: &Tried<'_>, finding: Finding) {
        let failed = matches!(finding, Finding::HopFailed | Finding::DestinationFailed);
        if failed || self.any.load(Ordering::Relaxed) {
            let mut suspects = self.suspects.lock();
            suspects.learn(tried, finding, Instant::now().into_std());
            self.any.store(!suspects.is_empty(), Ordering::Relaxed);
        }
    }

    /// The next hops of all suspicions.
    #[cfg(test)]
    pub(crate) fn hops(&self) -> Vec<std::net::SocketAddr> {
        self.suspects.lock().hops()
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.of.suspects.lock().end(number);
        }
    }
}

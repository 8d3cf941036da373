//! Addresses that are asked for as connections need them (docs/spec/controlplane.md 2.3 and 2.4).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use crate::protocols::{
    mesh::{Mesh, WorkloadInfo},
    outcome::{Cause, Unroutable},
    xds::{DemandError, Demanded},
};

/// The connections of a pod that may wait for answers at a time.
/// Limit: connections of a pod that wait for an address asked for on demand: 1024; past it: the connection is refused.
const WAITING_MAX: usize = 1024;
/// An address leads to its waypoint, the waypoint to a gateway.
/// Limit: questions one after the other for one connection: 6; past it: the connection is routed by what is known.
const ROUNDS_MAX: usize = 6;

/// The control plane, as one that is asked for single addresses.
pub(crate) trait Directory: Send + Sync {
    /// Asks for `name`: `network/ip`, a workload's uid, or `namespace/hostname`.
    ///
    /// # Errors
    /// The name is not asked for; see [`DemandError`].
    fn demand(&self, name: &str) -> Result<Demanded, DemandError>;
}

/// How the tables are filled on demand. A process has one value.
pub(crate) struct OnDemand {
    directory: Arc<dyn Directory>,
    cluster_id: String,
}

/// The connections of one pod that wait for answers.
#[derive(Debug, Default)]
pub(crate) struct Discoveries(AtomicUsize);

/// One connection that waits.
struct Place<'a>(&'a Discoveries);

// === impl OnDemand ===

impl OnDemand {
    /// Fills the tables of a proxy in the cluster `cluster_id` by asking `directory`.
    pub(crate) fn new(directory: Arc<dyn Directory>, cluster_id: String) -> Self {
        Self { directory, cluster_id }
    }

    /// Asks for `names` and waits for nothing. A name that cannot be asked for now is left out.
    pub(crate) fn hint(&self, names: impl IntoIterator<Item = String>) {
        for name in names {
            if let Err(error) = self.directory.demand(&name) {
                tracing::debug!(target: "xds", %error, "not asked for");
            }
        }
    }

    /// Asks for the workload of a pod of this node.
    pub(crate) fn hint_pod(&self, WorkloadInfo { name, namespace, .. }: &WorkloadInfo) {
        self.hint([format!("{}//Pod/{namespace}/{name}", self.cluster_id)]);
    }

    /// Asks for the names that `missing` finds to be missing in `mesh`, and waits up to `within` for the answers.
    /// `missing` is asked again after that, since one answer may name what is missing next.
    ///
    /// # Errors
    /// There is no answer in time, or no question.
    pub(crate) async fn fill(
        &self,
        mesh: &Mesh,
        waiting: &Discoveries,
        within: Duration,
        missing: impl Fn(&Mesh) -> Vec<String>,
    ) -> Result<(), Unroutable> {
        let deadline = Instant::now() + within;
        let mut place = None;
        for _ in 0..ROUNDS_MAX {
            let mut asked = Vec::new();
            for name in missing(mesh) {
                match self.directory.demand(&name).map_err(|e| Unroutable::Undiscovered(Cause::of(e)))? {
                    Demanded::Answered => {}
                    Demanded::Asked(answer) => asked.push((name, answer)),
                }
            }
            if asked.is_empty() {
                return Ok(());
            }
            if place.is_none() {
                place = Some(waiting.enter()?);
            }
            for (name, mut answer) in asked {
                // A question that was dropped is put again in the next round.
                let answered = timeout_at(deadline, answer.wait_for(|answered| *answered)).await;
                if answered.is_err() {
                    let what = format!("the control plane to answer for {name}");
                    return Err(Unroutable::Waited(what.into()));
                }
            }
        }
        Ok(())
    }
}

// === impl Discoveries ===

impl Discoveries {
    fn enter(&self) -> Result<Place<'_>, Unroutable> {
        let place = Place(self);
        if self.0.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            let why = format!("{WAITING_MAX} connections of the pod wait for addresses already");
            return Err(Unroutable::Undiscovered(why.into()));
        }
        Ok(place)
    }
}

// === impl Place ===

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

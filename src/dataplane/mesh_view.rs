//! The view of the mesh that connections read: the tables, and a notification of each change.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{missing_policies::MissingPolicies, on_demand::OnDemand};
use crate::protocols::mesh::Mesh;

/// A view of the tables of workloads, services and policies. Clones share the tables.
#[derive(Clone)]
pub(crate) struct MeshView {
    mesh: Mesh,
    changed: watch::Receiver<u64>,
    missing: Arc<MissingPolicies>,
    on_demand: Option<Arc<OnDemand>>,
}

// === impl MeshView ===

impl MeshView {
    /// A view of `mesh`; `changed` counts the pushes that were applied.
    pub(crate) fn new(mesh: Mesh, changed: watch::Receiver<u64>, missing: Arc<MissingPolicies>) -> Self {
        Self { mesh, changed, missing, on_demand: None }
    }

    /// The policies that workloads name and the tables do not hold.
    pub(crate) fn missing_policies(&self) -> &MissingPolicies {
        &self.missing
    }

    /// The same view, of tables that are filled on demand.
    pub(crate) fn filled(self, on_demand: OnDemand) -> Self {
        Self { on_demand: Some(Arc::new(on_demand)), ..self }
    }

    /// How the tables are filled on demand; `None` where the control plane sends all addresses unasked.
    pub(crate) fn on_demand(&self) -> Option<&OnDemand> {
        self.on_demand.as_deref()
    }

    /// The tables.
    pub(crate) fn tables(&self) -> &Mesh {
        &self.mesh
    }

    /// The number of pushes that have been applied.
    pub(crate) fn version(&self) -> u64 {
        *self.changed.borrow()
    }

    /// A receiver that changes after every applied push.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// The result of `look`, at once or after a push within `timeout`. A first `look` that succeeds makes no wait.
    pub(crate) async fn wait_for<T>(
        &self,
        timeout: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        if let Some(found) = look() {
            return Some(found);
        }
        let mut changes = self.changed.clone();
        let deadline = Instant::now() + timeout;
        loop {
            changes.borrow_and_update();
            if let Some(found) = look() {
                return Some(found);
            }
            match timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                // The timeout has passed, or the sender is gone and no push can follow.
                Ok(Err(_)) | Err(_) => return look(),
            }
        }
    }
}

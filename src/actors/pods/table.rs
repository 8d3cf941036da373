//! The table of pods that this process serves.

use std::sync::Arc;

use dashmap::DashMap;

use super::pod::Pod;

/// The pods by uid. Clones share the table.
#[derive(Clone, Default)]
pub(crate) struct PodTable(Arc<DashMap<Arc<str>, Arc<Pod>>>);

// === impl PodTable ===

impl PodTable {
    /// The pod `uid`, if it is served.
    pub(crate) fn find(&self, uid: &str) -> Option<Arc<Pod>> {
        self.0.get(uid).map(|pod| pod.clone())
    }

    /// All pods.
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.0.iter().map(|pod| pod.clone()).collect()
    }

    /// The number of pods.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a pod.
    pub(crate) fn insert(&self, pod: &Arc<Pod>) {
        self.0.insert(pod.id.uid.clone(), pod.clone());
    }

    /// Removes this pod. A newer pod with the same uid stays.
    pub(crate) fn remove(&self, pod: &Pod) {
        self.0.remove_if(&pod.id.uid, |_, held| held.id.serial == pod.id.serial);
    }
}

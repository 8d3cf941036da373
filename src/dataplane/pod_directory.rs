//! The directory of this node's pods, in which a connection finds the pod that a destination workload is.

use std::sync::{Arc, Weak};

use dashmap::DashMap;
use smallvec::SmallVec;

use super::{
    inbound_context::InboundContext,
    pod::network::{Network, PodNetwork},
};
use crate::protocols::mesh::Workload;

type Named<N> = SmallVec<[Weak<InboundContext<N>>; 1]>;

/// The pods this process serves, by name. A connection reads one entry and keeps no reference to the entry.
pub(crate) struct PodDirectory<N: Network = PodNetwork>(
    DashMap<Box<str>, Named<N>, foldhash::fast::RandomState>,
);

// === impl PodDirectory ===

impl<N: Network> Default for PodDirectory<N> {
    fn default() -> Self {
        Self(DashMap::default())
    }
}

impl<N: Network> PodDirectory<N> {
    /// Adds a pod, which replaces an earlier entry of the same serial number.
    pub(crate) fn add(&self, pod: &Arc<InboundContext<N>>) {
        self.remove(pod);
        self.0.entry(pod.pod.id.info.name.as_str().into()).or_default().push(Arc::downgrade(pod));
    }

    /// Removes a pod, and the entries of pods that are gone under the same name.
    pub(crate) fn remove(&self, pod: &InboundContext<N>) {
        let id = &pod.pod.id;
        if let Some(mut named) = self.0.get_mut(id.info.name.as_str()) {
            named.retain(|held| held.upgrade().is_some_and(|held| held.pod.id.serial != id.serial));
        }
        self.0.remove_if(id.info.name.as_str(), |_, named| named.is_empty());
    }

    /// The pod that is `workload`, if this process serves the pod and the pod is not draining.
    pub(crate) fn find(&self, workload: &Workload) -> Option<Arc<InboundContext<N>>> {
        let named = self.0.get(workload.name())?;
        let is_it = |pod: &Arc<InboundContext<N>>| {
            let info = &pod.pod.id.info;
            info.namespace == workload.namespace()
                && info.service_account == workload.service_account()
                && !pod.conns.is_draining()
        };
        // If two pods of one name overlap, the newer pod is found.
        named.iter().rev().filter_map(Weak::upgrade).find(is_it)
    }
}

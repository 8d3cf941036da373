//! The pods of this node as destinations of each other: which of them a workload is.

use std::{
    net::IpAddr,
    sync::{Arc, Weak},
};

use dashmap::DashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::pod::Pod;
use crate::{protocols::mesh::Workload, sys::socket};

/// The pods this process serves, by name. A connection reads one entry of it and keeps nothing.
#[derive(Default)]
pub struct PodDirectory(DashMap<Box<str>, SmallVec<[Weak<Pod>; 1]>, foldhash::fast::RandomState>);

/// Addresses that a pod was found to have, and the push after which it was looked.
#[derive(Debug, Default)]
pub struct OwnAddresses(Mutex<(u64, SmallVec<[IpAddr; 2]>)>);

// === impl Neighbours ===

impl PodDirectory {
    /// `pod` is served from now on.
    pub fn add(&self, pod: &Arc<Pod>) {
        self.remove(pod);
        self.0.entry(pod.info.name.as_str().into()).or_default().push(Arc::downgrade(pod));
    }

    /// `pod` is not served any more.
    pub fn remove(&self, pod: &Arc<Pod>) {
        if let Some(mut named) = self.0.get_mut(pod.info.name.as_str()) {
            named.retain(|held| held.upgrade().is_some_and(|held| held.serial != pod.serial));
        }
        self.0.remove_if(pod.info.name.as_str(), |_, named| named.is_empty());
    }

    /// The pod that is `workload`, if it is served here and takes connections.
    pub fn find(&self, workload: &Workload) -> Option<Arc<Pod>> {
        let named = self.0.get(workload.name())?;
        let is_it = |pod: &Arc<Pod>| {
            pod.info.namespace == workload.namespace()
                && pod.info.service_account == workload.service_account()
                && !*pod.draining.borrow()
        };
        // Of two that overlap the newer one has the name.
        named.iter().rev().filter_map(Weak::upgrade).find(is_it)
    }
}

// === impl OwnAddresses ===

impl OwnAddresses {
    /// Whether `pod` has the address `ip` in its namespace. Looked up again only after a push.
    pub fn include(&self, pod: &Pod, ip: IpAddr) -> bool {
        let push = *pod.node.mesh_changed.borrow();
        let mut known = self.0.lock();
        if known.0 != push {
            *known = (push, SmallVec::new());
        }
        if known.1.contains(&ip) {
            return true;
        }
        let found = pod.netns.enter_sticky(|| socket::is_own(ip)).unwrap_or(false);
        if found {
            known.1.push(ip);
        }
        found
    }
}

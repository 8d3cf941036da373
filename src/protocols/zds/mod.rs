//! istio-cni's hand-over of a node's pods, ZDS (docs/spec/dataplane.md 6): packets, the core that answers them,
//! and when to dial again.

pub mod codec;
pub(crate) mod redial;
pub(crate) mod session;

use std::sync::Arc;

/// What makes a network namespace itself: the device and inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// Who a pod is, as istio-cni says it. The trust domain is not its to say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodInfo {
    /// The pod's name.
    pub name: Arc<str>,
    /// Its Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
}

//! ZDS, with which istio-cni hands over a node's pods (docs/spec/dataplane.md 6): the packets, the core that answers
//! the packets, and the redial delays.

pub mod codec;
pub(crate) mod redial;
pub(crate) mod session;

use std::sync::Arc;

/// The id of a network namespace: the device and the inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// A pod's names as istio-cni sends them. istio-cni does not send the trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodInfo {
    /// The pod's name.
    pub name: Arc<str>,
    /// Its Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
}

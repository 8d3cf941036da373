//! What a testbed needs besides hosts and proxies: a control plane and the CNI of each node.

use std::{
    error::Error,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::lab::{hosts::Host, topology::PodPlan};

/// How proxies reach the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Where it serves discovery and certificates, over TLS.
    pub address: SocketAddr,
    /// The file with the certificate that its own one goes back to.
    pub root_cert: PathBuf,
    /// The file with the token that proves who a proxy is.
    pub token: PathBuf,
}

/// A control plane or a CNI has failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct ServiceError {
    /// What was to be done.
    pub what: String,
    /// Why it was not.
    pub source: Box<dyn Error + Send + Sync>,
}

/// Starts these, inside their hosts' namespaces (see [`crate::lab::apps::background`]), and ends them when it is
/// dropped.
pub trait Services {
    /// Starts the control plane on `host`; its files go into `directory`. It listens on return.
    fn start_control(&mut self, host: &Host, directory: &Path) -> Result<Access, ServiceError>;

    /// Starts the CNI's side of ZDS for `node` at the path `socket`, with no pods. It listens on return.
    fn start_cni(&mut self, node: &Host, socket: &Path) -> Result<(), ServiceError>;

    /// Tells the pod's node of a pod whose redirection is in place. With a proxy connected, it waits for its
    /// answer.
    fn add_pod(&mut self, pod: &PodPlan, host: &Host) -> Result<(), ServiceError>;

    /// Tells the pod's node that a pod is gone.
    fn remove_pod(&mut self, pod: &PodPlan) -> Result<(), ServiceError>;
}

// === impl ServiceError ===

impl ServiceError {
    /// `what` could not be done because of `source`.
    pub fn new(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: source.into() }
    }
}

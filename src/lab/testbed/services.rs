//! The services of a testbed besides hosts and proxies: a control plane and the CNI of each node.

use std::{
    error::Error,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::lab::{apps::Background, hosts::Host, topology::PodPlan};

/// The proxies' access to the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The address where the control plane serves discovery and certificates, over TLS.
    pub address: SocketAddr,
    /// The file with the root of the control plane's certificate.
    pub root_cert: PathBuf,
    /// The file with the token that proves a proxy's identity.
    pub token: PathBuf,
}

/// The error of a control plane or a CNI.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct ServiceError {
    /// The operation that failed.
    pub what: String,
    /// The cause of the failure.
    pub source: Box<dyn Error + Send + Sync>,
}

/// Starts the control plane and the CNIs inside their hosts' namespaces (see [`crate::lab::apps::background`]), and
/// ends them when the value is dropped.
pub trait Services {
    /// Starts the control plane on `host`; its files go into `directory`. The control plane listens on return.
    fn start_control(&mut self, host: &Host, directory: &Path) -> Result<Access, ServiceError>;

    /// Starts the CNI's side of ZDS for `node` at the path `socket`, with no pods. The CNI listens on return.
    fn start_cni(&mut self, node: &Host, socket: &Path) -> Result<(), ServiceError>;

    /// Hands a pod, whose redirection is in place, to the pod's node. If a proxy is connected, the call waits for the
    /// proxy's answer.
    fn add_pod(&mut self, pod: &PodPlan, host: &Host) -> Result<(), ServiceError>;

    /// Starts a gateway on `host`, listening on `port`, until the value is dropped.
    ///
    /// # Errors
    /// The services know no gateways, or the gateway cannot listen.
    fn start_gateway(&mut self, host: &Host, port: u16) -> Result<Background<u64>, ServiceError> {
        let what = format!("cannot start a gateway on {} port {port}", host.name());
        Err(ServiceError::new(what, "only the lab's own control plane has gateways"))
    }

    /// Tells the pod's node that a pod is gone.
    fn remove_pod(&mut self, pod: &PodPlan) -> Result<(), ServiceError>;
}

// === impl ServiceError ===

impl ServiceError {
    /// The error that `what` failed because of `source`.
    pub fn new(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: source.into() }
    }
}

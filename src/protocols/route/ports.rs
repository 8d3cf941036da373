//! The proxy's own ports, which no connection may lead to.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::{error::RouteError, request::Source};
use crate::protocols::addr::OrigDst;

/// The ports of the proxy's own listeners, which no connection may lead back to (contract/dataplane.md section 1.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IllegalPorts(SmallVec<[u16; 4]>);

// === impl IllegalPorts ===

impl IllegalPorts {
    /// The given ports.
    pub fn new(ports: impl IntoIterator<Item = u16>) -> Self {
        Self(ports.into_iter().collect())
    }

    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }

    /// Refuses an outbound connection to the proxy's own listeners: a port of them on a loopback address, or on an
    /// address of the pod itself. To be asked before [`outbound`](super::outbound()), which does not know the ports.
    ///
    /// # Errors
    /// [`RouteError::Recursive`].
    pub fn check_outbound(&self, source: &Source<'_>, dst: OrigDst) -> Result<(), RouteError> {
        let own = |ip: IpAddr| ip == source.client || source.workload.addresses().contains(&ip);
        if self.contains(dst.port()) && (dst.ip().is_loopback() || own(dst.ip())) {
            return Err(RouteError::Recursive);
        }
        Ok(())
    }
}

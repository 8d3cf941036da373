//! The proxy's own ports, which no connection may lead to.

use std::net::IpAddr;

use super::{error::RouteError, request::Source};
use crate::protocols::{addr::OrigDst, config::Ports};

/// Refuses an outbound connection to the proxy's own listeners: to one of `ports` on a loopback address, or on an address
/// of the pod itself. It is asked before [`outbound`](super::outbound()), which does not know the ports
/// (docs/spec/dataplane.md 1.4).
///
/// # Errors
/// [`RouteError::Recursive`].
pub fn check_outbound(ports: &Ports, source: &Source<'_>, dst: OrigDst) -> Result<(), RouteError> {
    let own = |ip: IpAddr| ip == source.client || source.workload.addresses().contains(&ip);
    if ports.is_illegal(dst.port()) && (dst.ip().is_loopback() || own(dst.ip())) {
        return Err(RouteError::Recursive);
    }
    Ok(())
}

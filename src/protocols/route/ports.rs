//! The proxy's own ports, which no connection may lead to.

use std::net::IpAddr;

use super::{error::RouteError, request::Source};
use crate::protocols::{
    addr::OrigDst,
    config::{DnsAddr, Ports},
};

/// Refuses an outbound connection to the proxy's own listeners: to one of `ports` on a loopback address, on an address of
/// the pod itself, or where the DNS proxy listens. It is asked before [`outbound`](super::outbound()), which does not know the ports
/// (docs/spec/dataplane.md 1.4).
///
/// # Errors
/// [`RouteError::Recursive`].
pub fn check_outbound(ports: &Ports, source: &Source<'_>, dst: OrigDst) -> Result<(), RouteError> {
    let is_dns = |ip: IpAddr| matches!(ports.dns, Some(DnsAddr::Ip(dns)) if dns.ip().to_canonical() == ip);
    let own = |ip: IpAddr| ip == source.client || source.workload.addresses().contains(&ip) || is_dns(ip);
    if ports.is_illegal(dst.addr()) && (dst.ip().is_loopback() || own(dst.ip())) {
        return Err(RouteError::Recursive);
    }
    Ok(())
}

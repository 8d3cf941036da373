//! Inbound decisions (docs/spec/dataplane.md 4).

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use super::waypoint;
use crate::protocols::{
    addr::{HboneAddr, OrigDst},
    config::Ports,
    mesh::{ApplicationTunnel, Gateway, Mesh, Service, TunnelHeader, Workload},
};

/// A request that came through HBONE to a workload of this node.
#[derive(Clone, Copy, Debug)]
pub struct InboundHbone<'a> {
    /// The workload.
    pub local: &'a Workload,
    /// Where the TCP connection of the tunnel went: an address of the workload.
    pub dst: SocketAddr,
    /// What the request asks for.
    pub authority: &'a HboneAddr,
    /// Whether an application tunnel with a PROXY header is dialled on the loopback address.
    pub localhost_app_tunnel: bool,
}

/// Where an inbound connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The destination policies are asked about, and the application believes in: an address of the pod, and the final
    /// port.
    pub target: SocketAddr,
    /// What is dialled. If it is a loopback address, so is the source; else the source is the client's address.
    pub dial: SocketAddr,
    /// The destination to name in a PROXY header, if there is to be one.
    pub proxy_header_dst: Option<SocketAddr>,
    /// The service the request names by its hostname.
    pub service: Option<Arc<Service>>,
}

/// Why an inbound connection is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InboundError {
    /// The address asked for is neither the pod's nor one it is the waypoint of.
    #[error("ip mismatch: {asked} is not served at {dst}")]
    PeerAddress {
        /// The address asked for.
        asked: IpAddr,
        /// The address dialled.
        dst: IpAddr,
    },
    /// No service of that hostname is known, or none the pod's namespace may see.
    #[error("unknown service: {0}")]
    UnknownHost(Box<str>),
    /// The service does not have that port, or the workload does not map it.
    #[error("no port {port} of service {service} at this workload")]
    UnknownPort {
        /// The hostname.
        service: Box<str>,
        /// The service port.
        port: u16,
    },
    /// The service has no address a PROXY header could name.
    #[error("service {0} has no address for a PROXY header")]
    NoVip(Box<str>),
    /// A port of the proxy's own listeners.
    #[error("attempted recursive call to ourselves")]
    Recursive,
}

// === impl Inbound ===

impl Inbound {
    /// Whether a PROXY header goes first.
    pub fn proxy_protocol(&self) -> bool {
        self.proxy_header_dst.is_some()
    }
}

// === impl InboundError ===

impl InboundError {
    /// The HTTP status of the refusal (docs/spec/dataplane.md 2.4).
    pub fn status(&self) -> u16 {
        match self {
            Self::PeerAddress { .. } => 400,
            Self::UnknownHost(_) | Self::UnknownPort { .. } | Self::NoVip(_) | Self::Recursive => 503,
        }
    }
}

/// Decides where a request of an HBONE tunnel goes. Policies are asked about the result, not here.
///
/// # Errors
/// See [`InboundError`].
pub fn inbound_hbone(
    mesh: &Mesh,
    request: &InboundHbone<'_>,
    ports: &Ports,
) -> Result<Inbound, InboundError> {
    let InboundHbone { local, dst, authority, localhost_app_tunnel } = *request;
    // The address in the authority only ever says whether the request is meant for this pod.
    let pod = dst.ip().to_canonical();
    let (port, service) = match authority {
        HboneAddr::Ip(asked) => {
            if !is_for(mesh, local, pod, asked.ip()) {
                return Err(InboundError::PeerAddress { asked: asked.ip(), dst: pod });
            }
            (asked.port(), None)
        }
        HboneAddr::Host(hostname, port) => {
            let service = mesh
                .service_by_host(hostname, local.namespace())
                .ok_or_else(|| InboundError::UnknownHost(hostname.clone()))?;
            let target = port_of(local, &service, *port)
                .ok_or_else(|| InboundError::UnknownPort { service: hostname.clone(), port: *port })?;
            (target, Some(service))
        }
    };
    let tunnel = local.application_tunnel();
    let target = SocketAddr::new(pod, tunnel.and_then(|tunnel| tunnel.port).unwrap_or(port));
    let proxied = matches!(tunnel, Some(ApplicationTunnel { protocol: TunnelHeader::Proxy, .. }));
    let dial = if proxied && localhost_app_tunnel { loopback(target) } else { target };
    // The port asked for, not only the one it is turned into.
    if [SocketAddr::new(pod, port), target, dial].into_iter().any(|addr| ports.is_illegal(addr)) {
        return Err(InboundError::Recursive);
    }
    let proxy_header_dst = if !proxied {
        None
    } else if let (HboneAddr::Host(hostname, port), Some(service)) = (authority, &service) {
        let vip =
            vip_of(service, &mesh.local().network).ok_or_else(|| InboundError::NoVip(hostname.clone()))?;
        Some(SocketAddr::new(vip, *port))
    } else if let HboneAddr::Ip(asked) = authority {
        Some(*asked)
    } else {
        None
    };
    Ok(Inbound { target, dial, proxy_header_dst, service })
}

/// Decides where a connection that came without a tunnel goes: to where it was going.
///
/// # Errors
/// [`InboundError::Recursive`].
pub fn inbound_plaintext(dst: OrigDst, ports: &Ports) -> Result<Inbound, InboundError> {
    if ports.is_illegal(dst.addr()) {
        return Err(InboundError::Recursive);
    }
    Ok(Inbound { target: dst.addr(), dial: dst.addr(), proxy_header_dst: None, service: None })
}

/// The service an inbound connection is counted for: the one the client names, if `local` belongs to it; else the first
/// with that target port (docs/spec/controlplane.md 5.3).
pub fn inbound_service(
    mesh: &Mesh,
    local: &Workload,
    named: Option<&str>,
    target_port: u16,
) -> Option<Arc<Service>> {
    if let Some(named) = named {
        let is_it = |service: &Arc<Service>| service.hostname() == named;
        if let Some(service) = mesh.services_of(local).find(is_it) {
            return Some(service);
        }
    }
    let has_port = |service: &Arc<Service>| {
        service.ports().iter().any(|(port, _)| port_of(local, service, port) == Some(target_port)) //
    };
    mesh.services_of(local).find(has_port)
}

/// Whether a pod at `pod` may be asked for `asked`: its own address; any, if it has an application tunnel; or one it is
/// the waypoint of.
fn is_for(mesh: &Mesh, local: &Workload, pod: IpAddr, asked: IpAddr) -> bool {
    if asked == pod || local.application_tunnel().is_some() {
        return true;
    }
    let network = &mesh.local().network;
    let leads_here = |gateway: &Gateway| waypoint::leads_to(mesh, gateway, local, pod);
    if let Some(workload) = mesh.workload_by_ip(network, asked) {
        return workload.waypoint().is_some_and(leads_here);
    }
    waypoint::service_of_address(mesh, network, asked, local.namespace()).is_some_and(|service| {
        let weighted = service.weighted_waypoints().iter().map(|waypoint| &waypoint.gateway);
        service.waypoint().into_iter().chain(weighted).any(leads_here)
    })
}

/// The port of `local` behind a service port.
fn port_of(local: &Workload, service: &Service, port: u16) -> Option<u16> {
    let of_endpoint = local.membership(service.key()).and_then(|membership| membership.ports.target(port));
    of_endpoint.into_iter().chain(service.ports().target(port)).find(|&target| target != 0)
}

/// The address of a service that a PROXY header names: one of the own network rather than another, IPv4 rather than
/// IPv6.
fn vip_of(service: &Service, network: &str) -> Option<IpAddr> {
    let best = service.vips().iter().min_by_key(|vip| (*vip.network != *network, vip.ip.is_ipv6()));
    best.map(|vip| vip.ip)
}

fn loopback(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, addr.port())
}

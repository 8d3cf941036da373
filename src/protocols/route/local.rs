//! Which hops may end inside the proxy that serves both pods.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use super::{hop::HBONE_PORT, request::Source};
use crate::protocols::{addr::HboneAddr, mesh::Workload};

/// Whether the proxy of the destination's own node serves a hop to `to` with `authority`. A waypoint, in contrast, is
/// asked for addresses of other workloads.
pub fn is_at_destination(to: SocketAddr, authority: &HboneAddr) -> bool {
    matches!(authority, HboneAddr::Ip(asked) if to.port() == HBONE_PORT && asked.ip() == to.ip())
}

/// Whether a hop of `src` to `to`, which asks for `authority`, is one from a pod to a pod, so that a proxy that serves
/// both need not dial itself: nothing a tunnel shows of its client would be different. Waypoints keep their tunnels.
///
/// A tunnel comes from an address of the client's pod. An application may speak from another one, which policies and
/// servers must not be shown.
pub fn is_between_pods(
    src: &Source<'_>,
    destination: &Workload,
    to: SocketAddr,
    authority: &HboneAddr,
) -> bool {
    is_at_destination(to, authority)
        && destination.addresses().contains(&to.ip())
        && src.workload.addresses().contains(&src.client)
        && src.client.is_ipv4() == to.is_ipv4()
}

//! Which hops may end inside the proxy that serves both pods.

use std::net::SocketAddr;

use super::{HBONE_PORT, Source};
use crate::protocols::{addr::HboneAddr, mesh::Workload};

/// Whether a hop of `src` to `to`, which asks for `authority`, is one from a pod to a pod, so that a proxy that serves
/// both need not dial itself: nothing a tunnel shows of its client would be different. Waypoints, which are asked for
/// addresses of others, keep their tunnels.
///
/// A tunnel comes from an address of the client's pod. An application may speak from another one, which policies and
/// servers must not be shown.
pub fn is_between_pods(
    src: &Source<'_>,
    destination: &Workload,
    to: SocketAddr,
    authority: &HboneAddr,
) -> bool {
    let HboneAddr::Ip(asked) = authority else { return false };
    to.port() == HBONE_PORT
        && asked.ip() == to.ip()
        && destination.addresses().contains(&to.ip())
        && src.workload.addresses().contains(&src.client)
        && src.client.is_ipv4() == to.is_ipv4()
}

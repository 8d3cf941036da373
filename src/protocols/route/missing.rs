//! The names that a connection needs and the tables lack, where addresses come on demand
//! (docs/spec/controlplane.md 2.3).
//!
//! A name is `network/ip` or `namespace/hostname`. The control plane answers for a service with its endpoints as well.

#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use super::{request::Source, waypoint};
use crate::protocols::{
    addr::{ClientAddr, HboneAddr, OrigDst},
    mesh::{Gateway, GatewayDestination, Mesh, Service, Sight, Workload},
};

/// A reference leads to a waypoint, and the waypoint to the gateway of its network.
/// Limit: references that are followed from a destination: 2; past it: what they lead to is asked for when it is needed.
const REFERENCES_MAX: usize = 2;

/// Collects names, each once.
struct Missing<'a> {
    mesh: &'a Mesh,
    network: &'a str,
    names: Vec<String>,
}

/// The names that an outbound connection of `src` to `dst` needs and `mesh` lacks.
pub(crate) fn missing_outbound(mesh: &Mesh, src: &Source<'_>, dst: OrigDst) -> Vec<String> {
    let mut missing = Missing::new(mesh, src.workload.network());
    let namespace = src.workload.namespace();
    let network = &mesh.local().network;
    let exact = mesh.service_by_exact_vip(network, dst.ip(), namespace, Sight::ControlPlane);
    let workload = mesh.workload_by_ip(network, dst.ip());
    if exact.is_none() && workload.is_none() {
        missing.address(network, dst.ip());
    }
    if let Some(workload) = workload {
        missing.behind_workload(&workload, REFERENCES_MAX);
    }
    if let Some(service) = mesh.service_by_vip(network, dst.ip(), namespace) {
        missing.behind_service(&service, REFERENCES_MAX);
    }
    missing.names
}

/// The names that a request to `local` at `pod` for `authority` needs and `mesh` lacks.
pub(crate) fn missing_inbound(
    mesh: &Mesh,
    local: &Workload,
    pod: IpAddr,
    authority: &HboneAddr,
) -> Vec<String> {
    let mut missing = Missing::new(mesh, local.network());
    match authority {
        HboneAddr::Ip(asked) if asked.ip() == pod || local.application_tunnel().is_some() => {}
        HboneAddr::Ip(asked) => {
            let network = &mesh.local().network;
            let workload = mesh.workload_by_ip(network, asked.ip());
            let service = waypoint::service_of_address(mesh, network, asked.ip(), local.namespace());
            match (workload, service) {
                (Some(workload), _) => missing.gateways(workload.waypoint()),
                (None, Some(service)) => missing.gateways(waypoints(&service)),
                (None, None) => missing.address(network, asked.ip()),
            }
        }
        HboneAddr::Host(hostname, _) => missing.services(local, |own| own == &**hostname),
    }
    missing.names
}

/// The names that describe a connection from `client` to `local` in metrics, where `mesh` lacks them.
pub(crate) fn missing_labels(mesh: &Mesh, local: &Workload, client: ClientAddr) -> Vec<String> {
    let mut missing = Missing::new(mesh, local.network());
    let network = &mesh.local().network;
    if mesh.workload_by_ip(network, client.ip()).is_none() {
        missing.address(network, client.ip());
    }
    missing.services(local, |_| true);
    missing.names
}

fn waypoints(service: &Service) -> impl Iterator<Item = &Gateway> {
    let weighted = service.weighted_waypoints().iter().filter(|waypoint| waypoint.weight > 0);
    service.waypoint().into_iter().chain(weighted.map(|waypoint| &waypoint.gateway))
}

// === impl Missing ===

impl<'a> Missing<'a> {
    fn new(mesh: &'a Mesh, network: &'a str) -> Self {
        Self { mesh, network, names: Vec::new() }
    }

    fn name(&mut self, name: String) {
        if !self.names.contains(&name) {
            self.names.push(name);
        }
    }

    fn address(&mut self, network: &str, ip: IpAddr) {
        self.name(format!("{network}/{ip}"));
    }

    /// The services of `local` whose hostname `wanted` accepts.
    fn services(&mut self, local: &Workload, wanted: impl Fn(&str) -> bool) {
        for membership in local.services() {
            let (namespace, hostname) = membership.service.parts();
            if wanted(hostname) && self.mesh.service(namespace, hostname).is_none() {
                self.name(membership.service.as_str().to_owned());
            }
        }
    }

    fn gateways<'g>(&mut self, gateways: impl IntoIterator<Item = &'g Gateway>) {
        for gateway in gateways {
            self.gateway(gateway, 0);
        }
    }

    /// What `gateway` refers to, and what that needs.
    fn gateway(&mut self, gateway: &Gateway, references: usize) {
        let (service, workload) = match &gateway.destination {
            GatewayDestination::Address { network, ip } => (
                self.mesh.service_by_exact_vip(network, *ip, "", Sight::ControlPlane),
                self.mesh.workload_by_ip(network, *ip),
            ),
            GatewayDestination::Host(name) => {
                (self.mesh.service(name.namespace(), name.hostname()), self.mesh.workload_by_hostname(name))
            }
        };
        match (&gateway.destination, service, workload) {
            (_, Some(service), _) => self.endpoints(&service, references),
            (_, None, Some(workload)) => self.network_of(&workload, references),
            (GatewayDestination::Address { network, ip }, None, None) => self.address(network, *ip),
            (GatewayDestination::Host(name), None, None) => self.name(name.as_str().to_owned()),
        }
    }

    fn behind_workload(&mut self, workload: &Workload, references: usize) {
        if let Some(waypoint) = workload.waypoint() {
            self.gateway(waypoint, references.saturating_sub(1));
        }
        self.network_of(workload, references);
    }

    fn behind_service(&mut self, service: &Arc<Service>, references: usize) {
        for waypoint in waypoints(service) {
            self.gateway(waypoint, references.saturating_sub(1));
        }
        self.endpoints(service, references);
    }

    /// The gateways of the networks of a service's endpoints.
    fn endpoints(&mut self, service: &Service, references: usize) {
        let Some(endpoints) = self.mesh.endpoints(service) else { return };
        let mut last: Option<&Gateway> = None;
        for endpoint in endpoints.workloads() {
            // Endpoints of one network mostly follow each other and have one gateway.
            let gateway = endpoint.network_gateway();
            // An endpoint of this network needs none.
            if endpoint.network() != self.network && gateway != last {
                self.network_of(endpoint, references);
                last = gateway;
            }
        }
    }

    /// The gateway of the network of `workload`, if that is another network.
    fn network_of(&mut self, workload: &Workload, references: usize) {
        if references > 0
            && workload.network() != self.network
            && let Some(gateway) = workload.network_gateway()
        {
            self.gateway(gateway, references - 1);
        }
    }
}

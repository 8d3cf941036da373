//! Waypoints and network gateways: from a reference to a workload, and back (docs/spec/dataplane.md 3.2).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rand::Rng;

use super::{
    balance::{self, Chosen, DialTarget, Purpose, Standing, Wanted},
    recorder::{Fact, RouteRecorder},
    request::{Pick, Source},
};
use crate::protocols::mesh::{
    Gateway, GatewayDestination, Mesh, Service, Sight, Workload, service::BalancingMode,
};

/// The workload or service that an address stands for.
pub(super) enum Found {
    /// A workload of that address.
    Workload(Arc<Workload>),
    /// A service of that address.
    Service(Arc<Service>),
}

/// A reference to a waypoint or to a network gateway.
#[derive(Clone, Copy)]
pub(super) struct Reference<'a> {
    /// The gateway that the control plane names.
    pub(super) gateway: &'a Gateway,
    /// The address dialled, whose family is preferred.
    pub(super) hint: IpAddr,
    /// What the workload behind the reference is to do.
    pub(super) purpose: Purpose,
}

/// What dialling an address of `network` means, for a client of `namespace`: a service with exactly that address, a
/// workload, a service with a range around it.
///
/// The order is not that of docs/spec/dataplane.md 3.1, which puts ranges before workloads: a range over
/// known pods would then send calls of one pod to others.
pub(super) fn find(mesh: &Mesh, network: &str, ip: IpAddr, namespace: &str, sight: Sight) -> Option<Found> {
    mesh.steadily(|| {
        mesh.service_by_exact_vip(network, ip, namespace, sight)
            .map(Found::Service)
            .or_else(|| mesh.workload_by_ip(network, ip).map(Found::Workload))
            .or_else(|| mesh.service_by_cidr_vip(network, ip, namespace, sight).map(Found::Service))
    })
}

/// The service of an address, whoever may see it; of several, the one a client of `namespace` would mean.
pub(super) fn service_of_address(
    mesh: &Mesh,
    network: &str,
    ip: IpAddr,
    namespace: &str,
) -> Option<Arc<Service>> {
    mesh.steadily(|| {
        mesh.service_by_exact_vip(network, ip, namespace, Sight::ControlPlane)
            .or_else(|| mesh.service_by_cidr_vip(network, ip, namespace, Sight::ControlPlane))
    })
}

/// The waypoint of a connection to `service`: one of the weighted ones, else the only one.
pub(super) fn of_service<'s, R: RouteRecorder>(
    service: &'s Service,
    pick: &mut Pick<'_, R>,
) -> Option<&'s Gateway> {
    let weighted = service.weighted_waypoints();
    let sum: u64 = weighted.iter().map(|waypoint| u64::from(waypoint.weight)).sum();
    if sum == 0 {
        return service.waypoint();
    }
    let mut at = pick.rng.random_range(0..sum);
    for waypoint in weighted {
        match at.checked_sub(u64::from(waypoint.weight)) {
            Some(left) => at = left,
            None => return Some(&waypoint.gateway),
        }
    }
    service.waypoint()
}

/// The workload behind a reference. `None` if nothing is known by it, or nothing that may be used.
pub(super) fn resolve<R: RouteRecorder>(
    mesh: &Mesh,
    source: &Source<'_>,
    Reference { gateway, hint, purpose }: Reference<'_>,
    pick: &mut Pick<'_, R>,
) -> Option<Chosen> {
    let port = gateway.hbone_port;
    let source = source.workload;
    let (found, hint) = look_up(mesh, source, gateway, hint)?;
    match found {
        Found::Service(service) => {
            let standing =
                |gateway: &Gateway, pick: &Pick<'_, R>| gateway_standing(mesh, source, (gateway, hint), pick);
            let wanted = Wanted { source, hint, port, purpose, standing: &standing };
            balance::choose(mesh, &service, &wanted, pick)
        }
        Found::Workload(workload) => {
            let beyond = purpose != Purpose::Gateway && workload.network() != source.network();
            let dial_target = balance::dial_target(&workload, hint, None);
            let dial_target =
                dial_target.filter(|dial_target| beyond || *dial_target != DialTarget::Gateway)?;
            pick.recorder.hear(Fact::Chosen(&workload, port));
            Some(Chosen::direct(workload, port, dial_target))
        }
    }
}

/// The standing of a gateway of another network. A gateway is unusable if it leads nowhere but to excluded addresses.
/// The second part of `gateway` is the address dialled, whose family is preferred.
pub(super) fn gateway_standing<R: RouteRecorder>(
    mesh: &Mesh,
    source: &Workload,
    (gateway, hint): (&Gateway, IpAddr),
    pick: &Pick<'_, R>,
) -> Standing {
    let port = gateway.hbone_port;
    let Some((found, hint)) = look_up(mesh, source, gateway, hint) else { return Standing::Unusable };
    match found {
        Found::Service(service) => {
            // A gateway is dialled itself, so no gateway leads to it.
            let wanted = Wanted {
                source,
                hint,
                port,
                purpose: Purpose::Gateway,
                standing: &|_, _| Standing::Unusable,
            };
            balance::standing(mesh, &service, &wanted, pick)
        }
        Found::Workload(workload) => match balance::dial_target(&workload, hint, None) {
            Some(DialTarget::Ip(ip)) if pick.excludes(SocketAddr::new(ip, port)) => Standing::Unusable,
            Some(DialTarget::Ip(ip)) if pick.suspects(&workload, SocketAddr::new(ip, port)) => {
                Standing::Suspect
            }
            Some(DialTarget::Ip(_) | DialTarget::Host(_)) => Standing::Trusted,
            Some(DialTarget::Gateway) | None => Standing::Unusable,
        },
    }
}

/// What the reference stands for, and the address whose family is preferred.
fn look_up(mesh: &Mesh, source: &Workload, gateway: &Gateway, hint: IpAddr) -> Option<(Found, IpAddr)> {
    match &gateway.destination {
        GatewayDestination::Address { network, ip } => {
            Some((find(mesh, network, *ip, source.namespace(), Sight::ControlPlane)?, *ip))
        }
        GatewayDestination::Host(name) => {
            let service = mesh.service(name.namespace(), name.hostname()).map(Found::Service);
            Some((service.or_else(|| mesh.workload_by_hostname(name).map(Found::Workload))?, hint))
        }
    }
}

/// Whether `workload`, at the address `ip` of its network, is what the reference leads to: an endpoint of that service,
/// or the workload that has the address.
pub(super) fn leads_to(mesh: &Mesh, gateway: &Gateway, workload: &Workload, ip: IpAddr) -> bool {
    let service = match &gateway.destination {
        GatewayDestination::Address { network, ip: address } => {
            if let Some(found) = mesh.workload_by_ip(network, *address) {
                return has_address(&found, workload, ip);
            }
            service_of_address(mesh, network, *address, workload.namespace())
        }
        GatewayDestination::Host(name) => {
            let service = mesh.service(name.namespace(), name.hostname());
            if service.is_none() {
                let found = mesh.workload_by_hostname(name);
                return found.is_some_and(|found| has_address(&found, workload, ip));
            }
            service
        }
    };
    service.is_some_and(|service| workload.membership(service.key()).is_some())
}

/// Whether `found` has the address `ip` of the network of `workload`. Several networks may use one address.
fn has_address(found: &Workload, workload: &Workload, ip: IpAddr) -> bool {
    found.network() == workload.network() && found.addresses().contains(&ip)
}

/// Whether the application is the waypoint that `gateway` refers to, by identity and address.
pub(super) fn is_source(mesh: &Mesh, gateway: &Gateway, source: &Source<'_>) -> bool {
    let Source { workload, client } = *source;
    workload.addresses().contains(&client)
        && match look_up(mesh, workload, gateway, client) {
            Some((Found::Workload(found), _)) => {
                found.identity() == workload.identity() && has_address(&found, workload, client)
            }
            Some((Found::Service(service), _)) => workload.membership(service.key()).is_some(),
            None => false,
        }
}

/// Whether connections to the service are left as they are.
pub(super) fn is_passthrough(service: &Service) -> bool {
    service.balancing().mode == BalancingMode::Passthrough
}

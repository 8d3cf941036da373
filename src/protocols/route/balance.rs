//! Which endpoint of a service, and which of its addresses (docs/spec/dataplane.md 3.3).

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rand::Rng;

use super::{
    hop::{HBONE_PORT, Sans, Upstream},
    recorder::{Examined, Fact, PassedOver, RouteRecorder},
    request::Pick,
};
use crate::protocols::mesh::{
    Endpoints, Gateway, Mesh, Place, Service, TunnelProtocol, Workload,
    service::{BalancingMode, Scope},
};

/// How often one endpoint is drawn at random and looked at alone before all are looked at.
/// Limit: endpoints that are drawn at random before all are weighed: 16; past it: all are weighed.
const ENDPOINT_DRAWS: usize = 16;

/// The role of the endpoint to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be the destination.
    Destination,
    /// To be a gateway of another network.
    Gateway,
    /// To be a waypoint: with an application tunnel, it need not have the port.
    Waypoint,
}

/// What is known of the gateway of another network. The better one is the greater one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// The gateway is not known, or has failed. Endpoints behind it are the last resort.
    Unusable,
    /// The gateway is suspect, so other endpoints go first.
    Suspect,
    /// The gateway may be used.
    Trusted,
}

/// A choice among endpoints.
pub(super) struct Wanted<'a, R> {
    pub(super) source: &'a Workload,
    /// The address asked for, which an endpoint may own, or else has the better family.
    pub(super) hint: IpAddr,
    /// The service port.
    pub(super) port: u16,
    pub(super) purpose: Purpose,
    /// The standing of a gateway of another network.
    pub(super) standing: &'a dyn Fn(&Gateway, &Pick<'_, R>) -> Standing,
}

/// The workload to go to, by way of a service or not.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) workload: Arc<Workload>,
    pub(super) service: Option<Arc<Service>>,
    /// The port of the application, waypoint or gateway.
    pub(super) port: u16,
    pub(super) dial_target: DialTarget,
}

/// How a workload is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DialTarget {
    Ip(IpAddr),
    Host(Arc<str>),
    /// The workload has neither address nor name, but there is a gateway to its network.
    Gateway,
}

/// The port and the dial target of a usable endpoint.
struct Eligible {
    port: u16,
    dial_target: DialTarget,
}

// === impl Chosen ===

impl Chosen {
    /// Makes the choice of a workload that was addressed directly.
    pub(super) fn direct(workload: Arc<Workload>, port: u16, dial_target: DialTarget) -> Self {
        Self { workload, service: None, port, dial_target }
    }

    /// What to dial, on `port`; the other arguments are those of a choice. `None` if there is only a gateway.
    pub(super) fn upstream(&self, port: u16, hint: IpAddr) -> Option<Upstream> {
        match &self.dial_target {
            DialTarget::Ip(ip) => Some(Upstream::Ip(SocketAddr::new(*ip, port))),
            DialTarget::Host(host) => {
                Some(Upstream::Host { host: Arc::clone(host), port, prefer_v6: hint.is_ipv6() })
            }
            DialTarget::Gateway => None,
        }
    }

    /// The identities that the endpoint may have.
    pub(super) fn sans(&self) -> Sans {
        Sans::new(self.service.as_deref(), Some(&self.workload))
    }

    /// The identities that the endpoint may have according to the service.
    pub(super) fn service_sans(&self) -> Sans {
        Sans::new(self.service.as_deref(), None)
    }
}

/// Chooses an endpoint. `None` if none may be used. An endpoint whose gateway may not be used is chosen only if there
/// is no other one, so that the caller can name the gateway.
pub(super) fn choose<R: RouteRecorder>(
    mesh: &Mesh,
    service: &Arc<Service>,
    wanted: &Wanted<'_, R>,
    pick: &mut Pick<'_, R>,
) -> Option<Chosen> {
    pick.recorder.hear(Fact::Choice(service, wanted.port));
    let endpoints = mesh.endpoints(service)?;
    let choice = Choice { service, wanted, any_gateway: false };
    if R::HEARS {
        choice.tell(&endpoints, pick);
    }
    let last_resort = Choice { any_gateway: true, ..choice };
    let (workload, Eligible { port, dial_target }) = match service.balancing().mode {
        BalancingMode::Passthrough => return None,
        BalancingMode::Standard => {
            choice.draw(&endpoints, pick).or_else(|| choice.weigh_all(&endpoints, pick))
        }
        BalancingMode::Strict | BalancingMode::Failover => choice.weigh_all(&endpoints, pick),
    }
    .or_else(|| {
        pick.recorder.hear(Fact::LastResort);
        last_resort.weigh_all(&endpoints, pick)
    })?;
    pick.recorder.hear(Fact::Chosen(workload, port));
    Some(Chosen { workload: Arc::clone(workload), service: Some(Arc::clone(service)), port, dial_target })
}

/// The standing of the endpoints of a gateway's service: that of the best one [`choose`] may choose.
pub(super) fn standing<R: RouteRecorder>(
    mesh: &Mesh,
    service: &Service,
    wanted: &Wanted<'_, R>,
    pick: &Pick<'_, R>,
) -> Standing {
    let choice = Choice { service, wanted, any_gateway: false };
    let of = |workload: &Arc<Workload>| {
        let eligible = choice.eligible(workload, pick).ok()?;
        choice.rank(workload.place())?;
        let suspect = choice.is_suspect(workload, &eligible, pick);
        Some(if suspect { Standing::Suspect } else { Standing::Trusted })
    };
    let Some(endpoints) = mesh.endpoints(service) else { return Standing::Unusable };
    let choosable = endpoints.workloads().iter().filter(|workload| workload.capacity() > 0);
    match service.balancing().mode {
        BalancingMode::Passthrough => Standing::Unusable,
        _ => choosable.filter_map(of).max().unwrap_or(Standing::Unusable),
    }
}

/// A draw by capacity among endpoints that come one by one.
#[derive(Default)]
struct Drawing<'e> {
    sum: u64,
    drawn: Option<(&'e Arc<Workload>, Eligible)>,
}

struct Choice<'a, R> {
    service: &'a Service,
    wanted: &'a Wanted<'a, R>,
    /// Whether endpoints count whose gateway may not be used.
    any_gateway: bool,
}

// === impl Choice ===

impl<R: RouteRecorder> Choice<'_, R> {
    /// Draws a bounded number of endpoints at random until a usable endpoint without suspicion comes up. The capacity of
    /// an endpoint decides its probability, and most endpoints are never looked at.
    fn draw<'e>(
        &self,
        endpoints: &'e Endpoints,
        pick: &mut Pick<'_, R>,
    ) -> Option<(&'e Arc<Workload>, Eligible)> {
        let (all, top) = (endpoints.workloads(), endpoints.top_capacity());
        if all.is_empty() || top == 0 {
            return None;
        }
        for _ in 0..ENDPOINT_DRAWS {
            let workload = all.get(pick.rng.random_range(0..all.len()))?;
            let capacity = workload.capacity();
            if capacity < top && pick.rng.random_range(0..top) >= capacity {
                continue;
            }
            if let Ok(eligible) = self.eligible(workload, pick)
                && !self.is_suspect(workload, &eligible, pick)
            {
                return Some((workload, eligible));
            }
        }
        None
    }

    /// Ranks all endpoints, and draws one of the best rank by capacity. A suspect is drawn only if the best rank has no
    /// other endpoint.
    fn weigh_all<'e>(
        &self,
        endpoints: &'e Endpoints,
        pick: &mut Pick<'_, R>,
    ) -> Option<(&'e Arc<Workload>, Eligible)> {
        let (mut best, mut trusted, mut suspects) = (0, Drawing::default(), Drawing::default());
        for workload in endpoints.workloads().iter().filter(|workload| workload.capacity() > 0) {
            let Some(rank) = self.rank(workload.place()) else { continue };
            if rank < best {
                continue;
            }
            let Ok(eligible) = self.eligible(workload, pick) else { continue };
            if rank > best {
                (best, trusted, suspects) = (rank, Drawing::default(), Drawing::default());
            }
            let suspect = self.is_suspect(workload, &eligible, pick);
            let drawing = if suspect { &mut suspects } else { &mut trusted };
            drawing.offer(workload, eligible, pick);
        }
        trusted.drawn.or(suspects.drawn)
    }

    fn is_suspect(&self, workload: &Arc<Workload>, eligible: &Eligible, pick: &Pick<'_, R>) -> bool {
        if self.is_beyond(workload) {
            return self.behind(workload, pick) == Standing::Suspect;
        }
        match eligible.dial_target {
            DialTarget::Ip(ip) => {
                pick.suspects(workload, SocketAddr::new(ip, self.dialled_port(workload, eligible.port)))
            }
            DialTarget::Host(_) | DialTarget::Gateway => false,
        }
    }

    /// The rank of an endpoint at `place` by nearness, or `None` if the endpoint is too far away.
    fn rank(&self, place: &Place) -> Option<usize> {
        let balancing = self.service.balancing();
        let preferences = &balancing.preferences;
        if balancing.mode == BalancingMode::Standard {
            return Some(0);
        }
        let source = self.wanted.source.place();
        let (mut rank, mut bonus) = (0, 0);
        for (at, scope) in preferences.iter().enumerate() {
            let matches = match scope {
                Scope::Region => source.region == place.region,
                Scope::Zone => source.zone == place.zone,
                Scope::Subzone => source.subzone == place.subzone,
                Scope::Node => source.node == place.node,
                Scope::Cluster => source.cluster_id == place.cluster_id,
                Scope::Network => source.network == place.network,
            };
            // The network as the first preference is wanted, not required: whoever shares it goes before all others,
            // whose rank among themselves is still that of the rest.
            let network_first = at == 0 && *scope == Scope::Network;
            if matches {
                rank += 1;
                bonus = if network_first { preferences.len() - 1 } else { bonus };
            } else if !network_first {
                break;
            }
        }
        if balancing.mode == BalancingMode::Strict && rank != preferences.len() {
            return None;
        }
        Some(rank + bonus)
    }

    /// Tells the recorder of each endpoint. The random number generator is left alone, so the choice is what it is
    /// without a recorder.
    fn tell(&self, endpoints: &Endpoints, pick: &mut Pick<'_, R>) {
        for workload in endpoints.workloads() {
            let examined = self.examine(workload, pick).unwrap_or_else(Examined::PassedOver);
            pick.recorder.hear(Fact::Endpoint(workload, &examined));
        }
    }

    fn examine(&self, workload: &Arc<Workload>, pick: &Pick<'_, R>) -> Result<Examined, PassedOver> {
        if workload.capacity() == 0 {
            return Err(PassedOver::NoCapacity);
        }
        let rank = self.rank(workload.place()).ok_or(PassedOver::TooFar)?;
        let eligible = self.eligible(workload, pick)?;
        let suspect = self.is_suspect(workload, &eligible, pick);
        let port = self.dialled_port(workload, eligible.port);
        let Eligible { dial_target, .. } = eligible;
        let chosen = Chosen::direct(Arc::clone(workload), port, dial_target);
        let to = chosen.upstream(port, self.wanted.hint).filter(|_| !self.is_beyond(workload));
        Ok(Examined::Eligible { rank, to, suspect })
    }

    fn eligible(&self, workload: &Workload, pick: &Pick<'_, R>) -> Result<Eligible, PassedOver> {
        if !self.service.admits(workload) {
            return Err(PassedOver::NotReady);
        }
        let port = self.target_port(workload).ok_or(PassedOver::NoPort)?;
        let beyond = self.is_beyond(workload);
        let dial_target = dial_target(workload, self.wanted.hint, Some(self.service));
        let dial_target = dial_target.filter(|dial_target| beyond || *dial_target != DialTarget::Gateway);
        let dial_target = dial_target.ok_or(PassedOver::NoAddress)?;
        if beyond {
            if !self.any_gateway && self.behind(workload, pick) == Standing::Unusable {
                return Err(PassedOver::NoGateway);
            }
        } else if let DialTarget::Ip(ip) = dial_target
            && pick.excludes(SocketAddr::new(ip, self.dialled_port(workload, port)))
        {
            return Err(PassedOver::Failed);
        }
        Ok(Eligible { port, dial_target })
    }

    /// Whether `workload` is reached through a gateway. A gateway is dialled itself, whatever network it is on.
    fn is_beyond(&self, workload: &Workload) -> bool {
        self.wanted.purpose != Purpose::Gateway && workload.network() != self.wanted.source.network()
    }

    /// The standing of the gateway before `workload`.
    fn behind(&self, workload: &Workload, pick: &Pick<'_, R>) -> Standing {
        let gateway = workload.network_gateway();
        gateway.map_or(Standing::Unusable, |gateway| (self.wanted.standing)(gateway, pick))
    }

    fn dialled_port(&self, workload: &Workload, port: u16) -> u16 {
        let tunnelled =
            self.wanted.purpose == Purpose::Destination && workload.protocol() == TunnelProtocol::Hbone;
        if tunnelled { HBONE_PORT } else { port }
    }

    /// The endpoint's port, else the service's, else that of an application tunnel that has one port for all.
    fn target_port(&self, workload: &Workload) -> Option<u16> {
        let port = self.wanted.port;
        let of_service = self.service.ports().target(port);
        let tunnel = workload.application_tunnel();
        if of_service.is_none() && !(self.wanted.purpose == Purpose::Waypoint && tunnel.is_some()) {
            return None;
        }
        let membership = workload.membership(self.service.key())?;
        let of_endpoint = membership.ports.target(port).filter(|&target| target != 0);
        if of_service == Some(0) && of_endpoint.is_none() && self.wanted.purpose != Purpose::Waypoint {
            return None;
        }
        of_endpoint
            .or(of_service.filter(|&target| target != 0))
            .or_else(|| tunnel.and_then(|tunnel| tunnel.port).map(|_| port))
    }
}

// === impl Drawing ===

impl<'e> Drawing<'e> {
    fn offer<R: RouteRecorder>(
        &mut self,
        workload: &'e Arc<Workload>,
        eligible: Eligible,
        pick: &mut Pick<'_, R>,
    ) {
        let capacity = u64::from(workload.capacity());
        self.sum += capacity;
        if pick.rng.random_range(0..self.sum) < capacity {
            self.drawn = Some((workload, eligible));
        }
    }
}

/// What to dial of `workload`: the address asked for if it is its own, else the first its service allows of that
/// family, else the first it allows, else its name, else a gateway.
pub(super) fn dial_target(
    workload: &Workload,
    hint: IpAddr,
    service: Option<&Service>,
) -> Option<DialTarget> {
    let addresses = workload.addresses();
    if addresses.contains(&hint) {
        return Some(DialTarget::Ip(hint));
    }
    let families = service.and_then(Service::ip_families);
    let allowed = || addresses.iter().filter(|&&ip| families.is_none_or(|families| families.accepts(ip)));
    let same_family = allowed().find(|ip| ip.is_ipv6() == hint.is_ipv6());
    if let Some(&ip) = same_family.or_else(|| allowed().next()) {
        return Some(DialTarget::Ip(ip));
    }
    if let Some(hostname) = workload.hostname() {
        return Some(DialTarget::Host(Arc::clone(hostname)));
    }
    workload.network_gateway().map(|_| DialTarget::Gateway)
}

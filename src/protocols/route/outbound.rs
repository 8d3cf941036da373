//! Outbound decisions (docs/spec/dataplane.md 3.1).

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{
    balance::{self, Chosen, DialTarget, Purpose, Wanted},
    error::RouteError,
    hop::{HBONE_PORT, Hop, Route, Upstream},
    recorder::{Fact, RouteRecorder},
    request::{Pick, Source},
    waypoint::{self, Found, Reference},
};
use crate::protocols::{
    addr::{HboneAddr, OrigDst},
    mesh::{Gateway, Mesh, Service, Sight, TunnelProtocol, Workload},
};

/// Decides where a connection of `src` to `dst` goes. [`check_outbound`](super::check_outbound()) has been
/// asked before, and the source workload is known.
///
/// # Errors
/// The destination is known, but may or can not be reached: see [`RouteError`]. An unknown one is passed through.
pub fn outbound<R: RouteRecorder>(
    mesh: &Mesh,
    src: &Source<'_>,
    dst: OrigDst,
    pick: &mut Pick<'_, R>,
) -> Result<Route, RouteError> {
    let call = Call { mesh, src, dst };
    let service = call.classify();
    if let Some(service) = &service
        && let Some(waypoint) = waypoint::of_service(service, pick)
    {
        pick.recorder.hear(Fact::ServiceWaypoint(service, waypoint));
        return call.service_waypoint(service, waypoint, pick);
    }
    match call.resolve(pick)? {
        Some(chosen) => call.deliver(&chosen, service, pick),
        None if service.is_some_and(|service| !waypoint::is_passthrough(&service)) => {
            Err(RouteError::NoHealthyUpstream(dst))
        }
        None => call.passthrough(pick),
    }
}

/// The service that a connection of `src` to `dst` asks for, whether or not the service can be reached.
pub fn asked_service(mesh: &Mesh, src: &Source<'_>, dst: OrigDst) -> Option<Arc<Service>> {
    Call { mesh, src, dst }.classify()
}

#[derive(Clone, Copy)]
struct Call<'a> {
    mesh: &'a Mesh,
    src: &'a Source<'a>,
    dst: OrigDst,
}

// === impl Call ===

impl Call<'_> {
    /// The service asked for, unless the address is a workload's own.
    fn classify(&self) -> Option<Arc<Service>> {
        let network = &self.mesh.local().network;
        if self.mesh.workload_by_ip(network, self.dst.ip()).is_some() {
            return None;
        }
        self.mesh.service_by_vip(network, self.dst.ip(), self.src.workload.namespace())
    }

    /// The route by way of a service.
    fn service_waypoint<R: RouteRecorder>(
        &self,
        service: &Arc<Service>,
        gateway: &Gateway,
        pick: &mut Pick<'_, R>,
    ) -> Result<Route, RouteError> {
        let chosen = self.waypoint(gateway, pick)?;
        if chosen.workload.network() != self.src.workload.network() {
            return self.double(&chosen, Arc::clone(service), pick);
        }
        self.through(chosen, gateway, Some(Arc::clone(service)), pick)
    }

    fn waypoint<R: RouteRecorder>(
        &self,
        gateway: &Gateway,
        pick: &mut Pick<'_, R>,
    ) -> Result<Chosen, RouteError> {
        let reference = Reference { gateway, hint: self.dst.ip(), purpose: Purpose::Waypoint };
        waypoint::resolve(self.mesh, self.src, reference, pick)
            .ok_or_else(|| self.nothing_left(pick, RouteError::UnknownWaypoint(gateway.to_string())))
    }

    /// The error for a choice that came out empty: `otherwise`, unless endpoints were excluded.
    fn nothing_left<R: RouteRecorder>(&self, pick: &Pick<'_, R>, otherwise: RouteError) -> RouteError {
        if pick.excluded.is_empty() { otherwise } else { RouteError::NoHealthyUpstream(self.dst) }
    }

    /// HBONE to a waypoint of the same network, asking it for the original destination.
    fn through<R: RouteRecorder>(
        &self,
        waypoint: Chosen,
        gateway: &Gateway,
        service: Option<Arc<Service>>,
        pick: &Pick<'_, R>,
    ) -> Result<Route, RouteError> {
        let to = waypoint
            .upstream(waypoint.port, self.dst.ip())
            .ok_or_else(|| RouteError::UnknownWaypoint(gateway.to_string()))?;
        let hop = Hop::Hbone { to, authority: HboneAddr::Ip(self.dst.addr()), sans: waypoint.sans() };
        self.route(hop, Some(waypoint.workload), service, pick)
    }

    /// The workload to go to; nothing if nothing is known, or it is to be passed through.
    fn resolve<R: RouteRecorder>(&self, pick: &mut Pick<'_, R>) -> Result<Option<Chosen>, RouteError> {
        let source = self.src.workload;
        let (ip, port) = (self.dst.ip(), self.dst.port());
        match waypoint::find(self.mesh, source.network(), ip, source.namespace(), Sight::Client) {
            Some(Found::Service(service)) if waypoint::is_passthrough(&service) => {
                pick.recorder.hear(Fact::Passthrough(&service));
                Ok(None)
            }
            Some(Found::Service(service)) => {
                pick.recorder.hear(Fact::OfService(&service));
                let standing = |gateway: &Gateway, pick: &Pick<'_, R>| {
                    waypoint::gateway_standing(self.mesh, source, (gateway, ip), pick)
                };
                let purpose = Purpose::Destination;
                let wanted = Wanted { source, hint: ip, port, purpose, standing: &standing };
                let chosen = balance::choose(self.mesh, &service, &wanted, pick);
                chosen.map(Some).ok_or(RouteError::NoHealthyUpstream(self.dst))
            }
            Some(Found::Workload(workload)) => {
                pick.recorder.hear(Fact::OfWorkload(&workload));
                Ok(Some(Chosen::direct(workload, port, DialTarget::Ip(ip))))
            }
            None => {
                pick.recorder.hear(Fact::OfNobody);
                Ok(None)
            }
        }
    }

    /// The route to a workload: through its waypoint, by HBONE, or directly.
    fn deliver<R: RouteRecorder>(
        &self,
        chosen: &Chosen,
        classified: Option<Arc<Service>>,
        pick: &mut Pick<'_, R>,
    ) -> Result<Route, RouteError> {
        let workload = &chosen.workload;
        let service = classified.or_else(|| chosen.service.clone());
        if workload.network() != self.src.workload.network() {
            let service = service.ok_or_else(|| RouteError::OtherNetwork(workload.uid().into()))?;
            return self.double(chosen, service, pick);
        }
        if service.is_none()
            && let Some(gateway) = workload.waypoint()
            && !self.comes_from(gateway, pick)
        {
            pick.recorder.hear(Fact::WorkloadWaypoint(workload, gateway));
            let waypoint = self.waypoint(gateway, pick)?;
            if waypoint.workload.network() != self.src.workload.network() {
                return Err(RouteError::OtherNetwork(waypoint.workload.uid().into()));
            }
            return self.through(waypoint, gateway, None, pick);
        }
        let no_address = || RouteError::NoAddress(workload.uid().into());
        let hop = match workload.protocol() {
            TunnelProtocol::Hbone => {
                let to = chosen.upstream(HBONE_PORT, self.dst.ip()).ok_or_else(no_address)?;
                let authority = match &to {
                    Upstream::Ip(addr) => HboneAddr::Ip((addr.ip(), chosen.port).into()),
                    Upstream::Host { host, .. } => HboneAddr::Host((&**host).into(), chosen.port),
                };
                Hop::Hbone { to, authority, sans: chosen.sans() }
            }
            TunnelProtocol::Tcp => {
                Hop::Tcp { to: chosen.upstream(chosen.port, self.dst.ip()).ok_or_else(no_address)? }
            }
        };
        self.route(hop, Some(Arc::clone(workload)), service, pick)
    }

    /// Whether the client itself is the waypoint that `gateway` refers to.
    fn comes_from<R: RouteRecorder>(&self, gateway: &Gateway, pick: &mut Pick<'_, R>) -> bool {
        let is_source = waypoint::is_source(self.mesh, gateway, self.src);
        if is_source {
            pick.recorder.hear(Fact::ClientIsWaypoint(gateway));
        }
        is_source
    }

    /// Through the gateway of the network `far` is on, which is a destination or a waypoint.
    fn double<R: RouteRecorder>(
        &self,
        far: &Chosen,
        service: Arc<Service>,
        pick: &mut Pick<'_, R>,
    ) -> Result<Route, RouteError> {
        let gateway =
            far.workload.network_gateway().ok_or_else(|| RouteError::NoGateway(far.workload.uid().into()))?;
        pick.recorder.hear(Fact::NetworkGateway(&far.workload, gateway));
        let unknown = || RouteError::UnknownGateway(gateway.to_string());
        let reference = Reference { gateway, hint: self.dst.ip(), purpose: Purpose::Gateway };
        let near = waypoint::resolve(self.mesh, self.src, reference, pick)
            .ok_or_else(|| self.nothing_left(pick, unknown()))?;
        let hop = Hop::DoubleHbone {
            to: near.upstream(near.port, self.dst.ip()).ok_or_else(unknown)?,
            gateway_sans: near.sans(),
            authority: HboneAddr::Host(service.hostname().into(), self.dst.port()),
            sans: far.service_sans(),
        };
        self.route(hop, Some(near.workload), Some(service), pick)
    }

    /// The route that would be taken if there was no mesh.
    fn passthrough<R: RouteRecorder>(&self, pick: &Pick<'_, R>) -> Result<Route, RouteError> {
        self.route(Hop::Tcp { to: Upstream::Ip(self.dst.addr()) }, None, None, pick)
    }

    fn route<R: RouteRecorder>(
        &self,
        hop: Hop,
        destination: Option<Arc<Workload>>,
        service: Option<Arc<Service>>,
        pick: &Pick<'_, R>,
    ) -> Result<Route, RouteError> {
        match hop.upstream() {
            Upstream::Ip(addr) if pick.excludes(*addr) => Err(RouteError::NoHealthyUpstream(self.dst)),
            _ => Ok(Route { hop, destination, service }),
        }
    }
}

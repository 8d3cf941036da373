//! What the destination's proxy decides about a connection or stream that arrives.

use std::sync::Arc;

use super::{
    explanation::{Arrival, Decided, Sentence, Verdict},
    policies,
    proxy::Proxy,
};
use crate::protocols::{
    addr::{HboneAddr, OrigDst},
    mesh::{TunnelProtocol, Workload},
    rbac::Flow,
    route::{InboundHbone, inbound_hbone, inbound_plaintext},
};

/// Explains what the proxy of the destination decides about an arrival, by the tables of the proxy that is asked.
pub(crate) fn explain_arrival(proxy: Proxy<'_>, arrival: &Arrival) -> Decided {
    let network = &proxy.mesh.local().network;
    match proxy.mesh.workload_by_ip(network, arrival.to.ip()) {
        Some(workload) => explain_at(proxy, &workload, arrival),
        None => of_nobody(proxy, arrival),
    }
}

/// Explains what the proxy of `workload` decides about an arrival.
pub(super) fn explain_at(proxy: Proxy<'_>, workload: &Arc<Workload>, arrival: &Arrival) -> Decided {
    if workload.native_tunnel() && arrival.authority.is_some() {
        let says = format!("{} ends tunnels itself and decides about what is in them", workload.full_name());
        return Decided::new(Verdict::Unknown, says, Vec::new());
    }
    if workload.protocol() == TunnelProtocol::Tcp && arrival.authority.is_none() {
        let says = format!("{} has no proxy in front, so no policy is asked", workload.full_name());
        return Decided::new(Verdict::Allowed, says, Vec::new());
    }
    let inbound = match &arrival.authority {
        Some(authority) => {
            let localhost_app_tunnel = proxy.settings.localhost_app_tunnel;
            let request = InboundHbone { local: workload, dst: arrival.to, authority, localhost_app_tunnel };
            inbound_hbone(proxy.mesh, &request, &proxy.settings.ports)
        }
        None => inbound_plaintext(OrigDst::new(arrival.to), &proxy.settings.ports),
    };
    let mut because = vec![whose(proxy, workload)];
    let inbound = match inbound {
        Ok(inbound) => inbound,
        Err(error) => {
            let says = format!("the proxy of {} refuses the connection: {error}", workload.full_name());
            return Decided::new(Verdict::Denied, says, because);
        }
    };
    because.push(Sentence::new(match &arrival.identity {
        Some(identity) => format!("the client is {identity}, by mutual TLS"),
        None => "the client has no identity: the connection comes as plain TCP".to_owned(),
    }));
    let is_target = |asked: &HboneAddr| *asked == HboneAddr::Ip(inbound.target);
    if !arrival.authority.as_ref().is_none_or(is_target) {
        because.push(Sentence::new(format!("what is asked for means {}", inbound.target)));
    }
    let flow =
        Flow { src: (arrival.client, 0).into(), identity: arrival.identity.as_ref(), dst: inbound.target };
    let (verdict, says, policies) = policies::explain(proxy, workload, &flow);
    because.extend(policies);
    Decided::new(verdict, format!("the proxy of {} {says}", workload.full_name()), because)
}

/// What becomes of an arrival at an address that no workload has.
fn of_nobody(proxy: Proxy<'_>, arrival: &Arrival) -> Decided {
    let ip = arrival.to.ip();
    match proxy.mesh.service_by_vip(&proxy.mesh.local().network, ip, "") {
        Some(service) => {
            let service = service.key();
            let says = format!(
                "{ip} is an address of the service {service}, whose endpoint others choose: ask for a pod"
            );
            Decided::new(Verdict::Unknown, says, Vec::new())
        }
        None => {
            let says = format!("no workload of the mesh has the address {ip}, so no proxy is in front");
            Decided::new(Verdict::Allowed, says, Vec::new())
        }
    }
}

/// Whose tables say so.
fn whose(proxy: Proxy<'_>, workload: &Arc<Workload>) -> Sentence {
    let place = format!("{} runs on node {}", workload.full_name(), workload.node());
    Sentence::new(match proxy.here.serves(workload) {
        true => format!("{place}, and this proxy serves it"),
        false => format!("{place}, whose proxy decides by its own tables; these are the tables here"),
    })
}

//! What the client's proxy decides: the route, and what it depends on.

mod trail;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

pub(super) use self::trail::Trail;
use super::{
    explanation::{Arrival, Decided, NextHop, Sentence, Verdict},
    proxy::Proxy,
};
use crate::protocols::{
    addr::{HboneAddr, OrigDst},
    mesh::Workload,
    route::{
        Hop, Pick, Route, RouteError, Sans, Source, Upstream, check_outbound, is_at_destination,
        missing_outbound, outbound,
    },
};

/// What the client's proxy does with a connection.
pub(super) struct Sent {
    /// The decision.
    pub(super) decided: Decided,
    /// The next hop, if there is one.
    pub(super) hop: Option<NextHop>,
    /// What comes next.
    pub(super) onward: Onward,
}

/// What comes behind the client's proxy.
pub(super) enum Onward {
    /// Nothing: the connection is refused, or leaves the mesh.
    Ends,
    /// The destination's own proxy, and the destination if it is known.
    Arrives(Arrival, Option<Arc<Workload>>),
    /// Something whose decisions are not known here.
    Elsewhere(Decided),
}

/// Explains what the proxy of `client`, who connects from an address, does with a connection to `dst`.
pub(super) fn explain_sent(
    proxy: Proxy<'_>,
    client: (&Arc<Workload>, IpAddr),
    dst: OrigDst,
    rng: &mut dyn rand::RngCore,
) -> Sent {
    let source = Source { workload: client.0, client: client.1 };
    let mut because = whose(proxy, client.0);
    if let Err(error) = check_outbound(&proxy.settings.ports, &source, dst) {
        return refused(&error, client.0, because);
    }
    if proxy.settings.on_demand {
        let missing = missing_outbound(proxy.mesh, &source, dst);
        if !missing.is_empty() {
            let missing = missing.join(", ");
            because.push(Sentence::new(format!("the control plane is asked for {missing} first")));
            let says = format!("the proxy of {} has yet to learn of the destination", client.0.full_name());
            let decided = Decided::new(Verdict::Unknown, says, because);
            return Sent { decided, hop: None, onward: Onward::Ends };
        }
    }
    let mut trail = Trail::default();
    let mut routed = None;
    proxy.here.suspecting(client.0, dst, &mut |suspicion| {
        let mut pick = Pick { rng: &mut *rng, excluded: &[], suspicion, recorder: &mut trail };
        routed = Some(outbound(proxy.mesh, &source, dst, &mut pick));
    });
    because.extend(trail.finish());
    match routed {
        Some(Ok(route)) => sent(proxy, &source, &route, because),
        Some(Err(error)) => refused(&error, client.0, because),
        None => {
            let says = "the route could not be found".to_owned();
            let decided = Decided::new(Verdict::Unknown, says, because);
            Sent { decided, hop: None, onward: Onward::Ends }
        }
    }
}

fn refused(error: &RouteError, client: &Workload, because: Vec<Sentence>) -> Sent {
    let says = format!("the proxy of {} refuses the connection: {error}", client.full_name());
    Sent { decided: Decided::new(Verdict::Denied, says, because), hop: None, onward: Onward::Ends }
}

/// A route as a decision, and what comes next on it.
fn sent(proxy: Proxy<'_>, source: &Source<'_>, route: &Route, mut because: Vec<Sentence>) -> Sent {
    let client = source.workload;
    let to = dialled(route.hop.upstream());
    let way = match &route.hop {
        Hop::Tcp { .. } => format!("sends the connection to {to} as plain TCP"),
        Hop::Hbone { authority, .. } => format!("asks for {authority} through a tunnel to {to}"),
        Hop::DoubleHbone { authority, .. } => {
            format!("asks for {authority} through a tunnel inside a tunnel to the gateway {to}")
        }
    };
    because.extend(tunnel(proxy, source, route));
    let lacks = match &route.hop {
        Hop::Tcp { .. } => None,
        Hop::Hbone { .. } | Hop::DoubleHbone { .. } => proxy.here.lacks_certificate(client.identity()),
    };
    if let Some(why) = &lacks {
        because.push(Sentence::new(format!("the client has no certificate: {why}")));
    }
    let verdict = if lacks.is_some() { Verdict::Unknown } else { Verdict::Allowed };
    let decided = Decided::new(verdict, format!("the proxy of {} {way}", client.full_name()), because);
    Sent { decided, hop: Some(shown(route)), onward: onward(source, route) }
}

/// What is known of the tunnel: who has to be at its other end, and whether it is there.
fn tunnel(proxy: Proxy<'_>, source: &Source<'_>, route: &Route) -> Vec<Sentence> {
    let (to, sans) = match &route.hop {
        Hop::Tcp { .. } => return Vec::new(),
        Hop::Hbone { to, sans, .. } | Hop::DoubleHbone { to, gateway_sans: sans, .. } => (to, sans),
    };
    let mut sentences = vec![
        Sentence::new(format!("the client is {}", source.workload.identity())),
        Sentence::new(format!("the other end has to be {}", either(sans))),
    ];
    if let Hop::DoubleHbone { sans, .. } = &route.hop {
        sentences
            .push(Sentence::new(format!("the other end of the inner tunnel has to be {}", either(sans))));
    }
    let Upstream::Ip(addr) = to else {
        sentences.push(Sentence::new("the name is looked up for each connection"));
        return sentences;
    };
    let is_local = route.destination.as_deref().is_some_and(|destination| {
        proxy.here.serves(destination) && proxy.here.serves(source.workload) && is_direct(route, *addr)
    });
    if is_local {
        sentences.push(Sentence::new("this proxy serves both pods, so that no tunnel needs to be dialled"));
    } else if let Some(open) = proxy.here.tunnels(source.workload, *addr) {
        sentences.push(Sentence::new(match open {
            0 => "a tunnel has to be dialled".to_owned(),
            1 => "a tunnel is open".to_owned(),
            open => format!("{open} tunnels are open"),
        }));
    }
    sentences
}

fn either(sans: &Sans) -> String {
    let mut names: Vec<&str> = sans.iter().map(|identity| identity.as_str()).collect();
    // A workload is mostly one of the identities of its service.
    names.dedup();
    if names.is_empty() { "somebody whom nobody can be".to_owned() } else { names.join(" or ") }
}

/// Whether the hop leads to the destination's own proxy.
fn is_direct(route: &Route, addr: SocketAddr) -> bool {
    let Hop::Hbone { authority, .. } = &route.hop else { return false };
    let is_its = route.destination.as_deref().is_some_and(|w| w.addresses().contains(&addr.ip()));
    is_its && is_at_destination(addr, authority)
}

/// What comes behind the client's proxy.
fn onward(source: &Source<'_>, route: &Route) -> Onward {
    let unknown = |says: String| Onward::Elsewhere(Decided::new(Verdict::Unknown, says, Vec::new()));
    let whom = || route.destination.as_deref().map_or_else(|| "the next hop".to_owned(), Workload::full_name);
    match (&route.hop, &route.destination) {
        (Hop::Tcp { .. }, None) => Onward::Elsewhere(Decided::new(
            Verdict::Allowed,
            "the destination is outside the mesh, where no proxy is in front",
            Vec::new(),
        )),
        (Hop::Tcp { .. }, Some(_)) => Onward::Elsewhere(Decided::new(
            Verdict::Allowed,
            format!("{} has no proxy in front, so no policy is asked", whom()),
            Vec::new(),
        )),
        (Hop::Hbone { to: Upstream::Ip(to), authority, .. }, Some(there)) if is_direct(route, *to) => {
            Onward::Arrives(arrival(source, *to, authority), Some(Arc::clone(there)))
        }
        (Hop::Hbone { to: Upstream::Host { host, .. }, .. }, _) => {
            unknown(format!("the proxy at an address of {host} decides then"))
        }
        (Hop::Hbone { .. }, _) => {
            unknown(format!("the waypoint {} decides then, by policies that are its own", whom()))
        }
        (Hop::DoubleHbone { .. }, _) => {
            unknown(format!("the gateway {} and the proxy behind it decide then", whom()))
        }
    }
}

fn arrival(source: &Source<'_>, to: SocketAddr, authority: &HboneAddr) -> Arrival {
    let identity = Some(source.workload.identity().clone());
    Arrival { client: source.client, identity, to, authority: Some(authority.clone()) }
}

fn shown(route: &Route) -> NextHop {
    let (protocol, sans) = match &route.hop {
        Hop::Tcp { .. } => ("TCP", None),
        Hop::Hbone { sans, .. } => ("HBONE", Some(sans)),
        Hop::DoubleHbone { gateway_sans, .. } => ("DOUBLEHBONE", Some(gateway_sans)),
    };
    NextHop {
        protocol: protocol.to_owned(),
        to: dialled(route.hop.upstream()),
        workload: route.destination.as_deref().map(Workload::full_name),
        service: route.service.as_ref().map(|service| service.key().to_string()),
        identities: sans.into_iter().flat_map(Sans::iter).map(ToString::to_string).collect(),
    }
}

/// The address or name that is dialled.
fn dialled(to: &Upstream) -> String {
    match to {
        Upstream::Ip(addr) => addr.to_string(),
        Upstream::Host { host, port, .. } => format!("{host}:{port}"),
    }
}

/// Whose tables decide, if they are not those of the proxy that is asked.
fn whose(proxy: Proxy<'_>, client: &Workload) -> Vec<Sentence> {
    if proxy.here.serves(client) {
        return Vec::new();
    }
    let node = client.node();
    let says = format!("{} runs on node {node}, whose proxy decides by its own tables", client.full_name());
    vec![Sentence::new(format!("{says}; these are the tables here"))]
}

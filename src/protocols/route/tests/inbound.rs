//! Inbound requests and the loop guard against a slow model, which was written from docs/spec/dataplane.md 1.4 and 4.

use std::{collections::BTreeSet, net::IpAddr};

use proptest::{option, sample::select};

use super::{
    model::{Model, identity, ip, is_vip, key, target},
    *,
};
use crate::protocols::{
    addr::HboneAddr,
    config::Ports,
    pb::workload::{self as pb, application_tunnel::Protocol, gateway_address::Destination},
};

/// A CONNECT request to a pod.
#[derive(Clone, Debug)]
struct Request<'a> {
    local: &'a pb::Workload,
    /// The pod's address that the tunnel was dialled at.
    pod: IpAddr,
    authority: HboneAddr,
    localhost: bool,
    illegal: &'a [u16],
}

/// Whether something holds for one reading of what the contract leaves open, and for another.
fn either(all: Vec<bool>) -> BTreeSet<bool> {
    all.into_iter().collect()
}

impl Model {
    /// Whether a waypoint is `local`: a service that it is an endpoint of, or a workload with the pod's address.
    fn leads_to(&self, gateway: &pb::GatewayAddress, local: &pb::Workload, pod: IpAddr) -> BTreeSet<bool> {
        let serves = |s: &pb::Service| local.services.contains_key(&key(s));
        let owns = |w: &pb::Workload| w.network == local.network && model::ips(w).contains(&pod);
        match gateway.destination.as_ref().unwrap() {
            Destination::Address(a) => {
                let (exact, ranges) = self.named(&a.network, ip(&a.address));
                let workloads = self.workloads_at(&a.network, ip(&a.address)).into_iter().map(owns);
                let any = exact.into_iter().chain(ranges).map(serves).chain(workloads).collect::<Vec<_>>();
                either(if any.is_empty() { vec![false] } else { any })
            }
            Destination::Hostname(name) => {
                let service = self
                    .services
                    .iter()
                    .find(|s| (&s.namespace, &s.hostname) == (&name.namespace, &name.hostname));
                let same =
                    |w: &&pb::Workload| (&w.namespace, &w.hostname) == (&name.namespace, &name.hostname);
                match service {
                    Some(service) => either(vec![serves(service)]),
                    None => {
                        let all: Vec<_> = self.workloads.iter().filter(same).map(owns).collect();
                        either(if all.is_empty() { vec![false] } else { all })
                    }
                }
            }
        }
    }

    /// All services with that address, whoever may see them.
    fn named(&self, network: &str, of: IpAddr) -> (Vec<&pb::Service>, Vec<&pb::Service>) {
        let here = |s: &&pb::Service, vip: bool| {
            s.addresses.iter().any(|a| {
                let has = if is_vip(a) { ip(&a.address) == of } else { model::in_range(a, of).is_some() };
                a.network == network && is_vip(a) == vip && has
            })
        };
        let of_kind = |vip| self.services.iter().filter(move |s| here(s, vip)).collect();
        (of_kind(true), of_kind(false))
    }

    /// Whether a request for the address `asked` is for the pod.
    fn is_for(&self, request: &Request<'_>, asked: IpAddr) -> BTreeSet<bool> {
        let Request { local, pod, .. } = request;
        if asked == *pod || local.application_tunnel.is_some() {
            return either(vec![true]);
        }
        let (exact, ranges) = self.named(&local.network, asked);
        let workloads = self.workloads_at(&local.network, asked);
        let ranges = if exact.is_empty() && workloads.is_empty() { ranges } else { vec![] };
        let of_service = |s: &&pb::Service| -> Vec<pb::GatewayAddress> {
            let weighted = s.weighted_waypoints.iter().filter_map(|w| w.destination.clone());
            s.waypoint.clone().into_iter().chain(weighted).collect()
        };
        let services = exact.iter().chain(&ranges).map(of_service);
        let all: Vec<_> =
            services.chain(workloads.iter().map(|w| w.waypoint.clone().into_iter().collect())).collect();
        let mut readings = BTreeSet::new();
        if all.is_empty() {
            readings.insert(false);
        }
        for waypoints in all {
            let each: Vec<_> =
                waypoints.iter().map(|waypoint| self.leads_to(waypoint, local, *pod)).collect();
            if each.iter().any(|any| any.contains(&true)) {
                readings.insert(true);
            }
            if !each.iter().any(|any| *any == either(vec![true])) {
                readings.insert(false);
            }
        }
        readings
    }

    /// The services that a hostname may mean to `local`.
    fn hosted(&self, host: &str, local: &pb::Workload) -> Vec<&pb::Service> {
        let hidden = i32::from(pb::service::Visibility::Namespace);
        let ours = |s: &pb::Service| s.namespace == local.namespace;
        let seen = |s: &&pb::Service| s.hostname == host && (s.visibility != hidden || ours(s));
        model::best(self.services.iter().filter(seen).collect(), |s| (ours(s), s.canonical))
    }

    /// The results that the contract allows, as text.
    fn inbound(&self, request: &Request<'_>) -> BTreeSet<String> {
        let refused = BTreeSet::from(["503".to_owned()]);
        match &request.authority {
            HboneAddr::Ip(asked) => {
                let mut all = BTreeSet::new();
                for is_for in self.is_for(request, asked.ip()) {
                    match is_for {
                        true => all.extend(self.at_port(request, asked.port(), None)),
                        false => _ = all.insert("400".to_owned()),
                    }
                }
                all
            }
            HboneAddr::Host(host, port) => {
                let services = self.hosted(host, request.local);
                if services.is_empty() {
                    return refused;
                }
                let mut all = BTreeSet::new();
                for service in services {
                    let own = request.local.services.get(&key(service));
                    let own = own.and_then(|list| target(&list.ports, *port)).filter(|port| *port > 0);
                    match own.or(target(&service.ports, *port)).filter(|port| *port > 0) {
                        Some(port) => all.extend(self.at_port(request, port, Some(service))),
                        None => all.extend(refused.clone()),
                    }
                }
                all
            }
        }
    }

    fn at_port(&self, request: &Request<'_>, port: u16, service: Option<&pb::Service>) -> BTreeSet<String> {
        let Request { local, pod, localhost, illegal, .. } = request;
        let tunnel = local.application_tunnel.unwrap_or_default();
        let last = if tunnel.port > 0 { tunnel.port as u16 } else { port };
        if illegal.contains(&port) || illegal.contains(&last) {
            return BTreeSet::from(["503".to_owned()]);
        }
        let proxied = tunnel.protocol() == Protocol::Proxy;
        let name = service.map_or("-".to_owned(), key);
        let to = SocketAddr::new(*pod, last);
        let loopback: IpAddr =
            if pod.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        let dial = if proxied && *localhost { SocketAddr::new(loopback, last) } else { to };
        let text = |header: &str| format!("to {to} dial {dial} header {header} of {name}");
        let headers: Vec<String> = match (&request.authority, service) {
            _ if !proxied => vec!["-".to_owned()],
            (HboneAddr::Ip(asked), _) => vec![asked.to_string()],
            (HboneAddr::Host(_, port), service) => {
                let vips = service.unwrap().addresses.iter().filter(|a| is_vip(a)).collect();
                let vips = model::best(vips, |a: &&pb::NetworkAddress| {
                    (a.network == local.network, ip(&a.address).is_ipv4())
                });
                vips.into_iter().map(|a| SocketAddr::new(ip(&a.address), *port).to_string()).collect()
            }
        };
        match headers.is_empty() {
            true => BTreeSet::from(["503".to_owned()]),
            false => headers.iter().map(|header| text(header)).collect(),
        }
    }
}

fn authority() -> impl Strategy<Value = HboneAddr> {
    let port = || select(vec![80_u16, 81, 8080, 15001, 15006, 15008, 15080, 15088]);
    let host = (select(vec!["s0.x", "s1.x", "s2.x", "nobody.x"]), port());
    let ip = (meshes::destination(), port()).prop_map(|((ip, _), port)| HboneAddr::Ip((ip, port).into()));
    prop_oneof![ip, host.prop_map(|(host, port)| HboneAddr::Host(host.into(), port))]
}

#[test]
fn inbound_requests_go_where_a_slow_model_of_the_contract_says() {
    let tally = Tally::default();
    let request = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), authority(), any::<bool>());
    let all = (meshes::world(), prop::collection::vec(request, 1..8), option::of(Just(15080_u16)));
    check(1000, &all, |(world, requests, socks5)| {
        let mesh = world.mesh();
        let ports = Ports { outbound: 15001, plaintext: 15006, hbone: 15008, socks5, dns: None };
        let illegal: Vec<u16> = [15001, 15006, 15008].into_iter().chain(socks5).collect();
        let here: Vec<_> = world
            .model
            .workloads
            .iter()
            .filter(|w| w.network == world.model.network && !w.addresses.is_empty())
            .collect();
        for (local, pod, authority, localhost) in requests.into_iter().filter(|_| !here.is_empty()) {
            let local = *local.get(&here);
            let pod = *pod.get(&model::ips(local));
            let request = Request { local, pod, authority: authority.clone(), localhost, illegal: &illegal };
            let want = world.model.inbound(&request);
            let workload = mesh.workload(&local.uid).unwrap();
            let dst = SocketAddr::new(pod, 15008);
            let asked = InboundHbone {
                local: &workload,
                dst,
                authority: &authority,
                localhost_app_tunnel: localhost,
            };
            let got = match inbound_hbone(&mesh, &asked, &ports) {
                Err(error) => error.status().to_string(),
                Ok(Inbound { target, dial, proxy_header_dst, service }) => {
                    let header = proxy_header_dst.map_or("-".to_owned(), |to| to.to_string());
                    let service = service.map_or("-".to_owned(), |s| s.key().as_str().to_owned());
                    format!("to {target} dial {dial} header {header} of {service}")
                }
            };
            prop_assert!(want.contains(&got), "{got} for {want:?} of {request:#?}");
            tally.count(match (&authority, &got[..]) {
                (HboneAddr::Ip(_), "400") => "not for the pod",
                (HboneAddr::Ip(_), "503") => "port of the proxy",
                (HboneAddr::Host(..), "503") => "no such service",
                (HboneAddr::Host(..), _) => "by name",
                (HboneAddr::Ip(to), _) if to.ip() == pod => "own address",
                (HboneAddr::Ip(_), _) if local.application_tunnel.is_some() => "tunnel",
                (HboneAddr::Ip(_), _) => "as waypoint",
            });
        }
        Ok(())
    });
    let all =
        ["not for the pod", "port of the proxy", "no such service", "by name", "own address", "as waypoint"];
    tally.has_each_of(&all, 3);
}

#[test]
fn nothing_loops_by_a_slow_model_of_the_contract() {
    let addresses =
        ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "10.0.0.9", "10.0.0.1", "fd00::1", "1.2.3.4"];
    let ip = || select(addresses.to_vec()).prop_map(|ip| ip.parse::<IpAddr>().unwrap());
    let port = select(vec![80_u16, 15000, 15001, 15006, 15008, 15020, 15053, 15080]);
    let all = (meshes::world(), ip(), ip(), port, option::of(Just(15080_u16)));
    check(400, &all, |(world, ip, client, port, socks5)| {
        let mesh = world.mesh();
        let ports = Ports { outbound: 15001, plaintext: 15006, hbone: 15008, socks5, dns: None };
        let illegal = [15001, 15006, 15008].contains(&port) || (port == 15080 && socks5.is_some());
        let dst = OrigDst::new(SocketAddr::new(ip, port));
        for pb in &world.model.workloads {
            let workload = mesh.workload(&pb.uid).unwrap();
            prop_assert_eq!(workload.identity().as_str(), identity(pb));
            let own = model::ips(pb).contains(&ip) || client.to_canonical() == ip.to_canonical();
            let text = ip.to_canonical().to_string();
            let loops = illegal && (own || text.starts_with("127.") || text == "::1");
            let source = Source { workload: &workload, client: client.to_canonical() };
            prop_assert_eq!(check_outbound(&ports, &source, dst).is_err(), loops, "{} of {}", ip, pb.uid);
        }
        prop_assert_eq!(inbound_plaintext(dst, &ports).is_err(), illegal);
        Ok(())
    });
}

//! A slow model of outbound routes, written from docs/spec/dataplane.md 3 and docs/spec/protos.md 1 alone, and from the
//! deviations that docs/differences.md lists. Everything is looked for in plain lists of messages, and compared as text.

use std::{cell::Cell, net::IpAddr};

use crate::protocols::pb::workload::{self as pb, gateway_address::Destination, load_balancing as lb};

/// Possible results with their chances. The chances add up to 1, or there is no result.
pub(super) type Chances<T> = Vec<(f64, T)>;

/// What was sent last of each resource, and the proxy's own network.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) network: String,
    pub(super) workloads: Vec<pb::Workload>,
    pub(super) services: Vec<pb::Service>,
    /// The workloads whose addresses the caller's pod has found to fail lately.
    pub(super) suspects: Vec<String>,
    /// Whether the contract left a choice open: of two that are equal either may be taken.
    pub(super) open: Cell<bool>,
}

/// The pod that calls, and the address and port that are called.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) source: &'a pb::Workload,
    pub(super) client: IpAddr,
    pub(super) ip: IpAddr,
    pub(super) port: u16,
}

#[derive(Clone, Copy)]
pub(super) enum Found<'a> {
    Service(&'a pb::Service),
    Workload(&'a pb::Workload),
}

/// Who looks for a service: some services are hidden from clients.
#[derive(Clone, Copy, PartialEq)]
enum Eyes {
    Client,
    ControlPlane,
}

#[derive(Clone, Copy, PartialEq)]
enum Purpose {
    /// The application's own destination.
    Direct,
    Waypoint,
    Gateway,
}

#[derive(Clone, PartialEq)]
enum Dial {
    Ip(IpAddr),
    Host(String),
    /// Only through the gateway of its network.
    Gateway,
}

/// An endpoint that was chosen.
#[derive(Clone)]
pub(super) struct Chosen<'a> {
    workload: &'a pb::Workload,
    service: Option<&'a pb::Service>,
    port: u16,
    dial: Dial,
    v6: bool,
}

pub(super) fn ip(bytes: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(bytes) {
        Ok(bytes) => IpAddr::from(bytes),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()).to_canonical(),
    }
}

pub(super) fn ips(workload: &pb::Workload) -> Vec<IpAddr> {
    workload.addresses.iter().map(|bytes| ip(bytes)).collect()
}

pub(super) fn key(service: &pb::Service) -> String {
    format!("{}/{}", service.namespace, service.hostname)
}

/// The target of `port` in a list of ports. The last entry counts.
pub(super) fn target(ports: &[pb::Port], port: u16) -> Option<u16> {
    ports.iter().rev().find(|p| p.service_port == u32::from(port)).map(|p| p.target_port as u16)
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

pub(super) fn identity(w: &pb::Workload) -> String {
    let (domain, account) = (or(&w.trust_domain, "cluster.local"), or(&w.service_account, "default"));
    format!("spiffe://{domain}/ns/{}/sa/{account}", w.namespace)
}

fn sans(service: Option<&pb::Service>) -> Vec<String> {
    let is_valid = |san: &&String| {
        let parts: Vec<&str> = san.split('/').collect();
        let right = matches!(parts[..], ["spiffe:", "", _, "ns", _, "sa", _]);
        right && [2, 4, 6].iter().all(|&i| !parts[i].is_empty())
    };
    service.map(|s| s.subject_alt_names.iter().filter(is_valid).cloned().collect()).unwrap_or_default()
}

/// Whether a range has `ip` in it: their first bits are the same.
pub(super) fn in_range(address: &pb::NetworkAddress, of: IpAddr) -> Option<u32> {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => format!("{:032b}", ip.to_bits()),
        IpAddr::V6(ip) => format!("{:0128b}", ip.to_bits()),
    };
    let (net, of, length) = (bits(ip(&address.address)), bits(of), address.length? as usize);
    (length < net.len() && net.len() == of.len() && net[..length] == of[..length]).then_some(length as u32)
}

pub(super) fn is_vip(address: &pb::NetworkAddress) -> bool {
    let full = if address.address.len() == 4 { 32 } else { 128 };
    address.length.is_none_or(|length| length == full)
}

fn mode(service: &pb::Service) -> lb::Mode {
    service.load_balancing.as_ref().map(|lb| lb.mode()).unwrap_or_default()
}

/// Those whose mark is the highest.
pub(super) fn best<T, M: Ord>(all: Vec<T>, mark: impl Fn(&T) -> M) -> Vec<T> {
    let highest = all.iter().map(&mark).max();
    all.into_iter().filter(|one| Some(mark(one)) == highest).collect()
}

impl Model {
    /// Any of `all`; it is open which.
    fn one_of<T>(&self, all: Vec<T>) -> Chances<T> {
        self.open.set(self.open.get() || all.len() > 1);
        let chance = 1.0 / all.len() as f64;
        all.into_iter().map(|one| (chance, one)).collect()
    }

    pub(super) fn workloads_at(&self, network: &str, ip: IpAddr) -> Vec<&pb::Workload> {
        let is_there = |w: &&pb::Workload| {
            let host = w.network_mode() == pb::NetworkMode::HostNetwork;
            w.network == network && !host && ips(w).contains(&ip)
        };
        let hbone = |w: &pb::Workload| w.tunnel_protocol() == pb::TunnelProtocol::Hbone;
        best(self.workloads.iter().filter(is_there).collect(), |w| (w.uid.contains("//Pod/"), hbone(w)))
    }

    /// Services with that address, the best, seen from a namespace: those with just the address, and those with a range.
    fn services_at(
        &self,
        (network, ip): (&str, IpAddr),
        (namespace, eyes): (&str, Eyes),
    ) -> (Vec<&pb::Service>, Vec<&pb::Service>) {
        let seen = |s: &&pb::Service| {
            let hidden = s.visibility == i32::from(pb::service::Visibility::Namespace);
            !hidden || s.namespace == namespace || eyes == Eyes::ControlPlane
        };
        let exact = |s: &&pb::Service| {
            s.addresses.iter().any(|a| is_vip(a) && a.network == network && self::ip(&a.address) == ip)
        };
        let range = |s: &pb::Service| {
            let here = s.addresses.iter().filter(|a| !is_vip(a) && a.network == network);
            here.filter_map(|a| in_range(a, ip)).max()
        };
        let seen: Vec<&pb::Service> = self.services.iter().filter(seen).collect();
        let ours = |s: &pb::Service| s.namespace == namespace;
        let exact =
            best(seen.iter().copied().filter(exact).collect(), |s: &&pb::Service| (ours(s), s.canonical));
        let ranges = seen.into_iter().filter(|s| range(s).is_some()).collect();
        let ranges = best(ranges, |s: &&pb::Service| (ours(s), range(s), s.canonical));
        let ranges = if exact.is_empty() { ranges } else { vec![] };
        (exact, ranges)
    }

    /// Services first, and ranges behind workloads.
    fn find(&self, network: &str, ip: IpAddr, seen_by: (&str, Eyes)) -> Chances<Found<'_>> {
        let (exact, ranges) = self.services_at((network, ip), seen_by);
        let workloads = self.workloads_at(network, ip);
        self.one_of(match (exact.is_empty(), workloads.is_empty()) {
            (false, _) => exact.into_iter().map(Found::Service).collect(),
            (true, false) => workloads.into_iter().map(Found::Workload).collect(),
            (true, true) => ranges.into_iter().map(Found::Service).collect(),
        })
    }

    /// The service that is called: of an address that is a workload's none.
    pub(super) fn asked(&self, call: Call<'_>) -> Chances<Option<&pb::Service>> {
        if !self.workloads_at(&self.network, call.ip).is_empty() {
            return vec![(1.0, None)];
        }
        let (exact, ranges) =
            self.services_at((&self.network, call.ip), (&call.source.namespace, Eyes::Client));
        let all: Vec<_> = exact.into_iter().chain(ranges).map(Some).collect();
        if all.is_empty() { vec![(1.0, None)] } else { self.one_of(all) }
    }

    fn dial(
        &self,
        w: &pb::Workload,
        service: Option<&pb::Service>,
        hint: IpAddr,
        call: Call<'_>,
    ) -> Option<Dial> {
        let families = service.map(pb::Service::ip_families).unwrap_or_default();
        let allowed = |ip: &IpAddr| match families {
            pb::IpFamilies::Ipv4Only => ip.is_ipv4(),
            pb::IpFamilies::Ipv6Only => ip.is_ipv6(),
            pb::IpFamilies::Automatic | pb::IpFamilies::Dual => true,
        };
        let all: Vec<IpAddr> = ips(w).into_iter().filter(allowed).collect();
        if ips(w).contains(&hint) {
            return Some(Dial::Ip(hint));
        }
        if let Some(ip) = all.iter().find(|ip| ip.is_ipv4() == hint.is_ipv4()).or(all.first()) {
            return Some(Dial::Ip(*ip));
        }
        if !w.hostname.is_empty() {
            return Some(Dial::Host(w.hostname.clone()));
        }
        (w.network != call.source.network && w.network_gateway.is_some()).then_some(Dial::Gateway)
    }

    /// An endpoint of `service` as it would be used, if it may be.
    fn eligible<'a>(
        &'a self,
        service: &'a pb::Service,
        w: &'a pb::Workload,
        (port, purpose, hint): (u16, Purpose, IpAddr),
        call: Call<'_>,
    ) -> Option<Chosen<'a>> {
        let own = w.services.get(&key(service))?;
        // What is never drawn stands in nobody's way.
        if w.capacity == Some(0) {
            return None;
        }
        let policy = service.load_balancing.as_ref().map(|lb| lb.health_policy()).unwrap_or_default();
        if w.status() != pb::WorkloadStatus::Healthy && policy != lb::HealthPolicy::AllowAll {
            return None;
        }
        let has_port = target(&service.ports, port).is_some();
        if !has_port && (purpose != Purpose::Waypoint || w.application_tunnel.is_none()) {
            return None;
        }
        let nonzero = |port: &u16| *port > 0;
        if purpose != Purpose::Waypoint
            && target(&service.ports, port) == Some(0)
            && target(&own.ports, port).filter(nonzero).is_none()
        {
            return None;
        }
        let tunnelled = w.application_tunnel.as_ref().filter(|tunnel| tunnel.port > 0).map(|_| port);
        let own = target(&own.ports, port).filter(nonzero);
        let to = own.or(target(&service.ports, port).filter(nonzero)).or(tunnelled)?;
        let dial = self.dial(w, Some(service), hint, call)?;
        if purpose == Purpose::Gateway && dial == Dial::Gateway {
            return None;
        }
        Some(Chosen { workload: w, service: Some(service), port: to, dial, v6: call.ip.is_ipv6() })
    }

    /// Whether it is on another network that no gateway is known to lead to. Gateways are dialled wherever they are.
    fn is_cut_off(&self, chosen: &Chosen<'_>, purpose: Purpose, call: Call<'_>) -> bool {
        let w = chosen.workload;
        purpose != Purpose::Gateway
            && w.network != call.source.network
            && w.network_gateway.as_ref().is_none_or(|g| self.resolve(g, Purpose::Gateway, call).is_empty())
    }

    /// Whether what would be dialled for it failed lately: itself, or each gateway that leads to it.
    fn is_suspect(&self, chosen: &Chosen<'_>, purpose: Purpose, call: Call<'_>) -> bool {
        let is_suspect = |w: &pb::Workload| self.suspects.contains(&w.uid);
        let w = chosen.workload;
        if purpose == Purpose::Gateway || w.network == call.source.network {
            return is_suspect(w);
        }
        let gateways = w.network_gateway.as_ref().map(|g| self.resolve(g, Purpose::Gateway, call));
        gateways.is_some_and(|all| !all.is_empty() && all.iter().all(|(_, g)| is_suspect(g.workload)))
    }

    /// How many preferences an endpoint meets in a row, and the rank that follows.
    fn rank(prefer: &[lb::Scope], w: &pb::Workload, source: &pb::Workload) -> (usize, usize) {
        let text = |w: &pb::Workload, scope: &lb::Scope| {
            let place = w.locality.clone().unwrap_or_default();
            match scope {
                lb::Scope::Region => place.region,
                lb::Scope::Zone => place.zone,
                lb::Scope::Subzone => place.subzone,
                lb::Scope::Node => w.node.clone(),
                lb::Scope::Cluster => or(&w.cluster_id, "Kubernetes").to_owned(),
                lb::Scope::Network => w.network.clone(),
                lb::Scope::UnspecifiedScope => unreachable!(),
            }
        };
        let (mut met, mut bonus) = (0, 0);
        for (i, scope) in prefer.iter().enumerate() {
            let meets = text(w, scope) == text(source, scope);
            let is_first_network = i == 0 && *scope == lb::Scope::Network;
            if meets && is_first_network {
                bonus = prefer.len() - 1;
            }
            match meets {
                true => met += 1,
                false if is_first_network => {}
                false => break,
            }
        }
        (met, met + bonus)
    }

    fn choose<'a>(
        &'a self,
        service: &'a pb::Service,
        want: (u16, Purpose, IpAddr),
        call: Call<'_>,
    ) -> Chances<Chosen<'a>> {
        let prefer: Vec<lb::Scope> =
            service.load_balancing.as_ref().map(|lb| lb.routing_preference().collect()).unwrap_or_default();
        let rank = |c: &Chosen<'_>| Self::rank(&prefer, c.workload, call.source);
        let mut all: Vec<Chosen<'_>> =
            self.workloads.iter().filter_map(|w| self.eligible(service, w, want, call)).collect();
        match mode(service) {
            lb::Mode::Passthrough => all.clear(),
            lb::Mode::Strict => all.retain(|c| rank(c).0 == prefer.len()),
            lb::Mode::Failover | lb::Mode::UnspecifiedMode => {}
        }
        let all = best(all, |c| !self.is_cut_off(c, want.1, call));
        let all = if mode(service) == lb::Mode::UnspecifiedMode { all } else { best(all, |c| rank(c).1) };
        let all = best(all, |c| !self.is_suspect(c, want.1, call));
        let weigh = |c: &Chosen<'_>| f64::from(c.workload.capacity.unwrap_or(1));
        let sum: f64 = all.iter().map(weigh).sum();
        all.into_iter().map(|c| (weigh(&c) / sum, c)).collect()
    }

    /// What a reference to a waypoint or a gateway leads to: services or workloads, by address or by name.
    fn referred(&self, gateway: &pb::GatewayAddress, namespace: &str) -> Chances<Found<'_>> {
        match gateway.destination.as_ref().unwrap() {
            // What the control plane refers to is hidden from nobody.
            Destination::Address(a) => self.find(&a.network, ip(&a.address), (namespace, Eyes::ControlPlane)),
            Destination::Hostname(name) => {
                let same =
                    |s: &&pb::Service| (&s.namespace, &s.hostname) == (&name.namespace, &name.hostname);
                if let Some(service) = self.services.iter().find(same) {
                    return vec![(1.0, Found::Service(service))];
                }
                let same =
                    |w: &&pb::Workload| (&w.namespace, &w.hostname) == (&name.namespace, &name.hostname);
                self.one_of(self.workloads.iter().filter(same).map(Found::Workload).collect())
            }
        }
    }

    /// Nothing at all if any of the references that are possible leads nowhere.
    fn resolve(&self, gateway: &pb::GatewayAddress, purpose: Purpose, call: Call<'_>) -> Chances<Chosen<'_>> {
        let hint = match gateway.destination.as_ref().unwrap() {
            Destination::Address(a) => ip(&a.address),
            Destination::Hostname(_) => call.ip,
        };
        let port = gateway.hbone_mtls_port as u16;
        let mut all = Vec::new();
        for (chance, found) in self.referred(gateway, &call.source.namespace) {
            match found {
                Found::Service(service) => {
                    let chosen = self.choose(service, (port, purpose, hint), call);
                    all.extend(chosen.into_iter().map(|(p, c)| (chance * p, c)));
                }
                Found::Workload(workload) => {
                    let dial = self.dial(workload, None, hint, call);
                    let dial = dial.filter(|dial| purpose != Purpose::Gateway || *dial != Dial::Gateway);
                    let chosen = |dial| Chosen { workload, service: None, port, dial, v6: call.ip.is_ipv6() };
                    all.extend(dial.map(|dial| (chance, chosen(dial))));
                }
            }
        }
        all
    }

    /// Whether the caller is an instance of the waypoint: a waypoint's workload with its identity and address, or
    /// itself.
    fn is_caller(&self, gateway: &pb::GatewayAddress, call: Call<'_>) -> Vec<bool> {
        let like = |w: &pb::Workload| identity(w) == identity(call.source) && ips(w).contains(&call.client);
        let same = |w: &pb::Workload| w.uid == call.source.uid && ips(w).contains(&call.client);
        let mut readings = Vec::new();
        for (_, found) in self.referred(gateway, &call.source.namespace) {
            let all: Vec<&pb::Workload> = match found {
                Found::Service(s) => {
                    self.workloads.iter().filter(|w| w.services.contains_key(&key(s))).collect()
                }
                Found::Workload(w) => vec![w],
            };
            readings.extend([all.iter().any(|w| like(w)), all.iter().any(|w| same(w))]);
        }
        readings.dedup();
        if readings.is_empty() { vec![false] } else { readings }
    }

    /// The waypoints of a service with their shares.
    fn waypoints<'a>(&self, service: &'a pb::Service) -> Chances<&'a pb::GatewayAddress> {
        let sum: f64 = service.weighted_waypoints.iter().map(|w| f64::from(w.weight)).sum();
        if sum == 0.0 {
            return service.waypoint.iter().map(|gateway| (1.0, gateway)).collect();
        }
        let some = service.weighted_waypoints.iter().filter(|w| w.weight > 0);
        some.map(|w| (f64::from(w.weight) / sum, w.destination.as_ref().unwrap())).collect()
    }

    /// The routes of a call, as text, with their chances.
    pub(super) fn outbound(&self, call: Call<'_>) -> Chances<String> {
        let mut all = Vec::new();
        for (chance, asked) in self.asked(call) {
            let routes = self.of_asked(asked, call);
            let sum: f64 = routes.iter().map(|(p, _)| p).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{routes:?}");
            all.extend(routes.into_iter().map(|(p, route)| (chance * p, route)));
        }
        all
    }

    fn of_asked(&self, asked: Option<&pb::Service>, call: Call<'_>) -> Chances<String> {
        let mut all = Vec::new();
        let fail = |text: &str| vec![(1.0, text.to_owned())];
        let waypoints = asked.map(|service| self.waypoints(service)).unwrap_or_default();
        for (chance, waypoint) in &waypoints {
            let routes = self.by_waypoint(waypoint, asked, call);
            all.extend(routes.into_iter().map(|(p, route)| (chance * p, route)));
        }
        if !waypoints.is_empty() {
            return all;
        }
        let upstreams = self.find(&call.source.network, call.ip, (&call.source.namespace, Eyes::Client));
        let passed = format!("tcp {} dest=-", std::net::SocketAddr::from((call.ip, call.port)));
        let none = match asked {
            Some(service) if mode(service) != lb::Mode::Passthrough => fail("no upstream"),
            _ => fail(&passed),
        };
        if upstreams.is_empty() {
            return none;
        }
        for (chance, upstream) in upstreams {
            let routes = match upstream {
                Found::Service(service) => {
                    let chosen = self.choose(service, (call.port, Purpose::Direct, call.ip), call);
                    let each = |(p, c): (f64, Chosen<'_>)| self.to(&c, asked.or(Some(service)), call, p);
                    let routes: Vec<_> = chosen.into_iter().flat_map(each).collect();
                    match mode(service) {
                        lb::Mode::Passthrough => none.clone(),
                        _ if routes.is_empty() => fail("no upstream"),
                        _ => routes,
                    }
                }
                Found::Workload(w) => self.to_workload(w, asked, call),
            };
            all.extend(routes.into_iter().map(|(p, route)| (chance * p, route)));
        }
        all
    }

    fn by_waypoint(
        &self,
        waypoint: &pb::GatewayAddress,
        asked: Option<&pb::Service>,
        call: Call<'_>,
    ) -> Chances<String> {
        let chosen = self.resolve(waypoint, Purpose::Waypoint, call);
        let sum: f64 = chosen.iter().map(|(p, _)| p).sum();
        let authority = std::net::SocketAddr::from((call.ip, call.port)).to_string();
        let mut all = Vec::new();
        for (chance, c) in chosen {
            if c.workload.network != call.source.network {
                all.extend(self.across(&c, asked, call, chance));
            } else {
                all.push((chance, self.hbone(&c, c.port, &authority, asked)));
            }
        }
        if sum < 1.0 - 1e-6 {
            all.push((1.0 - sum, "unknown waypoint".to_owned()));
        }
        all
    }

    fn to_workload(&self, w: &pb::Workload, asked: Option<&pb::Service>, call: Call<'_>) -> Chances<String> {
        let dial = Dial::Ip(call.ip);
        let chosen = Chosen { workload: w, service: None, port: call.port, dial, v6: false };
        let Some(waypoint) = w.waypoint.as_ref().filter(|_| asked.is_none()) else {
            return self.to(&chosen, asked, call, 1.0);
        };
        let mut all = Vec::new();
        for (chance, is_caller) in self.one_of(self.is_caller(waypoint, call)) {
            let routes = match is_caller {
                true => self.to(&chosen, asked, call, 1.0),
                false => self.by_waypoint(waypoint, None, call),
            };
            all.extend(routes.into_iter().map(|(p, route)| (chance * p, route)));
        }
        all
    }

    /// The chosen endpoint itself, by its protocol, or through the gateway of its network.
    fn to(
        &self,
        c: &Chosen<'_>,
        asked: Option<&pb::Service>,
        call: Call<'_>,
        chance: f64,
    ) -> Chances<String> {
        if c.workload.network != call.source.network {
            return self.across(c, asked, call, chance);
        }
        let route = match c.workload.tunnel_protocol() {
            pb::TunnelProtocol::Hbone => {
                let authority = match &c.dial {
                    Dial::Ip(ip) => std::net::SocketAddr::from((*ip, c.port)).to_string(),
                    Dial::Host(host) => format!("{host}:{}", c.port),
                    Dial::Gateway => unreachable!(),
                };
                self.hbone(c, 15008, &authority, asked)
            }
            _ => format!("tcp {} {}", upstream(c, c.port), about(c, asked)),
        };
        vec![(chance, route)]
    }

    fn hbone(&self, c: &Chosen<'_>, port: u16, authority: &str, asked: Option<&pb::Service>) -> String {
        let names = [sans(c.service), vec![identity(c.workload)]].concat();
        format!("hbone {} for {authority} as {names:?} {}", upstream(c, port), about(c, asked))
    }

    /// Through the gateway of the network of `c`, for the service that is called.
    fn across(
        &self,
        c: &Chosen<'_>,
        asked: Option<&pb::Service>,
        call: Call<'_>,
        chance: f64,
    ) -> Chances<String> {
        let fail = |text: &str| vec![(chance, text.to_owned())];
        let Some(service) = asked else { return fail("other network") };
        let Some(gateway) = &c.workload.network_gateway else { return fail("no gateway") };
        let gateways = self.resolve(gateway, Purpose::Gateway, call);
        let sum: f64 = gateways.iter().map(|(p, _)| p).sum();
        let mut all: Vec<_> = gateways
            .into_iter()
            .map(|(p, g)| {
                let authority = format!("{}:{}", service.hostname, call.port);
                let outer = [sans(g.service), vec![identity(g.workload)]].concat();
                let (to, about) = (upstream(&g, g.port), about(&g, asked));
                let inner = sans(c.service);
                (chance * p, format!("double {to} as {outer:?} for {authority} as {inner:?} {about}"))
            })
            .collect();
        if sum < 1.0 - 1e-6 {
            all.push((chance * (1.0 - sum), "unknown gateway".to_owned()));
        }
        all
    }
}

fn upstream(c: &Chosen<'_>, port: u16) -> String {
    match &c.dial {
        Dial::Ip(ip) => std::net::SocketAddr::from((*ip, port)).to_string(),
        Dial::Host(host) => format!("{host}:{port} v6={}", c.v6),
        Dial::Gateway => unreachable!("it has no address"),
    }
}

fn about(c: &Chosen<'_>, asked: Option<&pb::Service>) -> String {
    format!("dest={} of {}", c.workload.uid, asked.map_or("-".to_owned(), key))
}

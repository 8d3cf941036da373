//! Random meshes, and how they come about: pushes of resources that are replaced and removed again.

use std::{cell::Cell, net::IpAddr};

use proptest::{collection::vec, option, prelude::*, prop_oneof, sample::select};

use super::model::{Model, key};
use crate::protocols::{
    mesh::{Change, LocalNode, Mesh, Service, Workload},
    pb::workload::{self as pb, gateway_address::Destination, load_balancing as lb},
};

/// Resources in the order of their pushes, the last of which are those of the model.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) model: Model,
    /// What was there before and is replaced or removed.
    before: Vec<pb::address::Type>,
    order: Vec<u16>,
}

const PODS: [&str; 6] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2", "::ffff:10.0.0.3"];
const VIPS: [&str; 5] = ["10.1.0.1", "10.1.0.2", "fd01::1", "10.0.0.1", "fd00::1"];
const RANGES: [(&str, u32); 6] =
    [("10.1.0.0", 24), ("10.1.0.0", 16), ("10.0.0.0", 8), ("fd01::", 64), ("10.1.0.2", 32), ("0.0.0.0", 0)];
const HOSTS: [&str; 4] = ["s0.x", "s1.x", "s2.x", "h.x"];

fn octets(ip: &str) -> Vec<u8> {
    match ip.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn text(of: &[&'static str]) -> impl Strategy<Value = String> + use<> {
    select(of.to_vec()).prop_map(String::from)
}

fn network() -> impl Strategy<Value = String> {
    prop_oneof![5 => Just(String::new()), 1 => Just("n2".into())]
}

fn address() -> impl Strategy<Value = Vec<u8>> {
    select(PODS.to_vec()).prop_map(octets)
}

fn vip() -> impl Strategy<Value = pb::NetworkAddress> {
    let host = (select(VIPS.to_vec()), option::weighted(0.1, Just(())))
        .prop_map(|(ip, full)| (octets(ip), full.map(|()| octets(ip).len() as u32 * 8)));
    let range = select(RANGES.to_vec()).prop_map(|(ip, length)| (octets(ip), Some(length)));
    (text(&["", "", "n2"]), prop_oneof![3 => host, 1 => range])
        .prop_map(|(network, (address, length))| pb::NetworkAddress { network, address, length })
}

fn reference() -> impl Strategy<Value = pb::GatewayAddress> {
    let pod = (network(), address()).prop_map(|(network, address)| pb::NetworkAddress {
        network,
        address,
        length: None,
    });
    let vip = (network(), select(VIPS.to_vec())).prop_map(|(network, ip)| pb::NetworkAddress {
        network,
        address: octets(ip),
        length: None,
    });
    let name = (text(&["a", "b"]), text(&HOSTS))
        .prop_map(|(namespace, hostname)| pb::NamespacedHostname { namespace, hostname });
    let to = prop_oneof![
        2 => pod.prop_map(Destination::Address),
        2 => vip.prop_map(Destination::Address),
        3 => name.prop_map(Destination::Hostname),
    ];
    (to, prop_oneof![4 => Just(15008), 1 => Just(15009)]).prop_map(|(destination, hbone_mtls_port)| {
        pb::GatewayAddress { destination: Some(destination), hbone_mtls_port }
    })
}

fn ports(of: &[(u32, u32)], most: usize) -> impl Strategy<Value = Vec<pb::Port>> + use<> {
    let port = select(of.to_vec()).prop_map(|(service_port, target_port)| pb::Port {
        service_port,
        target_port,
        app_protocol: 0,
    });
    vec(port, 0..most)
}

fn locality() -> impl Strategy<Value = Option<pb::Locality>> {
    let text = || text(&["", "x", "x", "y"]);
    option::weighted(
        0.8,
        (text(), text(), text()).prop_map(|(region, zone, subzone)| pb::Locality { region, zone, subzone }),
    )
}

fn memberships() -> impl Strategy<Value = Vec<(String, pb::PortList)>> {
    let name = (text(&["a", "a", "b"]), text(&HOSTS[..3])).prop_map(|(ns, host)| format!("{ns}/{host}"));
    let own = ports(&[(80, 9080), (81, 9081), (15008, 15018), (80, 0)], 3);
    vec((name, own.prop_map(|ports| pb::PortList { ports })), 0..4)
}

/// The workload of number `n`, whose number is in its name.
fn workload(n: usize) -> impl Strategy<Value = pb::Workload> {
    let who = (
        prop::bool::weighted(0.7),
        text(&["a", "a", "b", "c"]),
        text(&["", "sa"]),
        text(&["", "", "", "td2"]),
        text(&["", "", "", "h.x"]),
    );
    let place = (network(), text(&["node-1", "node-2"]), locality(), text(&["", "", "c2"]));
    let tunnel = (any::<bool>(), select(vec![0_u32, 15088]))
        .prop_map(|(proxy, port)| pb::ApplicationTunnel { protocol: proxy.into(), port });
    let how = (
        vec(address(), 0..4),
        any::<bool>(),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
        option::weighted(0.5, select(vec![0_u32, 1, 1, 2, 3])),
        option::weighted(0.25, tunnel),
    );
    let rest = (memberships(), option::weighted(0.25, reference()), option::weighted(0.8, gateway()));
    (who, place, how, rest).prop_map(move |(who, place, how, rest)| {
        let (
            (is_pod, namespace, service_account, trust_domain, hostname),
            (network, node, locality, cluster),
        ) = (who, place);
        let (addresses, hbone, host_network, unhealthy, capacity, application_tunnel) = how;
        let (services, waypoint, network_gateway) = rest;
        pb::Workload {
            uid: format!("k/{}/x/w{n}", if is_pod { "/Pod" } else { "WorkloadEntry" }),
            name: format!("w{n}"),
            namespace,
            service_account,
            trust_domain,
            hostname,
            network,
            node,
            locality,
            cluster_id: cluster,
            addresses,
            tunnel_protocol: hbone.into(),
            network_mode: host_network.into(),
            status: unhealthy.into(),
            capacity,
            application_tunnel,
            services: services.into_iter().collect(),
            waypoint,
            network_gateway,
            ..Default::default()
        }
    })
}

fn balancing() -> impl Strategy<Value = pb::LoadBalancing> {
    use lb::{HealthPolicy, Mode, Scope};
    let modes = vec![Mode::UnspecifiedMode, Mode::Failover, Mode::Failover, Mode::Strict, Mode::Passthrough];
    let all = [Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node, Scope::Cluster];
    let scopes = prop_oneof![
        Just(vec![Scope::Network, Scope::Region, Scope::Zone]),
        Just(vec![Scope::Node]),
        vec(select(all.to_vec()), 0..5),
    ];
    let health = select(vec![HealthPolicy::OnlyHealthy, HealthPolicy::OnlyHealthy, HealthPolicy::AllowAll]);
    (scopes, select(modes), health).prop_map(|(scopes, mode, health)| pb::LoadBalancing {
        routing_preference: scopes.into_iter().map(i32::from).collect(),
        mode: mode.into(),
        health_policy: health.into(),
    })
}

fn service(n: usize) -> impl Strategy<Value = pb::Service> {
    let (namespace, hostname) =
        [("a", "s0.x"), ("a", "s1.x"), ("a", "s2.x"), ("b", "s0.x"), ("b", "s1.x")][n];
    let sans =
        text(&["spiffe://cluster.local/ns/a/sa/sa", "spiffe://td2/ns/b/sa/x", "spiffe://td2/ns/b", "x.y"]);
    let weighted = (reference(), 0..3_u32)
        .prop_map(|(to, weight)| pb::WeightedWaypoint { destination: Some(to), weight });
    let how = (
        option::weighted(0.7, balancing()),
        prop_oneof![5 => Just(0), 1 => 1..4],
        any::<bool>(),
        prop_oneof![5 => Just(0), 1 => Just(1), 1 => Just(7)],
    );
    let ports = ports(&[(80, 8080), (80, 8080), (81, 0), (15008, 15008), (15008, 0), (15009, 15008)], 6);
    let waypoints =
        (option::weighted(0.25, reference()), prop_oneof![8 => Just(vec![]), 1 => vec(weighted, 1..4)]);
    (vec(vip(), 0..4), ports, vec(sans, 0..3), how, waypoints).prop_map(
        move |(addresses, ports, sans, (load_balancing, ip_families, canonical, visibility), waypoints)| {
            pb::Service {
                name: hostname[..2].into(),
                namespace: namespace.into(),
                hostname: hostname.into(),
                addresses,
                ports,
                subject_alt_names: sans,
                load_balancing,
                ip_families,
                canonical,
                visibility,
                waypoint: waypoints.0,
                weighted_waypoints: waypoints.1,
                ..Default::default()
            }
        },
    )
}

/// Some of `of`, each once.
fn some<S: Strategy>(of: impl Iterator<Item = S>) -> impl Strategy<Value = Vec<S::Value>> {
    let all: Vec<_> = of.map(|one| option::weighted(0.7, one)).collect();
    all.prop_map(|all| all.into_iter().flatten().collect())
}

/// Any mesh.
pub(super) fn world() -> impl Strategy<Value = World> {
    let resources = || (some((0..7).map(workload)), some((0..5).map(service)));
    let before = (resources(), option::weighted(0.5, Just(()))).prop_map(|((workloads, services), some)| {
        let workloads = workloads.into_iter().map(pb::address::Type::Workload);
        let services = services.into_iter().map(pb::address::Type::Service);
        if some.is_some() { workloads.chain(services).collect() } else { Vec::new() }
    });
    let local = prop_oneof![9 => Just(""), 1 => Just("n2")];
    (local, resources(), before, vec(any::<u16>(), 40)).prop_map(
        |(network, (mut workloads, services), before, order)| {
            workloads.push(known_gateway());
            let (network, suspects) = (network.into(), vec![]);
            let model = Model { network, workloads, services, suspects, open: Cell::new(false) };
            World { model, before, order }
        },
    )
}

/// The gateway that there always is, or any.
fn gateway() -> impl Strategy<Value = pb::GatewayAddress> {
    let address = pb::NetworkAddress { network: "n2".into(), address: vec![10, 9, 9, 2], length: None };
    let known =
        pb::GatewayAddress { destination: Some(Destination::Address(address)), hbone_mtls_port: 15008 };
    prop_oneof![Just(known), reference()]
}

fn known_gateway() -> pb::Workload {
    pb::Workload {
        uid: "NetworkGateway/n2".into(),
        name: "gateway".into(),
        namespace: "b".into(),
        network: "n2".into(),
        addresses: vec![vec![10, 9, 9, 2]],
        ..Default::default()
    }
}

/// A mesh of one service and its endpoints, with a gateway and without other trouble.
pub(super) fn one_service() -> impl Strategy<Value = World> {
    let endpoint = |n: usize| {
        (workload(n), any::<bool>(), prop_oneof![6 => Just(""), 2 => Just("n2"), 1 => Just("n3")]).prop_map(
            move |(mut w, odd, network)| {
                w.network = network.into();
                w.network_mode = 0;
                w.waypoint = None;
                w.uid = format!("k//Pod/x/w{n}");
                // No two have the same address, but some have none.
                let own = [10, 0, 1, n as u8].to_vec();
                w.addresses = if odd && w.addresses.is_empty() { vec![] } else { vec![own] };
                w.services = [("a/s0.x".to_owned(), pb::PortList::default())].into();
                w.network_gateway = Some(pb::GatewayAddress {
                    destination: Some(Destination::Address(pb::NetworkAddress {
                        network: network.into(),
                        address: vec![10, 9, 9, if network == "n2" { 2 } else { 3 }],
                        length: None,
                    })),
                    hbone_mtls_port: 15008,
                });
                w
            },
        )
    };
    let source = workload(9).prop_map(|w| pb::Workload {
        network: String::new(),
        network_mode: 0,
        addresses: vec![vec![10, 0, 2, 1]],
        services: Default::default(),
        ..w
    });
    let service = (balancing(), any::<bool>()).prop_map(|(balancing, v6)| pb::Service {
        name: "s0".into(),
        namespace: "a".into(),
        hostname: "s0.x".into(),
        addresses: vec![pb::NetworkAddress {
            network: String::new(),
            address: octets(if v6 { "fd01::1" } else { "10.1.0.1" }),
            length: None,
        }],
        ports: vec![pb::Port { service_port: 80, target_port: 8080, app_protocol: 0 }],
        load_balancing: Some(balancing),
        ..Default::default()
    });
    let all = (source, some((0..6).map(endpoint)), service, vec(any::<u16>(), 40));
    all.prop_map(|(source, endpoints, service, order)| World {
        model: Model {
            network: String::new(),
            workloads: [vec![source], endpoints, vec![known_gateway()]].concat(),
            services: vec![service],
            suspects: vec![],
            open: Cell::new(false),
        },
        before: vec![],
        order,
    })
}

/// Addresses and ports that are called.
pub(super) fn destination() -> impl Strategy<Value = (IpAddr, u16)> {
    let ip = select([&PODS[..], &VIPS[..], &VIPS[..], &["10.1.0.9", "192.0.2.7"]].concat());
    let port = prop_oneof![6 => Just(80_u16), 2 => Just(81), 1 => Just(82), 1 => Just(15008)];
    (ip.prop_map(|ip| ip.parse::<IpAddr>().unwrap().to_canonical()), port)
}

fn change(resource: pb::address::Type) -> Change {
    match resource {
        pb::address::Type::Workload(w) => Change::Workload(Workload::decode(w).unwrap()),
        pb::address::Type::Service(s) => Change::Service(Service::decode(s).unwrap().into()),
    }
}

impl World {
    /// The tables after all pushes.
    pub(super) fn mesh(&self) -> Mesh {
        let local = LocalNode {
            network: self.model.network.clone(),
            node: Some("node-1".into()),
            cluster_domain: "cluster.local".into(),
        };
        let mesh = Mesh::new(local);
        let mut writer = mesh.writer();
        writer.apply(self.before.iter().cloned().map(change));
        let mut last: Vec<Change> = Vec::new();
        last.extend(self.model.workloads.iter().cloned().map(|w| change(pb::address::Type::Workload(w))));
        last.extend(self.model.services.iter().cloned().map(|s| change(pb::address::Type::Service(s))));
        for old in &self.before {
            let name = match old {
                pb::address::Type::Workload(w) => w.uid.clone(),
                pb::address::Type::Service(s) => key(s),
            };
            if last.iter().all(|change| change.name() != name) {
                last.push(Change::Remove(name.into()));
            }
        }
        let mut order = self.order.iter().copied().cycle();
        last.sort_by_cached_key(|_| order.next());
        while !last.is_empty() {
            let some = usize::from(order.next().unwrap() % 5) + 1;
            writer.apply(last.drain(..some.min(last.len())));
        }
        mesh
    }
}

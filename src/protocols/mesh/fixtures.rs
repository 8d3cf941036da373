//! Meshes for tests.
#![allow(dead_code, reason = "a vocabulary, of which each test uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "made for tests, which the linter does not see where the fuzzer uses it too"
)]

use std::net::{IpAddr, SocketAddr};

use super::{Applied, Change, LocalNode, Mesh, MeshWriter, Service, Workload};
use crate::protocols::pb::workload as pb;

/// The node of [`TestMesh`].
pub(crate) const NODE: &str = "node-1";
/// The default namespace of workloads and services.
pub(crate) const NAMESPACE: &str = "ns1";

/// A mesh under construction: network "", node [`NODE`].
pub(crate) struct TestMesh {
    pub(crate) mesh: Mesh,
    pub(crate) writer: MeshWriter,
}

/// A workload under construction.
#[derive(Clone, Debug)]
pub(crate) struct Wl(pub(crate) pb::Workload);

/// A service under construction.
#[derive(Clone, Debug)]
pub(crate) struct Svc(pub(crate) pb::Service);

impl TestMesh {
    pub(crate) fn new() -> Self {
        Self::on_node(Some(NODE))
    }

    pub(crate) fn on_node(node: Option<&str>) -> Self {
        let mesh = Mesh::new(LocalNode {
            network: String::new(),
            node: node.map(String::from),
            cluster_domain: "cluster.local".into(),
        });
        Self { writer: mesh.writer(), mesh }
    }

    pub(crate) fn with(mut self, resource: impl Into<Change>) -> Self {
        self.put(resource);
        self
    }

    pub(crate) fn put(&mut self, resource: impl Into<Change>) -> Applied {
        self.writer.apply([resource.into()].into_iter())
    }

    pub(crate) fn remove(&mut self, name: &str) -> Applied {
        self.writer.apply([Change::Remove(name.into())].into_iter())
    }

    /// The workload built as `name` in namespace [`NAMESPACE`].
    pub(crate) fn pod(&self, name: &str) -> std::sync::Arc<Workload> {
        let uid = uid(NAMESPACE, name);
        self.mesh.workload(&uid).unwrap_or_else(|| panic!("no workload {uid}"))
    }
}

fn uid(namespace: &str, name: &str) -> String {
    format!("Kubernetes//Pod/{namespace}/{name}")
}

/// A plain pod on another node. `ips` holds any number of addresses, separated by spaces.
pub(crate) fn pod(name: &str, ips: &str) -> Wl {
    Wl(pb::Workload {
        uid: uid(NAMESPACE, name),
        name: name.into(),
        namespace: NAMESPACE.into(),
        addresses: ips.split_whitespace().map(octets).collect(),
        node: "node-2".into(),
        service_account: format!("sa-{name}"),
        canonical_name: name.into(),
        workload_name: name.into(),
        ..Default::default()
    })
}

/// A service of namespace [`NAMESPACE`] with port 80 and target port 8080. `vips` holds `[network/]ip[/length]`,
/// separated by spaces.
pub(crate) fn service(hostname: &str, vips: &str) -> Svc {
    Svc(pb::Service {
        name: hostname.split('.').next().unwrap_or_default().into(),
        namespace: NAMESPACE.into(),
        hostname: hostname.into(),
        addresses: vips.split_whitespace().map(vip).collect(),
        ports: ports(&[(80, 8080)]),
        ..Default::default()
    })
}

pub(crate) fn octets(ip: &str) -> Vec<u8> {
    match ip.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn vip(text: &str) -> pb::NetworkAddress {
    let parts: Vec<&str> = text.split('/').collect();
    let is_ip = |part: &str| part.parse::<IpAddr>().is_ok();
    let (network, rest) = match parts.as_slice() {
        [first, rest @ ..] if !is_ip(first) => (*first, rest),
        all => ("", all),
    };
    pb::NetworkAddress {
        network: network.into(),
        address: octets(rest[0]),
        length: rest.get(1).map(|length| length.parse().unwrap()),
    }
}

pub(crate) fn ports(list: &[(u32, u32)]) -> Vec<pb::Port> {
    let port = |&(service_port, target_port)| pb::Port { service_port, target_port, app_protocol: 0 };
    list.iter().map(port).collect()
}

/// A gateway: `[network/]ip` or `namespace/hostname`, then `:port`; the default port is 15008.
pub(crate) fn gateway(text: &str) -> pb::GatewayAddress {
    use pb::gateway_address::Destination;
    let is_ip = |text: &str| text.rsplit('/').next().is_some_and(|last| last.parse::<IpAddr>().is_ok());
    let (destination, port) = match text.rsplit_once(':') {
        Some((destination, port)) if !is_ip(text) => (destination, port.parse().unwrap()),
        _ => (text, 15008),
    };
    let destination = if is_ip(destination) {
        Destination::Address(vip(destination))
    } else {
        let (namespace, hostname) = destination.split_once('/').unwrap();
        let (namespace, hostname) = (namespace.into(), hostname.into());
        Destination::Hostname(pb::NamespacedHostname { namespace, hostname })
    };
    pb::GatewayAddress { destination: Some(destination), hbone_mtls_port: port }
}

impl Wl {
    pub(crate) fn edit(mut self, edit: impl FnOnce(&mut pb::Workload)) -> Self {
        edit(&mut self.0);
        self
    }

    pub(crate) fn hbone(self) -> Self {
        self.edit(|pb| pb.tunnel_protocol = pb::TunnelProtocol::Hbone.into())
    }

    pub(crate) fn local(self) -> Self {
        self.node(NODE)
    }

    pub(crate) fn node(self, node: &str) -> Self {
        self.edit(|pb| pb.node = node.into())
    }

    pub(crate) fn network(self, network: &str) -> Self {
        self.edit(|pb| pb.network = network.into())
    }

    pub(crate) fn namespace(self, namespace: &str) -> Self {
        self.edit(|pb| {
            pb.uid = uid(namespace, &pb.name);
            pb.namespace = namespace.into();
        })
    }

    pub(crate) fn uid(self, uid: &str) -> Self {
        self.edit(|pb| pb.uid = uid.into())
    }

    pub(crate) fn hostname(self, hostname: &str) -> Self {
        self.edit(|pb| pb.hostname = hostname.into())
    }

    pub(crate) fn locality(self, region: &str, zone: &str, subzone: &str) -> Self {
        let (region, zone, subzone) = (region.into(), zone.into(), subzone.into());
        self.edit(|pb| pb.locality = Some(pb::Locality { region, zone, subzone }))
    }

    pub(crate) fn unhealthy(self) -> Self {
        self.edit(|pb| pb.status = pb::WorkloadStatus::Unhealthy.into())
    }

    pub(crate) fn capacity(self, capacity: u32) -> Self {
        self.edit(|pb| pb.capacity = Some(capacity))
    }

    pub(crate) fn host_network(self) -> Self {
        self.edit(|pb| pb.network_mode = pb::NetworkMode::HostNetwork.into())
    }

    pub(crate) fn waypoint(self, text: &str) -> Self {
        self.edit(|pb| pb.waypoint = Some(gateway(text)))
    }

    pub(crate) fn network_gateway(self, text: &str) -> Self {
        self.edit(|pb| pb.network_gateway = Some(gateway(text)))
    }

    /// Sets the application tunnel; a `port` of 0 means no port.
    pub(crate) fn tunnel(self, proxy: bool, port: u32) -> Self {
        let pb = pb::ApplicationTunnel { protocol: proxy.into(), port };
        self.edit(|workload| workload.application_tunnel = Some(pb))
    }

    /// Makes the workload an endpoint of the service `hostname` in [`NAMESPACE`], with `own_ports`.
    pub(crate) fn of(self, hostname: &str, own_ports: &[(u32, u32)]) -> Self {
        let list = pb::PortList { ports: ports(own_ports) };
        self.edit(|pb| {
            pb.services.insert(format!("{NAMESPACE}/{hostname}"), list);
        })
    }

    pub(crate) fn decode(self) -> Workload {
        Workload::decode(self.0).unwrap()
    }
}

impl Svc {
    pub(crate) fn edit(mut self, edit: impl FnOnce(&mut pb::Service)) -> Self {
        edit(&mut self.0);
        self
    }

    pub(crate) fn namespace(self, namespace: &str) -> Self {
        self.edit(|pb| pb.namespace = namespace.into())
    }

    pub(crate) fn ports(self, list: &[(u32, u32)]) -> Self {
        self.edit(|pb| pb.ports = ports(list))
    }

    pub(crate) fn sans(self, sans: &[&str]) -> Self {
        self.edit(|pb| pb.subject_alt_names = sans.iter().map(|&san| san.into()).collect())
    }

    pub(crate) fn waypoint(self, text: &str) -> Self {
        self.edit(|pb| pb.waypoint = Some(gateway(text)))
    }

    pub(crate) fn weighted(self, waypoints: &[(&str, u32)]) -> Self {
        let waypoint =
            |&(text, weight): &(&str, u32)| pb::WeightedWaypoint { destination: Some(gateway(text)), weight };
        self.edit(|pb| pb.weighted_waypoints = waypoints.iter().map(waypoint).collect())
    }

    pub(crate) fn balancing(
        self,
        mode: pb::load_balancing::Mode,
        preferences: &[pb::load_balancing::Scope],
    ) -> Self {
        self.edit(|pb| {
            let lb = pb.load_balancing.get_or_insert_default();
            lb.mode = mode.into();
            lb.routing_preference = preferences.iter().map(|&scope| scope.into()).collect();
        })
    }

    pub(crate) fn allow_all(self) -> Self {
        self.edit(|pb| {
            pb.load_balancing.get_or_insert_default().health_policy =
                pb::load_balancing::HealthPolicy::AllowAll.into();
        })
    }

    pub(crate) fn families(self, families: pb::IpFamilies) -> Self {
        self.edit(|pb| pb.ip_families = families.into())
    }

    pub(crate) fn canonical(self) -> Self {
        self.edit(|pb| pb.canonical = true)
    }

    pub(crate) fn private(self) -> Self {
        self.edit(|pb| pb.visibility = pb::service::Visibility::Namespace.into())
    }

    pub(crate) fn decode(self) -> Service {
        Service::decode(self.0).unwrap()
    }
}

impl From<Wl> for Change {
    fn from(workload: Wl) -> Self {
        Self::Workload(workload.decode())
    }
}

impl From<Svc> for Change {
    fn from(service: Svc) -> Self {
        Self::Service(service.decode().into())
    }
}

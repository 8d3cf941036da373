//! Translates a mesh into the named resources of discovery (docs/spec/protos.md 1, 2 and 4).

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use bytes::Bytes;
use ipnet::IpNet;
use prost::Message;

use super::{
    hash::hash_bytes,
    mesh_file::{
        Action, Announce, Gateway, HealthPolicy, LbMode, LbScope, Listed, LoadBalancing, Mesh, Pod, Policy,
        Protocol, Rule, Scope, Service, Source, Status, Target, Visibility,
    },
};
use crate::protocols::pb::{security as az, workload as wl};

/// The type of workloads and services.
pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// The type of authorization policies.
pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";

/// The namespace and the name of the policy that `strict` produces (docs/spec/dataplane.md 5.4).
const STRICT: (&str, &str) = ("istio-system", "istio_converted_static_strict");

/// One resource, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The version of the resource on the stream: opaque for addresses, empty for policies. Policies are sent again
    /// on each reconnect.
    pub version: String,
    /// A hash of the resource, which differs when the resource differs.
    pub content: u64,
    /// The encoded message.
    pub value: Bytes,
    /// The aliases of the resource: `network/address` for each of its addresses.
    pub aliases: Vec<String>,
    /// Of a workload: its node and its services. Clients that ask for single names get both kinds unasked.
    pub belongs: Option<Belongs>,
}

/// Where a workload belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belongs {
    /// The workload's node.
    pub node: String,
    /// The names of the services of which the workload is an endpoint.
    pub services: Vec<String>,
}

/// A way to serve a resource wrongly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceFault {
    /// The resource is not served.
    Hidden,
    /// The resource is served with these bytes at its end. In protobuf, a later field wins over an earlier one.
    Extended(Vec<u8>),
}

/// Every resource, by type and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    address: BTreeMap<String, Resource>,
    authorization: BTreeMap<String, Resource>,
}

// === impl Resources ===

impl Resources {
    /// The resources of the mesh.
    pub fn of(mesh: &Mesh) -> Self {
        let mut resources = Self::default();
        for (index, pod) in mesh.pods.iter().enumerate() {
            resources.add_workload(workload(mesh, index, pod));
        }
        for service in &mesh.services {
            resources.add_service(service_of(service));
        }
        for policy in &mesh.policies {
            resources.add_policy(&authorization(policy));
        }
        if !mesh.strict.is_empty() {
            resources.add_policy(&strict());
        }
        resources
    }

    /// Adds this many workloads that nobody can reach, in 50 namespaces and on 100 nodes, with a service for every
    /// 100 workloads. They show the cost of size.
    pub fn add_bulk(&mut self, count: u32) {
        let services = (count / 100).clamp(1, 1000);
        let home = |i: u32| (format!("bulk-{}", i % 50), i % services);
        let host = |i: u32| {
            let (namespace, service) = home(i);
            (format!("bulk-svc-{service}.{namespace}.svc.cluster.local"), namespace, service)
        };
        for i in 0..count {
            let (hostname, namespace, _) = host(i);
            let name = format!("bulk-{i}");
            self.add_workload(wl::Workload {
                uid: format!("Kubernetes//Pod/{namespace}/{name}"),
                addresses: vec![(0x0a80_0000 + i).to_be_bytes().to_vec()],
                tunnel_protocol: wl::TunnelProtocol::Hbone.into(),
                service_account: format!("sa-{}", i % 200),
                node: format!("bulk-node-{}", i % 100),
                canonical_name: name.clone(),
                workload_name: name.clone(),
                services: HashMap::from([(
                    format!("{namespace}/{hostname}"),
                    ports(&BTreeMap::from([(80, 8080)])),
                )]),
                name,
                namespace,
                ..Default::default()
            });
        }
        for i in 0..count.min(services * 50) {
            let (hostname, namespace, service) = host(i);
            let address = (0x0ac8_0000 + service * 50 + i % 50).to_be_bytes().to_vec();
            self.add_service(wl::Service {
                name: format!("bulk-svc-{service}"),
                namespace,
                hostname,
                addresses: vec![wl::NetworkAddress { network: String::new(), address, length: None }],
                ports: ports(&BTreeMap::from([(80, 8080)])).ports,
                ..Default::default()
            });
        }
    }

    /// Serves the resource of that name wrongly, whatever its type. An unknown name is no error.
    pub fn inject(&mut self, name: &str, how: &ResourceFault) {
        for resources in [&mut self.address, &mut self.authorization] {
            match (how, resources.get_mut(name)) {
                (ResourceFault::Hidden, _) => drop(resources.remove(name)),
                (ResourceFault::Extended(bytes), Some(resource)) => resource.extend(bytes),
                (ResourceFault::Extended(_), None) => {}
            }
        }
    }

    /// The resources of a type, by name; none for an unknown type.
    pub fn of_type(&self, type_url: &str) -> Option<&BTreeMap<String, Resource>> {
        match type_url {
            ADDRESS => Some(&self.address),
            AUTHORIZATION => Some(&self.authorization),
            _ => None,
        }
    }

    fn add_workload(&mut self, mut workload: wl::Workload) {
        // Maps are encoded in no particular order, so they are hashed separately, in a fixed order.
        let services = std::mem::take(&mut workload.services);
        let mut sorted: Vec<_> = services.iter().map(|(name, ports)| (name, ports.encode_to_vec())).collect();
        sorted.sort();
        let bare = workload.encode_to_vec();
        let parts = sorted.iter().flat_map(|(name, ports)| [name.as_bytes(), ports.as_slice()]);
        let content = hash_bytes(std::iter::once(bare.as_slice()).chain(parts));
        let belongs = Belongs { node: workload.node.clone(), services: services.keys().cloned().collect() };
        workload.services = services;
        let aliases = workload.addresses.iter().filter_map(|ip| alias(&workload.network, ip, None)).collect();
        let name = workload.uid.clone();
        let address = wl::Address { r#type: Some(wl::address::Type::Workload(workload)) };
        let resource = Resource::versioned(&address, content, aliases);
        self.address.insert(name, Resource { belongs: Some(belongs), ..resource });
    }

    fn add_service(&mut self, service: wl::Service) {
        let aliases = service
            .addresses
            .iter()
            .filter_map(|vip| alias(&vip.network, &vip.address, vip.length))
            .collect();
        let name = format!("{}/{}", service.namespace, service.hostname);
        let address = wl::Address { r#type: Some(wl::address::Type::Service(service)) };
        let content = hash_bytes(std::iter::once(address.encode_to_vec().as_slice()));
        self.address.insert(name, Resource::versioned(&address, content, aliases));
    }

    fn add_policy(&mut self, policy: &az::Authorization) {
        let value = Bytes::from(policy.encode_to_vec());
        let content = hash_bytes(std::iter::once(value.as_ref()));
        let resource =
            Resource { version: String::new(), content, value, aliases: Vec::new(), belongs: None };
        self.authorization.insert(format!("{}/{}", policy.namespace, policy.name), resource);
    }
}

// === impl Resource ===

impl Resource {
    fn extend(&mut self, bytes: &[u8]) {
        self.value = [self.value.as_ref(), bytes].concat().into();
        self.content = hash_bytes([self.content.to_le_bytes().as_slice(), bytes].into_iter());
        if !self.version.is_empty() {
            self.version = format!("{:016x}", self.content);
        }
    }

    fn versioned(address: &wl::Address, content: u64, aliases: Vec<String>) -> Self {
        let (version, value) = (format!("{content:016x}"), address.encode_to_vec().into());
        Self { version, content, value, aliases, belongs: None }
    }
}

fn workload(mesh: &Mesh, index: usize, pod: &Pod) -> wl::Workload {
    let Announce { status, trust_domain, network, network_gateway, capacity, locality, hostname, .. } =
        &pod.announce;
    let services = mesh.services.iter().filter(|s| s.endpoints.binary_search(&index).is_ok());
    let bound =
        mesh.policies.iter().filter(|p| p.scope == Scope::Workload && p.pods.binary_search(&index).is_ok());
    let mut policies: Vec<String> = bound.map(|p| format!("{}/{}", p.namespace, p.name)).collect();
    if mesh.strict.contains(&pod.namespace) {
        policies.push(format!("{}/{}", STRICT.0, STRICT.1));
    }
    wl::Workload {
        uid: pod.workload_uid(),
        name: pod.name.clone(),
        namespace: pod.namespace.clone(),
        addresses: if hostname.is_some() { Vec::new() } else { pod.ips.iter().map(octets).collect() },
        hostname: hostname.clone().unwrap_or_default(),
        network: network.clone(),
        tunnel_protocol: match pod.protocol {
            Protocol::Hbone => wl::TunnelProtocol::Hbone.into(),
            Protocol::Tcp => wl::TunnelProtocol::None.into(),
        },
        trust_domain: trust_domain.clone().unwrap_or_default(),
        service_account: pod.service_account.clone(),
        waypoint: pod.waypoint.as_ref().map(gateway),
        // The check of the file has already parsed this text.
        network_gateway: network_gateway.as_ref().and_then(|text| text.parse().ok()).as_ref().map(gateway),
        node: pod.node.clone(),
        canonical_name: pod.app.clone(),
        canonical_revision: pod.version.clone(),
        workload_type: wl::WorkloadType::Pod.into(),
        workload_name: pod.name.clone(),
        native_tunnel: pod.announce.native_tunnel,
        application_tunnel: pod.announce.proxy_protocol_port.map(|port| wl::ApplicationTunnel {
            protocol: wl::application_tunnel::Protocol::Proxy.into(),
            port: port.into(),
        }),
        services: services.map(|s| (format!("{}/{}", s.namespace, s.hostname), ports(&s.ports))).collect(),
        authorization_policies: policies,
        status: match status {
            Status::Healthy => wl::WorkloadStatus::Healthy.into(),
            Status::Unhealthy => wl::WorkloadStatus::Unhealthy.into(),
        },
        cluster_id: "Kubernetes".into(),
        locality: Some(wl::Locality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            subzone: locality.subzone.clone(),
        })
        .filter(|l| *l != wl::Locality::default()),
        network_mode: if pod.announce.host_network {
            wl::NetworkMode::HostNetwork.into()
        } else {
            wl::NetworkMode::Standard.into()
        },
        capacity: *capacity,
        ..Default::default()
    }
}

fn service_of(service: &Service) -> wl::Service {
    wl::Service {
        name: service.name.clone(),
        namespace: service.namespace.clone(),
        hostname: service.hostname.clone(),
        addresses: service
            .vips
            .iter()
            .map(|vip| wl::NetworkAddress {
                network: vip.network.clone(),
                address: octets(&vip.addresses.addr()),
                length: (vip.addresses.prefix_len() < vip.addresses.max_prefix_len())
                    .then(|| vip.addresses.prefix_len().into()),
            })
            .collect(),
        ports: ports(&service.ports).ports,
        subject_alt_names: service.subject_alt_names.clone(),
        waypoint: service.waypoint.as_ref().map(gateway),
        weighted_waypoints: service
            .weighted_waypoints
            .iter()
            .map(|(to, weight)| wl::WeightedWaypoint { destination: Some(gateway(to)), weight: *weight })
            .collect(),
        load_balancing: service.load_balancing.as_ref().map(load_balancing),
        canonical: service.canonical,
        visibility: match service.visibility {
            Visibility::Public => wl::service::Visibility::Public.into(),
            Visibility::Namespace => wl::service::Visibility::Namespace.into(),
        },
        ..Default::default()
    }
}

fn load_balancing(lb: &LoadBalancing) -> wl::LoadBalancing {
    use wl::load_balancing as pb;
    let scope = |scope: &LbScope| match scope {
        LbScope::Region => pb::Scope::Region.into(),
        LbScope::Zone => pb::Scope::Zone.into(),
        LbScope::Subzone => pb::Scope::Subzone.into(),
        LbScope::Node => pb::Scope::Node.into(),
        LbScope::Cluster => pb::Scope::Cluster.into(),
        LbScope::Network => pb::Scope::Network.into(),
    };
    wl::LoadBalancing {
        routing_preference: lb.preference.iter().map(scope).collect(),
        mode: match lb.mode {
            LbMode::Standard => pb::Mode::UnspecifiedMode.into(),
            LbMode::Strict => pb::Mode::Strict.into(),
            LbMode::Failover => pb::Mode::Failover.into(),
            LbMode::Passthrough => pb::Mode::Passthrough.into(),
        },
        health_policy: match lb.health {
            HealthPolicy::OnlyHealthy => pb::HealthPolicy::OnlyHealthy.into(),
            HealthPolicy::AllowAll => pb::HealthPolicy::AllowAll.into(),
        },
    }
}

fn authorization(policy: &Policy) -> az::Authorization {
    az::Authorization {
        name: policy.name.clone(),
        namespace: policy.namespace.clone(),
        scope: match policy.scope {
            Scope::Mesh => az::Scope::Global.into(),
            Scope::Namespace => az::Scope::Namespace.into(),
            Scope::Workload => az::Scope::WorkloadSelector.into(),
        },
        action: match policy.action {
            Action::Allow => az::Action::Allow.into(),
            Action::Deny => az::Action::Deny.into(),
        },
        rules: policy.rules.iter().map(rule).collect(),
        dry_run: policy.dry_run,
        ..Default::default()
    }
}

/// The policy that refuses clients without an identity.
fn strict() -> az::Authorization {
    let no_identity = az::Match { not_principals: vec![string_match("*")], ..Default::default() };
    let clause = az::Clause { matches: vec![no_identity] };
    az::Authorization {
        name: STRICT.1.into(),
        namespace: STRICT.0.into(),
        scope: az::Scope::WorkloadSelector.into(),
        action: az::Action::Deny.into(),
        rules: vec![az::Rule { clauses: vec![clause] }],
        ..Default::default()
    }
}

/// Each side becomes a clause of its own. A side without conditions becomes no clause, so that it matches everything.
fn rule(rule: &Rule) -> az::Rule {
    let sides: [Vec<az::Match>; 2] =
        [rule.from.iter().map(source).collect(), rule.to.iter().map(target).collect()];
    let clauses = sides.into_iter().filter(|matches| !matches.is_empty());
    az::Rule { clauses: clauses.map(|matches| az::Clause { matches }).collect() }
}

fn source(from: &Source) -> az::Match {
    let strings = |texts: &[String]| texts.iter().map(|text| string_match(text)).collect();
    let accounts = |accounts: &[(String, String)]| {
        let account = |(namespace, name): &(String, String)| az::ServiceAccountMatch {
            namespace: namespace.clone(),
            service_account: name.clone(),
        };
        accounts.iter().map(account).collect()
    };
    az::Match {
        namespaces: strings(&from.namespaces.any),
        not_namespaces: strings(&from.namespaces.none),
        principals: strings(&from.principals.any),
        not_principals: strings(&from.principals.none),
        source_ips: blocks(&from.ip_blocks.any),
        not_source_ips: blocks(&from.ip_blocks.none),
        service_accounts: accounts(&from.service_accounts.any),
        not_service_accounts: accounts(&from.service_accounts.none),
        ..Default::default()
    }
}

fn target(to: &Target) -> az::Match {
    let Listed { any, none } = &to.ports;
    az::Match {
        destination_ips: blocks(&to.ip_blocks.any),
        not_destination_ips: blocks(&to.ip_blocks.none),
        destination_ports: any.iter().copied().map(u32::from).collect(),
        not_destination_ports: none.iter().copied().map(u32::from).collect(),
        ..Default::default()
    }
}

fn blocks(blocks: &[IpNet]) -> Vec<az::Address> {
    let block =
        |net: &IpNet| az::Address { address: octets(&net.network()), length: net.prefix_len().into() };
    blocks.iter().map(block).collect()
}

fn string_match(text: &str) -> az::StringMatch {
    use az::string_match::MatchType;
    let kind = match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => MatchType::Presence(()),
        (Some(suffix), _) => MatchType::Suffix(suffix.into()),
        (None, Some(prefix)) => MatchType::Prefix(prefix.into()),
        (None, None) => MatchType::Exact(text.into()),
    };
    az::StringMatch { match_type: Some(kind) }
}

fn gateway(gateway: &Gateway) -> wl::GatewayAddress {
    use wl::gateway_address::Destination;
    let (destination, port) = match gateway {
        Gateway::Hostname { namespace, hostname, port } => {
            let name = wl::NamespacedHostname { namespace: namespace.clone(), hostname: hostname.clone() };
            (Destination::Hostname(name), *port)
        }
        Gateway::Address { network, address, port } => {
            let address =
                wl::NetworkAddress { network: network.clone(), address: octets(address), length: None };
            (Destination::Address(address), *port)
        }
    };
    wl::GatewayAddress { destination: Some(destination), hbone_mtls_port: port.into() }
}

fn ports(ports: &BTreeMap<u16, u16>) -> wl::PortList {
    let port = |(service, target): (&u16, &u16)| wl::Port {
        service_port: (*service).into(),
        target_port: (*target).into(),
        ..Default::default()
    };
    wl::PortList { ports: ports.iter().map(port).collect() }
}

fn octets(ip: &IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The alias `network/address` or `network/address/length`.
fn alias(network: &str, octets: &[u8], length: Option<u32>) -> Option<String> {
    let ip = match octets.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
    };
    Some(length.map_or_else(|| format!("{network}/{ip}"), |length| format!("{network}/{ip}/{length}")))
}

#[cfg(test)]
mod tests;

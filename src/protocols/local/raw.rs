//! The source as it is written, with the keys of `/config_dump` (docs/spec/controlplane.md 7.2).

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, de::IgnoredAny};
use serde_saphyr::Spanned;

use crate::protocols::pb::{security as az, workload as wl};

/// The whole source.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Source {
    pub(super) workloads: Vec<Workload>,
    pub(super) services: Vec<Service>,
    pub(super) policies: Vec<Policy>,
}

/// A workload. Without a uid it has that of a pod of its name.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Workload {
    namespace: Spanned<String>,
    workload_ips: Vec<IpAddr>,
    services: BTreeMap<String, BTreeMap<Port, u16>>,
    #[serde(default)]
    waypoint: Option<Gateway>,
    #[serde(default)]
    network_gateway: Option<Gateway>,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    network_mode: NetworkMode,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    trust_domain: String,
    #[serde(default)]
    service_account: String,
    #[serde(default)]
    network: String,
    #[serde(default)]
    workload_name: String,
    #[serde(default)]
    workload_type: WorkloadType,
    #[serde(default)]
    canonical_name: String,
    #[serde(default)]
    canonical_revision: String,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    node: String,
    #[serde(default)]
    native_tunnel: bool,
    #[serde(default)]
    application_tunnel: Option<ApplicationTunnel>,
    #[serde(default)]
    authorization_policies: Vec<String>,
    #[serde(default)]
    status: Status,
    #[serde(default)]
    cluster_id: String,
    #[serde(default)]
    locality: Locality,
    #[serde(default)]
    capacity: Option<u32>,
}

/// A service.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Service {
    namespace: Spanned<String>,
    name: String,
    hostname: String,
    vips: Vec<Vip>,
    ports: BTreeMap<Port, u16>,
    /// The workloads name their services themselves. A dump repeats that here.
    #[serde(default, rename = "endpoints")]
    _endpoints: IgnoredAny,
    #[serde(default)]
    cidr_vips: Vec<CidrVip>,
    #[serde(default)]
    subject_alt_names: Vec<String>,
    #[serde(default)]
    waypoint: Option<Gateway>,
    #[serde(default)]
    weighted_waypoints: Vec<WeightedWaypoint>,
    #[serde(default)]
    load_balancer: Option<LoadBalancer>,
    #[serde(default)]
    ip_families: Option<IpFamilies>,
    #[serde(default)]
    canonical: bool,
    #[serde(default)]
    visibility: Visibility,
}

/// A policy, with all its keys.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Policy {
    namespace: Spanned<String>,
    name: String,
    scope: Scope,
    action: Action,
    dry_run: bool,
    rules: Vec<Vec<Vec<Match>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Match {
    namespaces: Vec<Text>,
    not_namespaces: Vec<Text>,
    principals: Vec<Text>,
    not_principals: Vec<Text>,
    source_ips: Vec<Range>,
    not_source_ips: Vec<Range>,
    destination_ips: Vec<Range>,
    not_destination_ips: Vec<Range>,
    destination_ports: Vec<u16>,
    not_destination_ports: Vec<u16>,
    service_accounts: Vec<ServiceAccount>,
    not_service_accounts: Vec<ServiceAccount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceAccount {
    namespace: String,
    service_account: String,
}

#[derive(Deserialize)]
enum Text {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Presence(IgnoredAny),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Gateway {
    destination: Destination,
    hbone_mtls_port: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WeightedWaypoint {
    destination: Gateway,
    weight: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LoadBalancer {
    #[serde(default)]
    routing_preferences: Vec<LbScope>,
    #[serde(default)]
    mode: LbMode,
    #[serde(default)]
    health_policy: HealthPolicy,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ApplicationTunnel {
    protocol: TunnelHeader,
    #[serde(default)]
    port: Option<u16>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Locality {
    region: String,
    zone: String,
    subzone: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CidrVip {
    network: String,
    cidr: Range,
}

/// `network/ip` or `namespace/hostname`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
enum Destination {
    Address(Vip),
    Host(String, String),
}

/// `network/ip`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Vip {
    network: String,
    ip: IpAddr,
}

/// `ip/length`, or an address.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Range(IpNet);

/// A port as a key, which JSON has in quotes.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct Port(u16);

/// Declares the words that a field may have, and the values of the wire.
macro_rules! words {
    ($name:ident($rename:literal) -> $wire:path { $first:ident $first_to:ident $(, $word:ident $to:ident)* }) => {
        #[derive(Clone, Copy, Default, Deserialize)]
        #[serde(rename_all = $rename)]
        enum $name {
            #[default]
            $first,
            $($word,)*
        }

        impl From<$name> for i32 {
            fn from(word: $name) -> i32 {
                use $wire as Wire;
                match word {
                    $name::$first => Wire::$first_to.into(),
                    $($name::$word => Wire::$to.into(),)*
                }
            }
        }
    };
}

words!(Protocol("UPPERCASE") -> wl::TunnelProtocol { Tcp None, Hbone Hbone });
words!(NetworkMode("PascalCase") -> wl::NetworkMode { Standard Standard, HostNetwork HostNetwork });
words!(Status("PascalCase") -> wl::WorkloadStatus { Healthy Healthy, Unhealthy Unhealthy });
words!(WorkloadType("lowercase") -> wl::WorkloadType {
    Deployment Deployment, Cronjob Cronjob, Pod Pod, Job Job
});
words!(TunnelHeader("UPPERCASE") -> wl::application_tunnel::Protocol { None None, Proxy Proxy });
words!(Visibility("PascalCase") -> wl::service::Visibility { Public Public, Namespace Namespace });
words!(LbMode("PascalCase") -> wl::load_balancing::Mode {
    Standard UnspecifiedMode, Strict Strict, Failover Failover, Passthrough Passthrough
});
words!(LbScope("PascalCase") -> wl::load_balancing::Scope {
    Region Region, Zone Zone, Subzone Subzone, Node Node, Cluster Cluster, Network Network
});
words!(HealthPolicy("PascalCase") -> wl::load_balancing::HealthPolicy {
    OnlyHealthy OnlyHealthy, AllowAll AllowAll
});
words!(IpFamilies("PascalCase") -> wl::IpFamilies { Dual Dual, IPv4 Ipv4Only, IPv6 Ipv6Only });
words!(Scope("PascalCase") -> az::Scope {
    Global Global, Namespace Namespace, WorkloadSelector WorkloadSelector
});
words!(Action("PascalCase") -> az::Action { Allow Allow, Deny Deny });

// === impl Workload, Service, Policy ===

impl Workload {
    /// The line at which the item names its namespace.
    pub(super) fn line(&self) -> u64 {
        self.namespace.referenced.line()
    }
}

impl Service {
    /// The line at which the item names its namespace.
    pub(super) fn line(&self) -> u64 {
        self.namespace.referenced.line()
    }
}

impl Policy {
    /// The line at which the item names its namespace.
    pub(super) fn line(&self) -> u64 {
        self.namespace.referenced.line()
    }
}

impl From<Workload> for wl::Workload {
    fn from(raw: Workload) -> Self {
        let namespace = raw.namespace.value;
        let derived = || match raw.name.as_str() {
            "" => String::new(),
            name => format!("Kubernetes//Pod/{namespace}/{name}"),
        };
        let services = raw.services.into_iter();
        let services = services.map(|(service, own)| (service, wl::PortList { ports: ports(own) })).collect();
        Self {
            uid: if raw.uid.is_empty() { derived() } else { raw.uid },
            name: raw.name,
            namespace,
            addresses: raw.workload_ips.into_iter().map(octets).collect(),
            hostname: raw.hostname,
            network: raw.network,
            tunnel_protocol: raw.protocol.into(),
            trust_domain: raw.trust_domain,
            service_account: raw.service_account,
            waypoint: raw.waypoint.map(Into::into),
            network_gateway: raw.network_gateway.map(Into::into),
            node: raw.node,
            canonical_name: raw.canonical_name,
            canonical_revision: raw.canonical_revision,
            workload_type: raw.workload_type.into(),
            workload_name: raw.workload_name,
            native_tunnel: raw.native_tunnel,
            application_tunnel: raw.application_tunnel.map(|tunnel| wl::ApplicationTunnel {
                protocol: tunnel.protocol.into(),
                port: tunnel.port.unwrap_or(0).into(),
            }),
            services,
            authorization_policies: raw.authorization_policies,
            status: raw.status.into(),
            cluster_id: raw.cluster_id,
            locality: Some(wl::Locality {
                region: raw.locality.region,
                zone: raw.locality.zone,
                subzone: raw.locality.subzone,
            }),
            network_mode: raw.network_mode.into(),
            extensions: Vec::new(),
            capacity: raw.capacity,
        }
    }
}

impl From<Service> for wl::Service {
    fn from(raw: Service) -> Self {
        let vips = raw.vips.into_iter().map(wl::NetworkAddress::from);
        let ranges = raw.cidr_vips.into_iter().map(|CidrVip { network, cidr: Range(cidr) }| {
            let (address, length) = (octets(cidr.addr()), Some(cidr.prefix_len().into()));
            wl::NetworkAddress { network, address, length }
        });
        Self {
            name: raw.name,
            namespace: raw.namespace.value,
            hostname: raw.hostname,
            addresses: vips.chain(ranges).collect(),
            ports: ports(raw.ports),
            subject_alt_names: raw.subject_alt_names,
            waypoint: raw.waypoint.map(Into::into),
            weighted_waypoints: raw
                .weighted_waypoints
                .into_iter()
                .map(|WeightedWaypoint { destination, weight }| wl::WeightedWaypoint {
                    destination: Some(destination.into()),
                    weight,
                })
                .collect(),
            load_balancing: raw.load_balancer.map(|lb| wl::LoadBalancing {
                routing_preference: lb.routing_preferences.into_iter().map(Into::into).collect(),
                mode: lb.mode.into(),
                health_policy: lb.health_policy.into(),
            }),
            ip_families: raw.ip_families.map_or(0, Into::into),
            canonical: raw.canonical,
            visibility: raw.visibility.into(),
            ..Self::default()
        }
    }
}

impl From<Policy> for az::Authorization {
    fn from(raw: Policy) -> Self {
        let clause =
            |matches: Vec<Match>| az::Clause { matches: matches.into_iter().map(Into::into).collect() };
        let rule = |clauses: Vec<Vec<Match>>| az::Rule { clauses: clauses.into_iter().map(clause).collect() };
        Self {
            name: raw.name,
            namespace: raw.namespace.value,
            scope: raw.scope.into(),
            action: raw.action.into(),
            rules: raw.rules.into_iter().map(rule).collect(),
            dry_run: raw.dry_run,
            ..Self::default()
        }
    }
}

impl From<Match> for az::Match {
    fn from(raw: Match) -> Self {
        let texts = |list: Vec<Text>| list.into_iter().map(Into::into).collect();
        let ranges = |list: Vec<Range>| list.into_iter().map(Into::into).collect();
        let accounts = |list: Vec<ServiceAccount>| list.into_iter().map(Into::into).collect();
        let ports = |list: Vec<u16>| list.into_iter().map(Into::into).collect();
        Self {
            namespaces: texts(raw.namespaces),
            not_namespaces: texts(raw.not_namespaces),
            principals: texts(raw.principals),
            not_principals: texts(raw.not_principals),
            source_ips: ranges(raw.source_ips),
            not_source_ips: ranges(raw.not_source_ips),
            destination_ips: ranges(raw.destination_ips),
            not_destination_ips: ranges(raw.not_destination_ips),
            destination_ports: ports(raw.destination_ports),
            not_destination_ports: ports(raw.not_destination_ports),
            service_accounts: accounts(raw.service_accounts),
            not_service_accounts: accounts(raw.not_service_accounts),
            ..Self::default()
        }
    }
}

impl From<Text> for az::StringMatch {
    fn from(text: Text) -> Self {
        use az::string_match::MatchType;
        let kind = match text {
            Text::Exact(text) => MatchType::Exact(text),
            Text::Prefix(text) => MatchType::Prefix(text),
            Text::Suffix(text) => MatchType::Suffix(text),
            Text::Presence(_) => MatchType::Presence(()),
        };
        Self { match_type: Some(kind) }
    }
}

impl From<Range> for az::Address {
    fn from(Range(range): Range) -> Self {
        Self { address: octets(range.addr()), length: range.prefix_len().into() }
    }
}

impl From<ServiceAccount> for az::ServiceAccountMatch {
    fn from(ServiceAccount { namespace, service_account }: ServiceAccount) -> Self {
        Self { namespace, service_account }
    }
}

impl From<Gateway> for wl::GatewayAddress {
    fn from(Gateway { destination, hbone_mtls_port }: Gateway) -> Self {
        use wl::gateway_address::Destination as Wire;
        let destination = match destination {
            Destination::Address(vip) => Wire::Address(vip.into()),
            Destination::Host(namespace, hostname) => {
                Wire::Hostname(wl::NamespacedHostname { namespace, hostname })
            }
        };
        Self { destination: Some(destination), hbone_mtls_port: hbone_mtls_port.into() }
    }
}

impl From<Vip> for wl::NetworkAddress {
    fn from(Vip { network, ip }: Vip) -> Self {
        Self { network, address: octets(ip), length: None }
    }
}

impl TryFrom<String> for Destination {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (first, second) = text.split_once('/').ok_or_else(|| not_a_destination(&text))?;
        if let Ok(ip) = second.parse() {
            return Ok(Self::Address(Vip { network: first.to_owned(), ip }));
        }
        if second.is_empty() || second.contains('/') {
            return Err(not_a_destination(&text));
        }
        Ok(Self::Host(first.to_owned(), second.to_owned()))
    }
}

impl TryFrom<String> for Vip {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.rsplit_once('/').and_then(|(network, ip)| Some((network, ip.parse().ok()?)));
        let (network, ip) = parts.ok_or_else(|| format!("{text:?} is not network/ip"))?;
        Ok(Self { network: network.to_owned(), ip })
    }
}

impl TryFrom<String> for Range {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let range = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        range.map(Self).map_err(|_| format!("{text:?} is not ip/length"))
    }
}

impl TryFrom<String> for Port {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("{text:?} is not a port"))
    }
}

fn not_a_destination(text: &str) -> String {
    format!("{text:?} is neither network/ip nor namespace/hostname")
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn ports(ports: BTreeMap<Port, u16>) -> Vec<wl::Port> {
    let port = |(Port(service), target): (Port, u16)| wl::Port {
        service_port: service.into(),
        target_port: target.into(),
        ..wl::Port::default()
    };
    ports.into_iter().map(port).collect()
}

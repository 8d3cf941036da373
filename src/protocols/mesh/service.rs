//! Services, and the endpoints behind them.

use std::{cmp::Ordering, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    decode::{self, DecodeError, Ports, ServiceName},
    gateway::{Gateway, WeightedWaypoint},
    workload::{Status, Workload},
};
use crate::protocols::{identity::Identity, pb::workload as pb};

/// A named set of virtual addresses in front of workloads (docs/spec/protos.md 1).
///
/// A service is only made by decoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    key: ServiceName,
    name: Box<str>,
    vips: Box<[Vip]>,
    cidr_vips: Box<[CidrVip]>,
    ports: Ports,
    sans: Option<Arc<[Identity]>>,
    waypoint: Option<Gateway>,
    weighted_waypoints: Box<[WeightedWaypoint]>,
    balancing: Balancing,
    ip_families: Option<IpFamilies>,
    canonical: bool,
    visibility: Visibility,
}

/// A virtual address of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The network the address belongs to.
    pub network: Box<str>,
    /// The address.
    pub ip: IpAddr,
}

/// A range of virtual addresses of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidrVip {
    /// The network the range belongs to.
    pub network: Box<str>,
    /// The range without host bits. Its prefix is shorter than that of a single address.
    pub cidr: IpNet,
}

/// How an endpoint is chosen (docs/spec/dataplane.md 3.3).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Balancing {
    /// The properties to compare, the most important first.
    pub preferences: Box<[Scope]>,
    /// The effect of the comparison.
    pub mode: BalancingMode,
    /// The health that endpoints need to take part.
    pub health: HealthPolicy,
}

/// A property of a [`Place`](super::workload::Place) that load balancing compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The region.
    Region,
    /// The zone.
    Zone,
    /// The part of the zone.
    Subzone,
    /// The node.
    Node,
    /// The cluster.
    Cluster,
    /// The network.
    Network,
}

/// The effect of the preferences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BalancingMode {
    /// The preferences have no effect.
    #[default]
    Standard,
    /// Only endpoints that match all preferences take part.
    Strict,
    /// The endpoints that match the most preferences come first.
    Failover,
    /// No endpoint is chosen: the original destination is dialled.
    Passthrough,
}

/// The health that endpoints need to take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HealthPolicy {
    /// Ready endpoints take part.
    #[default]
    OnlyHealthy,
    /// All endpoints take part.
    AllowAll,
}

/// Restricts the addresses of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamilies {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// IPv4 and IPv6.
    Dual,
}

/// Who may use a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// All clients.
    Public,
    /// Clients of the service's namespace.
    Namespace,
}

/// The healthy and unhealthy endpoints of one service. The list is derived from the workloads: it may exist before the
/// service and may outlive the service.
#[derive(Debug)]
pub struct Endpoints {
    service: ServiceName,
    workloads: Box<[Arc<Workload>]>,
    top_capacity: u32,
}

// === impl Service ===

impl Service {
    /// Checks and converts the control plane's resource. Subject alternative names that are no identity are left out.
    ///
    /// # Errors
    /// The first field that makes the whole resource unusable (docs/spec/protos.md 1).
    pub fn decode(pb: pb::Service) -> Result<Self, DecodeError> {
        let key = ServiceName::of_parts("hostname", &pb.namespace, &pb.hostname)?;
        let (mut vips, mut cidr_vips) = (Vec::new(), Vec::new());
        for address in pb.addresses {
            decode::bounded("addresses", &address.network)?;
            match decode::prefix("addresses", &address)? {
                Some(cidr) => cidr_vips.push(CidrVip { network: address.network.into(), cidr }),
                None => vips.push(Vip {
                    ip: decode::ip("addresses", &address.address)?,
                    network: address.network.into(),
                }),
            }
        }
        let mut weighted_waypoints = Vec::with_capacity(pb.weighted_waypoints.len());
        for waypoint in pb.weighted_waypoints {
            let destination = waypoint.destination.ok_or(DecodeError::Missing("weighted_waypoints"))?;
            weighted_waypoints.push(WeightedWaypoint {
                gateway: Gateway::decode("weighted_waypoints", destination)?,
                weight: waypoint.weight,
            });
        }
        let sans = identities(&key, &pb.subject_alt_names);
        Ok(Self {
            key,
            name: pb.name.into(),
            vips: vips.into(),
            cidr_vips: cidr_vips.into(),
            ports: Ports::decode("ports", &pb.ports)?,
            sans,
            waypoint: pb.waypoint.map(|pb| Gateway::decode("waypoint", pb)).transpose()?,
            weighted_waypoints: weighted_waypoints.into(),
            balancing: pb.load_balancing.map(Balancing::decode).transpose()?.unwrap_or_default(),
            ip_families: IpFamilies::decode(pb.ip_families)?,
            canonical: pb.canonical,
            visibility: match pb::service::Visibility::try_from(pb.visibility) {
                Ok(pb::service::Visibility::Namespace) => Visibility::Namespace,
                // This enum is the only lenient one: an unknown visibility counts as public.
                Ok(pb::service::Visibility::Public) | Err(_) => Visibility::Public,
            },
        })
    }

    /// The key of the service, `namespace/hostname`.
    pub fn key(&self) -> &ServiceName {
        &self.key
    }

    /// The Kubernetes name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.key.namespace()
    }

    /// The fully qualified name, which may start with `*.`.
    pub fn hostname(&self) -> &str {
        self.key.hostname()
    }

    /// The virtual addresses. A headless service has none.
    pub fn vips(&self) -> &[Vip] {
        &self.vips
    }

    /// The ranges of virtual addresses.
    pub fn cidr_vips(&self) -> &[CidrVip] {
        &self.cidr_vips
    }

    /// The ports of the service.
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The identities that are accepted from an endpoint besides the endpoint's own identity.
    pub fn sans(&self) -> &[Identity] {
        self.sans.as_deref().unwrap_or_default()
    }

    pub(in crate::protocols) fn shared_sans(&self) -> Option<&Arc<[Identity]>> {
        self.sans.as_ref()
    }

    /// The waypoint in front of the service, unless one of [`Self::weighted_waypoints`] is chosen.
    pub fn waypoint(&self) -> Option<&Gateway> {
        self.waypoint.as_ref()
    }

    /// The waypoints of which each connection chooses one.
    pub fn weighted_waypoints(&self) -> &[WeightedWaypoint] {
        &self.weighted_waypoints
    }

    /// How an endpoint is chosen.
    pub fn balancing(&self) -> &Balancing {
        &self.balancing
    }

    /// The address families of endpoints; `None` means both families.
    pub fn ip_families(&self) -> Option<IpFamilies> {
        self.ip_families
    }

    /// Whether the service wins against other services of the same name or address.
    pub fn canonical(&self) -> bool {
        self.canonical
    }

    /// The clients that may use the service.
    pub fn visibility(&self) -> Visibility {
        self.visibility
    }

    /// Whether clients of `namespace` may use the service.
    pub fn visible_to(&self, namespace: &str) -> bool {
        self.visibility == Visibility::Public || self.namespace() == namespace
    }

    /// Whether `workload`'s readiness lets it take part as an endpoint.
    pub fn admits(&self, workload: &Workload) -> bool {
        workload.status() == Status::Healthy || self.balancing.health == HealthPolicy::AllowAll
    }

    /// Orders two services of one name or address; a client of `namespace` means the greater service. A service of the
    /// client's namespace wins, then a canonical service. Otherwise the name decides, so that all nodes decide alike.
    pub(super) fn preference(&self, other: &Self, namespace: &str) -> Ordering {
        let claim = |service: &Self| (service.namespace() == namespace, service.canonical);
        claim(self).cmp(&claim(other)).then_with(|| other.key.cmp(&self.key))
    }
}

fn identities(service: &ServiceName, names: &[String]) -> Option<Arc<[Identity]>> {
    let parse = |name: &String| match name.parse::<Identity>() {
        Ok(identity) => Some(identity),
        Err(error) => {
            tracing::warn!(%service, %error, "subject alternative name of a service is left out");
            None
        }
    };
    let list: Vec<Identity> = names.iter().filter_map(parse).collect();
    (!list.is_empty()).then(|| list.into())
}

// === impl Balancing ===

impl Balancing {
    fn decode(pb: pb::LoadBalancing) -> Result<Self, DecodeError> {
        use pb::load_balancing as lb;
        let scope = |&value: &i32| match lb::Scope::try_from(value) {
            Ok(lb::Scope::Region) => Ok(Scope::Region),
            Ok(lb::Scope::Zone) => Ok(Scope::Zone),
            Ok(lb::Scope::Subzone) => Ok(Scope::Subzone),
            Ok(lb::Scope::Node) => Ok(Scope::Node),
            Ok(lb::Scope::Cluster) => Ok(Scope::Cluster),
            Ok(lb::Scope::Network) => Ok(Scope::Network),
            Ok(lb::Scope::UnspecifiedScope) | Err(_) => {
                Err(DecodeError::Unknown { field: "load_balancing.routing_preference", value })
            }
        };
        Ok(Self {
            preferences: pb.routing_preference.iter().map(scope).collect::<Result<_, _>>()?,
            mode: match lb::Mode::try_from(pb.mode) {
                Ok(lb::Mode::UnspecifiedMode) => BalancingMode::Standard,
                Ok(lb::Mode::Strict) => BalancingMode::Strict,
                Ok(lb::Mode::Failover) => BalancingMode::Failover,
                Ok(lb::Mode::Passthrough) => BalancingMode::Passthrough,
                Err(_) => {
                    return Err(DecodeError::Unknown { field: "load_balancing.mode", value: pb.mode });
                }
            },
            health: match lb::HealthPolicy::try_from(pb.health_policy) {
                Ok(lb::HealthPolicy::OnlyHealthy) => HealthPolicy::OnlyHealthy,
                Ok(lb::HealthPolicy::AllowAll) => HealthPolicy::AllowAll,
                Err(_) => {
                    let field = "load_balancing.health_policy";
                    return Err(DecodeError::Unknown { field, value: pb.health_policy });
                }
            },
        })
    }
}

// === impl IpFamilies ===

impl IpFamilies {
    fn decode(value: i32) -> Result<Option<Self>, DecodeError> {
        match pb::IpFamilies::try_from(value) {
            Ok(pb::IpFamilies::Automatic) => Ok(None),
            Ok(pb::IpFamilies::Ipv4Only) => Ok(Some(Self::V4)),
            Ok(pb::IpFamilies::Ipv6Only) => Ok(Some(Self::V6)),
            Ok(pb::IpFamilies::Dual) => Ok(Some(Self::Dual)),
            Err(_) => Err(DecodeError::Unknown { field: "ip_families", value }),
        }
    }

    /// Whether an endpoint may be reached by `ip`.
    pub fn accepts(self, ip: IpAddr) -> bool {
        match self {
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
            Self::Dual => true,
        }
    }
}

// === impl Endpoints ===

impl Endpoints {
    pub(super) fn new(service: ServiceName, workloads: Vec<Arc<Workload>>) -> Self {
        let top_capacity = workloads.iter().map(|workload| workload.capacity()).max().unwrap_or(0);
        Self { service, workloads: workloads.into_boxed_slice(), top_capacity }
    }

    /// The service of the endpoints, which may not be known yet.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// All endpoints, in arbitrary order. Check [`Service::admits`] before using one.
    pub fn workloads(&self) -> &[Arc<Workload>] {
        &self.workloads
    }

    /// The highest capacity among the endpoints.
    pub fn top_capacity(&self) -> u32 {
        self.top_capacity
    }
}

//! Workloads: the endpoints of the mesh, held compactly.
//!
//! A node proxy knows every endpoint of its mesh. The replicas of one deployment share one `Template`, and the pods of
//! one node share one [`Place`]. The writer interns both, so a workload itself holds little more than its uid and
//! address.

use std::{fmt, net::IpAddr, sync::Arc};

use super::{
    decode::{self, DecodeError, Ports, ServiceName},
    gateway::{ApplicationTunnel, Gateway},
};
use crate::protocols::{identity::Identity, pb::workload as pb};

const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
const DEFAULT_SERVICE_ACCOUNT: &str = "default";
const DEFAULT_CLUSTER: &str = "Kubernetes";

/// One endpoint: a pod, a machine, or a gateway of another network (docs/spec/protos.md 1).
///
/// A workload is only made by decoding. Two workloads are equal if all their fields are equal.
#[derive(Clone, PartialEq, Eq)]
pub struct Workload {
    uid: Box<str>,
    template: Arc<Template>,
    place: Arc<Place>,
    addresses: Addresses,
    rare: Option<Box<RareFields>>,
    capacity: u32,
    /// The position and the length of the name in the uid, if the uid holds the name.
    name: (u16, u16),
    status: Status,
}

/// The fields that all replicas of a deployment share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Template {
    pub(super) identity: Identity,
    owner: Owner,
    services: Box<[Membership]>,
    policies: Box<[Box<str>]>,
    waypoint: Option<Box<Gateway>>,
    network_gateway: Option<Box<Gateway>>,
    application_tunnel: Option<ApplicationTunnel>,
    protocol: TunnelProtocol,
    native_tunnel: bool,
    host_network: bool,
}

/// The owner of the workload, for telemetry. The name is left out if it is the pod's own name. Otherwise bare pods, of
/// which each is its own owner, could not share a template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Owner {
    canonical_name: Option<Box<str>>,
    canonical_revision: Box<str>,
    workload_name: Option<Box<str>>,
    workload_type: WorkloadType,
}

/// The place where a workload runs. Load balancing compares places.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The network. An empty name is the default network.
    pub network: Box<str>,
    /// The cluster.
    pub cluster_id: Box<str>,
    /// The Kubernetes node.
    pub node: Box<str>,
    /// The region.
    pub region: Box<str>,
    /// The zone within the region.
    pub zone: Box<str>,
    /// The part of the zone.
    pub subzone: Box<str>,
}

/// A service of which the workload is an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    /// The service.
    pub service: ServiceName,
    /// The ports of this endpoint, which override the ports of the service.
    pub ports: Ports,
}

/// The fields that most workloads lack.
#[derive(Clone, PartialEq, Eq)]
struct RareFields {
    /// The name, if the uid does not hold the name.
    name: Option<Box<str>>,
    hostname: Option<Arc<str>>,
}

#[derive(Clone, PartialEq, Eq)]
enum Addresses {
    One(IpAddr),
    List(Box<[IpAddr]>),
}

/// How a workload is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelProtocol {
    /// By plain TCP.
    Tcp,
    /// By HBONE.
    Hbone,
}

/// Whether a workload is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The workload is ready.
    Healthy,
    /// The workload is not ready.
    Unhealthy,
}

/// The kind of a workload's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkloadType {
    /// A deployment or an unknown kind.
    Deployment,
    /// A cron job.
    CronJob,
    /// A bare pod.
    Pod,
    /// A job.
    Job,
}

// === impl Workload ===

impl Workload {
    /// Checks and converts the control plane's resource. An empty trust domain, service account or cluster gets its
    /// default.
    ///
    /// # Errors
    /// The first field that makes the whole resource unusable (docs/spec/protos.md 1).
    pub fn decode(mut pb: pb::Workload) -> Result<Self, DecodeError> {
        if pb.uid.is_empty() {
            return Err(DecodeError::Missing("uid"));
        }
        for (field, text) in [("uid", &pb.uid), ("name", &pb.name), ("hostname", &pb.hostname)] {
            decode::bounded(field, text)?;
        }
        let addresses = Addresses::decode(&pb.addresses)?;
        let status = match pb::WorkloadStatus::try_from(pb.status) {
            Ok(pb::WorkloadStatus::Healthy) => Status::Healthy,
            Ok(pb::WorkloadStatus::Unhealthy) => Status::Unhealthy,
            Err(_) => return Err(DecodeError::Unknown { field: "status", value: pb.status }),
        };
        let place = Arc::new(Place::take(&mut pb));
        let owner = Owner::take(&mut pb);
        let uid = std::mem::take(&mut pb.uid).into_boxed_str();
        let within = uid.rfind(&pb.name).and_then(|at| {
            Some((u16::try_from(at).ok()?, u16::try_from(pb.name.len()).ok()?)) //
        });
        let apart = within.is_none().then(|| std::mem::take(&mut pb.name).into_boxed_str());
        let hostname = (!pb.hostname.is_empty()).then(|| Arc::from(pb.hostname.as_str()));
        let rare =
            (apart.is_some() || hostname.is_some()).then(|| Box::new(RareFields { name: apart, hostname }));
        Ok(Self {
            uid,
            place,
            addresses,
            rare,
            capacity: pb.capacity.unwrap_or(1),
            name: within.unwrap_or_default(),
            status,
            template: Arc::new(Template::decode(pb, owner)?),
        })
    }

    /// The primary key. The key is opaque, except that a key with `//Pod/` belongs to a pod.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        if let Some(name) = self.rare.as_ref().and_then(|rare| rare.name.as_deref()) {
            return name;
        }
        let (at, len) = (usize::from(self.name.0), usize::from(self.name.1));
        self.uid.get(at..at + len).unwrap_or_default()
    }

    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace(), self.name())
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.template.identity.namespace()
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        self.template.identity.service_account()
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        self.template.identity.trust_domain()
    }

    /// The identity, made of trust domain, namespace and service account.
    pub fn identity(&self) -> &Identity {
        &self.template.identity
    }

    /// The workload's addresses in the control plane's order. The list may be empty.
    pub fn addresses(&self) -> &[IpAddr] {
        match &self.addresses {
            Addresses::One(ip) => std::slice::from_ref(ip),
            Addresses::List(list) => list,
        }
    }

    /// The name to resolve by DNS if the workload has no addresses.
    pub fn hostname(&self) -> Option<&Arc<str>> {
        self.rare.as_ref()?.hostname.as_ref()
    }

    /// The place where the workload runs.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The network of the workload's addresses. An empty name is the default network.
    pub fn network(&self) -> &str {
        &self.place.network
    }

    /// The workload's node.
    pub fn node(&self) -> &str {
        &self.place.node
    }

    /// The workload's cluster.
    pub fn cluster_id(&self) -> &str {
        &self.place.cluster_id
    }

    /// The protocol by which the workload is reached.
    pub fn protocol(&self) -> TunnelProtocol {
        self.template.protocol
    }

    /// Whether the workload speaks HBONE itself.
    pub fn native_tunnel(&self) -> bool {
        self.template.native_tunnel
    }

    /// Whether the workload has its node's address. Such an address does not identify the workload.
    pub fn host_network(&self) -> bool {
        self.template.host_network
    }

    /// Whether the workload is ready.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The workload's share of a service's connections. A workload of capacity 0 gets no connections.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The services of which the workload is an endpoint, in order of their names.
    pub fn services(&self) -> &[Membership] {
        &self.template.services
    }

    /// The membership in `service`, if the workload is an endpoint of `service`.
    pub fn membership(&self, service: &ServiceName) -> Option<&Membership> {
        self.template.services.iter().find(|membership| membership.service == *service)
    }

    /// `namespace/name` of the selector-scoped policies bound to the workload.
    pub fn policies(&self) -> &[Box<str>] {
        &self.template.policies
    }

    /// The waypoint in front of the workload.
    pub fn waypoint(&self) -> Option<&Gateway> {
        self.template.waypoint.as_deref()
    }

    /// The gateway through which other networks reach the workload.
    pub fn network_gateway(&self) -> Option<&Gateway> {
        self.template.network_gateway.as_deref()
    }

    /// How the application receives its connections, if not as plain TCP.
    pub fn application_tunnel(&self) -> Option<ApplicationTunnel> {
        self.template.application_tunnel
    }

    /// The canonical service in telemetry.
    pub fn canonical_name(&self) -> &str {
        self.template.owner.canonical_name.as_deref().unwrap_or(self.name())
    }

    /// The revision of the canonical service.
    pub fn canonical_revision(&self) -> &str {
        &self.template.owner.canonical_revision
    }

    /// The name of the workload's owner, such as a deployment.
    pub fn workload_name(&self) -> &str {
        self.template.owner.workload_name.as_deref().unwrap_or(self.name())
    }

    /// The kind of the workload's owner.
    pub fn workload_type(&self) -> WorkloadType {
        self.template.owner.workload_type
    }

    /// The rank among several workloads with one address (docs/spec/controlplane.md 2.4). The highest rank wins.
    pub(super) fn claim(&self) -> (bool, bool) {
        (self.uid.contains("//Pod/"), self.protocol() == TunnelProtocol::Hbone)
    }

    /// Replaces the parts of the workload by equal, shared parts.
    pub(super) fn map_parts(
        self,
        template: impl FnOnce(Arc<Template>) -> Arc<Template>,
        place: impl FnOnce(Arc<Place>) -> Arc<Place>,
    ) -> Self {
        Self { template: template(self.template), place: place(self.place), ..self }
    }
}

impl fmt::Debug for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workload")
            .field("uid", &self.uid)
            .field("addresses", &self.addresses())
            .field("hostname", &self.hostname())
            .field("status", &self.status)
            .field("capacity", &self.capacity)
            .field("place", &self.place)
            .field("template", &self.template)
            .finish()
    }
}

// === impl Place ===

impl Place {
    fn take(pb: &mut pb::Workload) -> Self {
        let locality = pb.locality.take().unwrap_or_default();
        let take = |text: &mut String| std::mem::take(text).into_boxed_str();
        Self {
            network: take(&mut pb.network),
            cluster_id: if pb.cluster_id.is_empty() {
                DEFAULT_CLUSTER.into()
            } else {
                take(&mut pb.cluster_id)
            },
            node: take(&mut pb.node),
            region: locality.region.into_boxed_str(),
            zone: locality.zone.into_boxed_str(),
            subzone: locality.subzone.into_boxed_str(),
        }
    }
}

// === impl Owner ===

impl Owner {
    fn take(pb: &mut pb::Workload) -> Self {
        let take = |text: &mut String| std::mem::take(text).into_boxed_str();
        let unless_own = |text: &mut String| (*text != pb.name).then(|| take(text));
        Self {
            canonical_name: unless_own(&mut pb.canonical_name),
            canonical_revision: take(&mut pb.canonical_revision),
            workload_name: unless_own(&mut pb.workload_name),
            workload_type: WorkloadType::decode(pb.workload_type),
        }
    }
}

/// The names, each once, in order.
fn distinct(names: Vec<String>) -> Box<[Box<str>]> {
    let mut all: Vec<Box<str>> = Vec::with_capacity(names.len());
    for name in names {
        if !all.iter().any(|known| **known == *name) {
            all.push(name.into());
        }
    }
    all.into()
}

// === impl Template ===

impl Template {
    fn decode(pb: pb::Workload, owner: Owner) -> Result<Self, DecodeError> {
        let or = |text: String, default: &'static str| if text.is_empty() { default.into() } else { text };
        let trust_domain = or(pb.trust_domain, DEFAULT_TRUST_DOMAIN);
        let service_account = or(pb.service_account, DEFAULT_SERVICE_ACCOUNT);
        let protocol = match pb::TunnelProtocol::try_from(pb.tunnel_protocol) {
            Ok(pb::TunnelProtocol::None) => TunnelProtocol::Tcp,
            Ok(pb::TunnelProtocol::Hbone) => TunnelProtocol::Hbone,
            Ok(pb::TunnelProtocol::LegacyIstioMtls) | Err(_) => {
                return Err(DecodeError::Unknown { field: "tunnel_protocol", value: pb.tunnel_protocol });
            }
        };
        let host_network = match pb::NetworkMode::try_from(pb.network_mode) {
            Ok(mode) => mode == pb::NetworkMode::HostNetwork,
            Err(_) => return Err(DecodeError::Unknown { field: "network_mode", value: pb.network_mode }),
        };
        let gateway = |field, pb: Option<pb::GatewayAddress>| {
            pb.map(|pb| Gateway::decode(field, pb).map(Box::new)).transpose()
        };
        Ok(Self {
            identity: Identity::new(&trust_domain, &pb.namespace, &service_account)?,
            owner,
            services: Membership::decode(pb.services)?,
            policies: distinct(pb.authorization_policies),
            waypoint: gateway("waypoint", pb.waypoint)?,
            network_gateway: gateway("network_gateway", pb.network_gateway)?,
            application_tunnel: pb.application_tunnel.as_ref().map(ApplicationTunnel::decode).transpose()?,
            protocol,
            native_tunnel: pb.native_tunnel,
            host_network,
        })
    }
}

// === impl Membership ===

impl Membership {
    fn decode(services: std::collections::HashMap<String, pb::PortList>) -> Result<Box<[Self]>, DecodeError> {
        let mut list = Vec::with_capacity(services.len());
        for (name, ports) in services {
            list.push(Self {
                service: ServiceName::decode("services", name)?,
                ports: Ports::decode("services", &ports.ports)?,
            });
        }
        // The wire has no order, but equal templates need equal lists.
        list.sort_unstable_by(|a, b| a.service.cmp(&b.service));
        Ok(list.into_boxed_slice())
    }
}

// === impl Addresses ===

impl Addresses {
    fn decode(list: &[Vec<u8>]) -> Result<Self, DecodeError> {
        const FIELD: &str = "addresses";
        if let [one] = list {
            return Ok(Self::One(decode::ip(FIELD, one)?));
        }
        let list = list.iter().map(|bytes| decode::ip(FIELD, bytes)).collect::<Result<_, _>>()?;
        Ok(Self::List(list))
    }
}

// === impl WorkloadType ===

impl WorkloadType {
    fn decode(value: i32) -> Self {
        match pb::WorkloadType::try_from(value) {
            Ok(pb::WorkloadType::Deployment) | Err(_) => Self::Deployment,
            Ok(pb::WorkloadType::Cronjob) => Self::CronJob,
            Ok(pb::WorkloadType::Pod) => Self::Pod,
            Ok(pb::WorkloadType::Job) => Self::Job,
        }
    }

    /// The lower-case name that telemetry and baggage use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

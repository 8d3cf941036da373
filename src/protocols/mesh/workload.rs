//! Workloads: the endpoints of the mesh, held compactly.
//!
//! A node proxy knows every endpoint of its mesh. What the replicas of one deployment have in common is one shared
//! `Template`, what the pods of one node have in common one shared [`Place`]; the writer interns both, so that a
//! workload itself is little more than its uid and address.

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
/// Built by decoding only. Two workloads are equal if all they say is.
#[derive(Clone, PartialEq, Eq)]
pub struct Workload {
    uid: Box<str>,
    template: Arc<Template>,
    place: Arc<Place>,
    addresses: Addresses,
    rare: Option<Box<RareFields>>,
    capacity: u32,
    /// Where in the uid the name is, if it is there.
    name: (u16, u16),
    status: Status,
}

/// What all replicas of a deployment share.
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

/// Who runs the workload, for telemetry. A name that is the pod's own is left out: bare pods, each its own owner,
/// could share no template otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Owner {
    canonical_name: Option<Box<str>>,
    canonical_revision: Box<str>,
    workload_name: Option<Box<str>>,
    workload_type: WorkloadType,
}

/// Where a workload runs: what load balancing compares.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The network; empty is the default one.
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

/// A service the workload is an endpoint of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    /// The service.
    pub service: ServiceName,
    /// The ports of this endpoint, which go before those of the service.
    pub ports: Ports,
}

/// What most workloads do not have.
#[derive(Clone, PartialEq, Eq)]
struct RareFields {
    /// The name, if it is no part of the uid.
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
    /// As it is.
    Tcp,
    /// Through HBONE.
    Hbone,
}

/// Whether a workload is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It is.
    Healthy,
    /// It is not.
    Unhealthy,
}

/// The kind of a workload's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkloadType {
    /// A deployment, or a kind that is not known.
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
    /// Checks and converts what the control plane sent; empty trust domain, service account and cluster get their
    /// defaults.
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

    /// The primary key; opaque, except that one that holds `//Pod/` is a pod's.
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

    /// Trust domain, namespace and service account as one.
    pub fn identity(&self) -> &Identity {
        &self.template.identity
    }

    /// Its own addresses, in the control plane's order; may be empty.
    pub fn addresses(&self) -> &[IpAddr] {
        match &self.addresses {
            Addresses::One(ip) => std::slice::from_ref(ip),
            Addresses::List(list) => list,
        }
    }

    /// The name to ask DNS for if there are no addresses.
    pub fn hostname(&self) -> Option<&Arc<str>> {
        self.rare.as_ref()?.hostname.as_ref()
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The network its addresses belong to; empty is the default one.
    pub fn network(&self) -> &str {
        &self.place.network
    }

    /// The node it runs on.
    pub fn node(&self) -> &str {
        &self.place.node
    }

    /// The cluster it runs in.
    pub fn cluster_id(&self) -> &str {
        &self.place.cluster_id
    }

    /// How it is reached.
    pub fn protocol(&self) -> TunnelProtocol {
        self.template.protocol
    }

    /// Whether it speaks HBONE by itself.
    pub fn native_tunnel(&self) -> bool {
        self.template.native_tunnel
    }

    /// Whether it has its node's address, so that the address says nothing about it.
    pub fn host_network(&self) -> bool {
        self.template.host_network
    }

    /// Whether it is ready.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Its share of a service's connections; 0 is none.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The services it is an endpoint of, in order of their names.
    pub fn services(&self) -> &[Membership] {
        &self.template.services
    }

    /// Its part in `service`, if it is an endpoint of it.
    pub fn membership(&self, service: &ServiceName) -> Option<&Membership> {
        self.template.services.iter().find(|membership| membership.service == *service)
    }

    /// `namespace/name` of the selector-scoped policies bound to it.
    pub fn policies(&self) -> &[Box<str>] {
        &self.template.policies
    }

    /// The waypoint in front of it.
    pub fn waypoint(&self) -> Option<&Gateway> {
        self.template.waypoint.as_deref()
    }

    /// The gateway through which it is reached from other networks.
    pub fn network_gateway(&self) -> Option<&Gateway> {
        self.template.network_gateway.as_deref()
    }

    /// How it wants its connections handed over, if not plainly.
    pub fn application_tunnel(&self) -> Option<ApplicationTunnel> {
        self.template.application_tunnel
    }

    /// The service it belongs to in telemetry.
    pub fn canonical_name(&self) -> &str {
        self.template.owner.canonical_name.as_deref().unwrap_or(self.name())
    }

    /// The revision of that service.
    pub fn canonical_revision(&self) -> &str {
        &self.template.owner.canonical_revision
    }

    /// The name of its owner, such as a deployment.
    pub fn workload_name(&self) -> &str {
        self.template.owner.workload_name.as_deref().unwrap_or(self.name())
    }

    /// The kind of its owner.
    pub fn workload_type(&self) -> WorkloadType {
        self.template.owner.workload_type
    }

    /// Which of several claimants of one address it is (docs/spec/controlplane.md 2.4): the highest wins.
    pub(super) fn claim(&self) -> (bool, bool) {
        (self.uid.contains("//Pod/"), self.protocol() == TunnelProtocol::Hbone)
    }

    /// The same workload, holding equal but shared parts.
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
            policies: pb.authorization_policies.into_iter().map(String::into_boxed_str).collect(),
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
        // The wire has no order; equal templates need one.
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
